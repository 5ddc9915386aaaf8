"""What is shown of statements: names and keywords, and no value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.wire.masking import LONGEST_SHOWN, MOST_READ, masked

SECRET = "opensesame"


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        (b"SELECT * FROM t WHERE id = \0 AND name=\0", "SELECT * FROM t WHERE id = $1 AND name=$2"),
        (b"SELECT  *\n\tFROM t -- note\n WHERE id = 5", "SELECT * FROM t WHERE id = ?"),
        (b"  SELECT 1", "SELECT ?"),
        (b"SELECT 'a''b', E'a\\'b', U&'\\0441', B'01', x'1f', N'n', $$a$$, $q$a$$b$q$", "SELECT ?, ..."),
        (b"SELECT 'a' AS x", "SELECT ? AS x"),
        (b"SELECT 'a'\n'b' AS x", "SELECT ? ? AS x"),
        (b'SELECT "a b", U&"x" FROM "T"', 'SELECT "a b", U&"x" FROM "T"'),
        (b"SELECT 1.5e-3, -4, .5, 1_000, 0x1F", "SELECT ?-?, -?, ..."),
        (b"SELECT a1, t2.b3 FROM t2", "SELECT a1, t2.b3 FROM t2"),
        (b"SELECT /* a /* nested */ secret */ 1", "SELECT ?"),
        (b"SELECT /* not closed 1", "SELECT"),
        (b"SELECT $1, $2", "SELECT $1, $2"),
        (b"SELECT 'not closed", "SELECT ..."),
        (b'SELECT "not closed', "SELECT ..."),
        (b"SELECT 1, 'O'Neil secret', x", "SELECT ?, ..."),
        (b"SELECT 1, 'O'Neil' secret', x'", "SELECT ?, ..."),
        (b"SELECT 1, 'a' 'not closed", "SELECT ?, ..."),
        (b"SELECT $q$ not closed $$", "SELECT ..."),
        (b"SELECT 'taken for an escape\\' secret', x", "SELECT ? ..."),
        (b"SELECT * FROM t WHERE id IN (1, 2, 3)", "SELECT * FROM t WHERE id IN (?, ...)"),
        (b"SELECT f(1, 2)", "SELECT f(?, ?)"),
        (b"INSERT INTO t VALUES (1, 2, 3), (4, 5, 6)", "INSERT INTO t VALUES (?, ...), ..."),
        (b"INSERT INTO t VALUES (1, 'a'), (2, 'b'),(\0, \0)", "INSERT INTO t VALUES (?, ?), ..."),
        (b"SET app.token = secret", "SET app.token = ?"),
        (b"set local app.token to secret", "set local app.token to ?"),
        (b"SELECT 1; SET a = secret; SELECT b", "SELECT ?; SET a = ?; SELECT b"),
        (b"ALTER ROLE r SET app.token = secret", "ALTER ROLE r SET app.token = ?"),
        (b"ALTER ROLE r PASSWORD 'secret'", "ALTER ROLE r PASSWORD ?"),
        (b"UPDATE t SET a = b WHERE c = 1", "UPDATE t SET a = b WHERE c = ?"),
        ("SELECT 'é' AS größe".encode(), "SELECT ? AS größe"),
        (b"SELECT \xff\xfe", "SELECT \ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_a_statement_is_shown_without_values(statement: bytes, shown: str) -> None:
    assert masked(statement) == shown


def test_a_long_statement_is_cut() -> None:
    shown = masked(b"SELECT " + b", ".join(b"c%d" % number for number in range(5000)))
    assert len(shown) == LONGEST_SHOWN + 3
    assert shown.endswith("...")
    assert masked(b"SELECT 'a', x" + b" " * MOST_READ) == "SELECT ?, x..."


def test_a_value_that_is_cut_in_the_middle_is_hidden() -> None:
    statement = b"SELECT " + b" " * (MOST_READ - 12) + b"'" + SECRET.encode() + b"'"
    assert SECRET[:3] not in masked(statement)


QUOTED = st.sampled_from(["'{}'", "E'{}'", "$${}$$", "$q${}$q$", "'it''s {}'", "/* {} */", "-- {}\n", "U&'{}'"])


@given(st.lists(st.tuples(st.sampled_from(["SELECT", ",", "x", "(", ")", "=", '"n"', " ", "\n"]), QUOTED)))
def test_no_quoted_value_is_ever_shown(parts: list[tuple[str, str]]) -> None:
    text = "".join(before + " " + quoted.format(SECRET) for before, quoted in parts)
    assert SECRET not in masked(text.encode())
    assert SECRET not in masked(f"{text} '{SECRET}".encode())


@given(st.binary(max_size=300))
def test_nothing_raises(statement: bytes) -> None:
    masked(statement)
