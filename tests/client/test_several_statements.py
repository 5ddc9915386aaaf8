"""Whether a text holds one statement, as PostgreSQL's lexer would find it."""

import pytest

from client.values.statements import is_single

ONE = (
    b"", b"SELECT 1", b"SELECT 1;", b"SELECT 1;;  -- x; y\n ; /* a /* b */ ; c */", b"SELECT ';'", b"SELECT 'a'';b'",
    b"SELECT $$;$$", b"SELECT $a$;$$;$a$", b'SELECT 1 AS ";x"', b"SELECT E'\\';DELETE'", b"SELECT E'a''\\';x'",
    b"SELECT e'a'\n'\\';x'", b"/* ; */ SELECT 1", b"-- ;\nSELECT 1", b"SELECT foo$1$;", b"SELECT U&'\\0041;'",
    b"SELECT 'not closed; x", b"SELECT $$ not closed; x", b"/* not closed ; x", b"SELECT E'not closed; x",
)  # fmt: skip
SEVERAL = (
    b"SELECT 1; DELETE", b"SELECT 1;;SELECT", b"SELECT ';'; x", b"SELECT $$;$$;x", b"SELECT 'x\\'; DELETE",
    b"SELECT 1;/**/x", b"SELECT 1;--\nx", b"SELECT E'\\\\'; x", b"SELECT a$$ ; x $$", b"SELECT ne'\\'; x'",
    b"SELECT 1;'", b"SELECT $1; x", b"SELECT 1;$$", b"SELECT 'a' 'b\\'; x'",
)  # fmt: skip


@pytest.mark.parametrize("sql", ONE)
def test_one_statement(sql: bytes) -> None:
    assert is_single(sql)


@pytest.mark.parametrize("sql", SEVERAL)
def test_several_statements(sql: bytes) -> None:
    assert not is_single(sql)
