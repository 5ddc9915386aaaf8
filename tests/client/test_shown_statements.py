"""What is shown of statements, and what they are counted by: names and keywords, and no value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.wire.masking import LONGEST_SHOWN, MOST_COUNTED, MOST_READ, masked, shape

SECRET = "opensesame"


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        (b"SELECT * FROM t WHERE id = \0 AND name=\0", "SELECT * FROM t WHERE id = $1 AND name=$2"),
        (b"SELECT  *\n\tFROM t -- note\n WHERE id = 5", "SELECT * FROM t WHERE id = ?"),
        (b"  SELECT 1", "SELECT ?"),
        (b"SELECT 'a''b', E'a\\'b', U&'\\0441', B'01', x'1f', N'n', $$a$$, $q$a$$b$q$", "SELECT ?, ..."),
        (b"SELECT 'a' AS x", "SELECT ? AS x"),
        (b"SELECT 'a'\n'b' AS x", "SELECT ? AS x"),
        (b"SELECT 'a' 'b' AS x", "SELECT ? ? AS x"),
        (b'SELECT "a b", U&"x" FROM "T"', 'SELECT "a b", U&"x" FROM "T"'),
        (b"SELECT 1.5e-3, -4, .5, 1_000, 0x1F", "SELECT ?, ..."),
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
        (b"SELECT a LIKE 'x' ESCAPE '\\', b = 'y' -- c", "SELECT a LIKE ? ESCAPE ?, b = ?"),
        (b"SELECT a - 5, f(-5), a->-1, x = - \0", "SELECT a - ?, f(?), a->?, x = $1"),
        (b"SELECT * FROM t WHERE id IN (1, 2, 3)", "SELECT * FROM t WHERE id IN (?, ...)"),
        (b"SELECT f(1, 2)", "SELECT f(?, ?)"),
        (b"INSERT INTO t VALUES (1, 2, 3), (4, 5, 6)", "INSERT INTO t VALUES (?, ...), ..."),
        (b"INSERT INTO t VALUES (1, 'a'), (2, 'b'),(\0, \0)", "INSERT INTO t VALUES (?, ?), ..."),
        (b"SET app.token = secret", "SET app.token = ?"),
        (b"set local app.token to secret", "set local app.token to ?"),
        (b"SELECT 1; SET a = secret; SELECT b", "SELECT ?; SET a = ?; SELECT b"),
        (b"ALTER ROLE r SET app.token = secret", "ALTER ROLE r SET app.token = ?"),
        (b"SET TIME ZONE secret", "SET TIME ZONE ?"),
        (b"SET SESSION a.b TO 1, x; SELECT b", "SET SESSION a.b TO ?; SELECT b"),
        (b"SET a secret", "SET a ?"),
        (b"SET LOCAL transaction.token = secret", "SET LOCAL transaction.token = ?"),
        (b"SET TRANSACTION READ ONLY", "SET TRANSACTION READ ONLY"),
        (b"SET SESSION AUTHORIZATION r", "SET SESSION AUTHORIZATION r"),
        (b"SET LOCAL ROLE r", "SET LOCAL ROLE r"),
        (b"ALTER TABLE t ALTER c SET DEFAULT a", "ALTER TABLE t ALTER c SET DEFAULT a"),
        (b"ALTER TABLE t ALTER c SET NOT NULL", "ALTER TABLE t ALTER c SET NOT NULL"),
        (b"CREATE ROLE r PASSWORD 'x' LOGIN", "CREATE ROLE r PASSWORD ? LOGIN"),
        (b"CREATE ROLE r PASSWORD NULL LOGIN", "CREATE ROLE r PASSWORD NULL LOGIN"),
        (b"CREATE TABLE t (password text)", "CREATE TABLE t (password text)"),
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


HIDING = [
    "SELECT E'it\\'s {}'",
    "SELECT E'a'\n'\\'{}', 'b'",
    "SELECT E'a' -- b ' \n '\\'{}', 'b'",
    "SELECT e'a''\\'{}'",
    "SELECT 'a' -- c ' \n'{}'",
    "SELECT 'a\\' , '{}'",
    "SELECT 'it\\'s {}', 'b'",
    "SELECT '\\' {}', '\\' b'",
    "SELECT U&'{}!0041' UESCAPE '!'",
    "SELECT $ä${}$ä$, $a$ $$ {} $a$, $$a$$$${}$$, $1$a${}$a$, 1$a${}$a$",
    "SELECT a$b$c, '{}', b$c$d",
    "SELECT /* /* nested '{} */ {} */ 1",
    "SELECT /* /* */ ' */ '{}'",
    "SELECT /* a /* it's */ {} */ '{}', 'it''s'",
    "SELECT 'a' || /*/ '{}' /*/ */ */ 'b'",
    "SELECT +/* ' */ '{}' --{}",
    "SELECT -- it's\r '{}'",
    "SELECT \"a'b\", '{}', \"c'd\"",
    "SELECT '{}",
    "SELECT 'a', \"not closed {}",
    "SELECT 'a', $tag$ {}",
    "SELECT /* not closed {}",
    "SELECT 'O'{}', 'x'",
    "SELECT 'O' {}', x",
    "DO 'BEGIN PERFORM ''{}''; END'",
    "SELECT 0x{0}, 1{}, 1.5{}, 1e+5{}, $1{}",
    "SET application_name TO {}, {}x",
    'SET LOCAL my.secret TO "{}"',
    "/* x */ SET my.secret = {}",
    'SET my . "x y" = {} {}; SELECT 1',
    "SET my.secret {}",
    "SELECT 1; SET LOCAL my.x = {}",
    "BEGIN;SET SESSION my.x={};COMMIT",
    "ALTER ROLE r SET my.secret = {}",
    'ALTER USER r IN DATABASE d SET my.secret TO "{}"',
    "ALTER ROLE ALL SET my.secret /* x */ TO -- y\n {}",
    "ALTER SYSTEM SET my.secret = {}",
    "ALTER DATABASE d SET my.secret TO {}, {}",
    "ALTER FUNCTION f(int) COST 5 SET my.y TO {} SET my.z = {}",
    "ALTER ROUTINE f SET TIME ZONE {}",
    "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql SET my.y = {} AS 'SELECT 1'",
    "CREATE PROCEDURE f() SET my.y TO \"{}\" LANGUAGE sql BEGIN ATOMIC SELECT '{}'; END",
    "create function f() returns int set a.b.c from current set my.y to {} return 1",
    "CREATE USER r PASSWORD {}",
    'ALTER ROLE r ENCRYPTED PASSWORD "{}"',
    "CREATE USER MAPPING FOR r SERVER s OPTIONS (password '{}')",
]


@pytest.mark.parametrize("form", HIDING)
def test_no_value_is_shown_whatever_its_form(form: str) -> None:
    text = form.replace("{}", SECRET).encode()
    for shown in (masked(text), shape(text).decode()):
        assert SECRET not in shown
        assert shown.split()[0].rstrip(";") in text.decode()


COUNTED = {
    b"SELECT * FROM t WHERE a = 5 AND b='x''y' AND c = E'a\\'b'": b"SELECT * FROM t WHERE a = ? AND b=? AND c = ?",
    b"SELECT a1, t2.b FROM t2": b"SELECT a1, t2.b FROM t2",
    b"SELECT \0, \0 -- why\n FROM t;": b"SELECT ?, ... FROM t",
    b"SELECT 1 /* trace 77 */ FROM t": b"SELECT ? FROM t",
    b"/* trace 78 */ SELECT 1 FROM t": b"SELECT ? FROM t",
    b"INSERT INTO t VALUES (1,'a'), (2, 'b'),(3, \0)": b"INSERT INTO t VALUES (?, ...), ...",
    b"SELECT * FROM t WHERE id IN (1, 2,3)": b"SELECT * FROM t WHERE id IN (?, ...)",
    b"SELECT * FROM t WHERE id IN (\0,\0)": b"SELECT * FROM t WHERE id IN (?, ...)",
    b"SELECT f(-5), -1.5e10 < x, a - 5": b"SELECT f(?), ? < x, a - ?",
    b"SELECT $$it's$$, $t$ $$ 'q' $t$, 'z'": b"SELECT ?, ...",
    b"SELECT \"5 'x'\", U&'d\\0061t', n'x', b'1', e": b"SELECT \"5 'x'\", ?, ..., e",
    b"SELECT  a,\n\tb": b"SELECT a, b",
    "SELECT größe FROM straße WHERE name = 'ä'".encode(): "SELECT größe FROM straße WHERE name = ?".encode(),
    b"SAVEPOINT sa_savepoint_12": b"SAVEPOINT sa_savepoint_?",
    b'ROLLBACK TO SAVEPOINT "s140_x7"': b'ROLLBACK TO SAVEPOINT "s?_x?"',
    b"RELEASE s1; SAVEPOINT s2": b"RELEASE s?; SAVEPOINT s?",
    b"FETCH 2000 FROM poold_stream_7": b"FETCH ? FROM poold_stream_?",
    b'FETCH FORWARD 5 FROM "c_7f3a_1"': b'FETCH FORWARD ? FROM "c_?_?"',
    b"CLOSE c9": b"CLOSE c?",
    b"DECLARE c9 CURSOR FOR SELECT a9 FROM t9": b"DECLARE c? CURSOR FOR SELECT a9 FROM t9",
    b"SET search_path TO a, b": b"SET search_path TO ?",
    b"": b"",
}


@pytest.mark.parametrize("statement", COUNTED, ids=repr)
def test_statements_that_differ_by_values_alone_are_counted_as_one(statement: bytes) -> None:
    assert shape(statement) == COUNTED[statement]


def test_of_a_long_statement_a_part_is_counted_and_a_token_at_its_end_is_read_to_its_own() -> None:
    long = b"secret" * MOST_COUNTED
    assert shape(b"SELECT '" + long + b"'") == b"SELECT ?"
    assert shape(b"SELECT '" + long + b"', '" + long) == b"SELECT ? ..."
    assert shape(b"SELECT /*" + long + b"*/ b") == b"SELECT ..."
    assert shape(b'SELECT "' + long + b'"') == b"SELECT ..."
    assert len(shape(b"SELECT " + b"a, " * MOST_COUNTED)) <= MOST_COUNTED + 4


@pytest.mark.parametrize(
    "part",
    [
        *(b"(", b"'a'", b"$a$ $b$", b"a1'", b"/*", b"--", b"e'", b"- 1", b'"', b"\\", b"\0", b";", b"; SET ", b"'' "),
        *(b"'\n'", b"ALTER ROLE r SET ", b"1e", b"(1)", b"1,", b"FETCH ", b"/", b"u&'", b"$1", b"e'\\", b"a . "),
    ],
)
def test_any_text_is_read_to_its_end(part: bytes) -> None:
    assert len(shape(part * 5000)) <= 2 * MOST_COUNTED
    assert len(masked(part * 5000)) <= LONGEST_SHOWN + 3


@given(
    st.lists(
        st.sampled_from(["'", '"', "$$", "$a$", "/*", "*/", "--", "\n", " ", "x", "1", "E'", "\\", ";", "-", "SET"])
    )
)
def test_what_is_counted_holds_no_constant(parts: list[str]) -> None:
    """A shape is its own shape, blanks and what doubt has hidden apart: so no constant is left in it."""
    found = shape("".join(parts).encode())
    if b"..." not in found:
        again = shape(found.replace(b"?", b" 1 "))
        assert again.replace(b" ", b"") == found.replace(b" ", b"")


@given(st.binary(max_size=300))
def test_nothing_raises(statement: bytes) -> None:
    masked(statement)
    shape(statement)
