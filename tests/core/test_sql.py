"""What a statement's text tells: tokens, traits, and what speaks against preparing it.

A NUL is a parameter, as in the statements themselves. What column positions and tokens mean, PostgreSQL 15 was asked.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poold.core.statements.sql import MAX_BYTES, MAX_PARAMETERS, MAX_TOKENS, Traits, examine, tokens

INT2, INT4, INT8, NUMERIC, TEXT, UNKNOWN = 21, 23, 20, 1700, 25, 0

NOT_PREPARABLE = "not a statement that can be prepared"
INSIDE = "a parameter inside a string, quoted name or comment"
GLUED = "a parameter glued to another token"
POSITION = "a parameter for a column position"
INTO = "SELECT INTO makes a table"
SETTINGS = "changes settings"
MEGABYTE = 1_000_000


def traits(statement: str, oid: int = INT4) -> Traits:
    encoded = statement.encode()
    return examine(encoded, oid.to_bytes(4, "big") * encoded.count(0))


def obstacle(statement: str, oid: int = INT4) -> str:
    return traits(statement, oid).obstacle


def texts(statement: str) -> list[str]:
    return [text.decode() for _, text, _, _ in tokens(statement.encode())]


# Tokens.


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT a+1 ;", ["SELECT", "a", "+", "1", ";"]),
        ("a$b$c $$x$$", ["a$b$c", "$$x$$"]),
        ("é€_1 x", ["é€_1", "x"]),
        ("'it''s' x", ["'it'", "'s'", "x"]),
        ("'a\\' x", ["'a\\'", "x"]),
        (r"E'a\' b' x", [r"E'a\' b'", "x"]),
        (r"e'a\\' x", [r"e'a\\'", "x"]),
        (r"e'a''\'' x", [r"e'a'", r"'\''", "x"]),
        ("E'a'\n'b\\'c' x", ["E'a'", "'b\\'c'", "x"]),
        ("E'a' -- '\n 'b\\'c' x", ["E'a'", "'b\\'c'", "x"]),
        ("E'a', 'b\\' x", ["E'a'", ",", "'b\\'", "x"]),
        ("the'b\\' x", ["the", "'b\\'", "x"]),
        ("U&'\\0061' x", ["U", "&", "'\\0061'", "x"]),
        ("B'01' X'1F' N'a'", ["B", "'01'", "X", "'1F'", "N", "'a'"]),
        ('"a""b; c" x', ['"a"', '"b; c"', "x"]),
        ("$$a'b$c$$ x", ["$$a'b$c$$", "x"]),
        ("$a$ $b$ $$ $a$ x", ["$a$ $b$ $$ $a$", "x"]),
        ("$a$ $$a$ x", ["$a$ $$a$", "x"]),
        ("$A$ $a$ $A$ x", ["$A$ $a$ $A$", "x"]),
        ("$é$'$é$ x", ["$é$'$é$", "x"]),
        ("$1$a$'$a$", ["$1", "$a$'$a$"]),
        ("$12 $x y", ["$12", "$", "x", "y"]),
        ("1.5 .5 2. 1e5", ["1.5", ".", "5", "2.", "1", "e5"]),
        ("a --b\nc --d\re --f", ["a", "c", "e"]),
        ("1 - -2", ["1", "-", "-", "2"]),
        ("a /* b /* c */ d */ e", ["a", "e"]),
        ("@/* ' */ -5 */", ["@", "-", "5", "*", "/"]),
        ("/*/*/*/ */ */ */ a", ["a"]),
        ("+-- x\n2", ["+", "2"]),
        ("\0 = a", ["\0", "=", "a"]),
    ],
)
def test_tokens_are_postgresqls(statement: str, expected: list[str]) -> None:
    assert texts(statement) == expected


@pytest.mark.parametrize(
    "rest", ["'a; b", "E'a; b", "E'a\\", '"a; b', "$$a; b", "$a$a; b$A$", "E'a' 'b; \\' c", "'a''; b", '"a""; b']
)
def test_what_is_not_closed_goes_to_the_end(rest: str) -> None:
    assert "".join(texts(f"x {rest}")).endswith(rest.removeprefix("E'a' "))
    assert ";" not in texts(rest)


@pytest.mark.parametrize("rest", ["-- a; b", "/* a; b", "/* /* a; b */"])
def test_a_comment_that_is_not_closed_goes_to_the_end(rest: str) -> None:
    assert texts(f"x {rest}") == ["x"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [("word", "a$1"), ("name", '"a"'), ("number", "1.5"), ("parameter", "$1"), ("string", "'a'"), ("string", "$a$b$a$"),
     ("escaped", "E'a'"), ("mark", "("), ("mark", "\0")],
)  # fmt: skip
def test_each_token_has_its_kind_and_place(kind: str, text: str) -> None:
    assert list(tokens(f"  {text} ".encode())) == [(kind, text.encode(), 2, 2 + len(text))]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "INSERT INTO t VALUES (1, 'it''s', 2.5), (NULL, E'a\\'b', -3);",
            ["INSERT", "INTO", "t", "VALUES", "dull", ";"],
        ),
        ("VALUES ('2020-01-01'::date, ARRAY[1, 2], true, DEFAULT)", ["VALUES", "dull"]),
        ("SELECT 1. INTO t", ["SELECT", "dull", "INTO", "t"]),
        ("VALUES (now(), 1)", ["VALUES", "(", "now", "dull", ")"]),
        ("SELECT 1 --'\n, 2 /* ' */", ["SELECT", "dull", "dull"]),
        ("SELECT E'a'\n'b\\'; c', 1", ["SELECT", "E'a'", "'b\\'; c'", ",", "dull"]),
        ("SELECT nullable, trues", ["SELECT", "nullable", "dull", "trues"]),
    ],
)
def test_constants_in_a_row_are_one_token_when_skimmed(statement: str, expected: list[str]) -> None:
    found = [kind if kind == "dull" else text.decode() for kind, text, _, _ in tokens(statement.encode(), True)]
    assert found == expected


# Verb, and how many statements.


@pytest.mark.parametrize(
    ("statement", "verb"),
    [
        ("SELECT 1", "SELECT"),
        ("select 1", "SELECT"),
        ("  /* x */ -- y\n\tInsert INTO t VALUES (1)", "INSERT"),
        ("((SELECT 1) UNION (SELECT 2))", "SELECT"),
        ("( /* x */ ( VALUES (1)))", "VALUES"),
        ("WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a", "WITH"),
        ("; SELECT 1", "SELECT"),
        ("COMMIT; SELECT 1", "COMMIT"),
        ("(1); SELECT 1", ""),
        ("'SELECT'", ""),
        ('"select" 1', ""),
        ("\0 SELECT", ""),
        ("(((", ""),
        ("", ""),
        ("-- SELECT", ""),
    ],
)
def test_the_verb_is_the_first_keyword(statement: str, verb: str) -> None:
    assert traits(statement).verb == verb


@pytest.mark.parametrize("statement", ["", " \n\t", ";", " ; ;; ", "-- SELECT 1", "/* a; /* b */ */", "; -- x\n;/**/"])
def test_blanks_comments_and_semicolons_are_an_empty_statement(statement: str) -> None:
    assert traits(statement) == Traits("", "empty", False, False, False, True, False)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "SELECT 1;",
        "SELECT 1 ; -- x\n ;;/* y; */",
        ";SELECT 1",
        "SELECT ';' || E'\\';' || \";\".a || $$;$$ || $a$;$$;$a$ -- ;\n /* ; /* ; */ ; */ FROM \";\"",
        "SELECT E'a'\n'\\'; SELECT 2'",
        "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b)",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;",
        "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC DELETE FROM t; END",
        "CREATE VIEW v AS SELECT atomic FROM t",
        "SELECT begin atomic FROM t",
    ],
)
def test_one_statement_is_one(statement: str) -> None:
    assert not traits(statement).is_several
    assert not traits(statement).controls_transaction
    assert traits(f"{statement}; COMMIT").is_several
    assert traits(f"{statement}; COMMIT").controls_transaction


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1; SELECT 2",
        "SELECT 'a\\'; SELECT 2",
        "BEGIN; ATOMIC",
        "SELECT 1);SELECT 2",
        "a$$;b$$",
        "SELECT x$a$; b",
    ],
)
def test_several_statements_are_several_and_are_not_prepared(statement: str) -> None:
    assert traits(statement).is_several
    assert obstacle(statement) == "several statements"


# What statements do.


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM t",
        "TABLE t",
        "VALUES (1)",
        "SHOW work_mem",
        "(SELECT 1)",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "EXPLAIN SELECT 1",
        "SELECT 'INSERT', \"update\", a.delete, b AS into FROM t -- INTO x\n",
        "SELECT deleted, update FROM t",
        "SELECT substring(a FOR 3), share FROM t",
        "SELECT 1; VALUES (2)",
        "SELECT a AS into, t.into FROM t",
    ],
)
def test_queries_do_not_write(statement: str) -> None:
    assert not traits(statement).writes


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "MERGE INTO t USING s ON true WHEN MATCHED THEN DO NOTHING",
        "CREATE TABLE t ()",
        "CALL p()",
        "DO $$ SELECT $$",
        "COPY t FROM STDIN",
        "NOTIFY c",
        "EXPLAIN ANALYZE SELECT 1",
        "EXPLAIN (ANALYSE) CREATE TABLE a AS SELECT 1",
        "WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a",
        "WITH a AS (SELECT 1) insert INTO t SELECT * FROM a",
        "(WITH a AS (UPDATE t SET b = 1 RETURNING *) TABLE a)",
        "WITH a AS (SELECT 1) MERGE INTO t USING a ON true WHEN MATCHED THEN DO NOTHING",
        "SELECT * INTO a FROM t",
        "SELECT 1. INTO a",
        "SELECT 1 AS b INTO a",
        "SELECT * FROM t FOR UPDATE",
        "SELECT * FROM t FOR NO KEY UPDATE",
        "SELECT * FROM t FOR SHARE",
        "SELECT * FROM t FOR KEY /**/ SHARE",
        "SELECT * FROM (SELECT * FROM t for update) x",
        "SELECT 1; DELETE FROM t",
    ],
)
def test_what_may_write_or_locks_rows_writes(statement: str) -> None:
    assert traits(statement).writes


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("COPY t TO STDOUT", True),
        ("copy (SELECT 1) TO STDOUT", True),
        ("SELECT 1; /* x */ COPY t FROM STDIN", True),
        ("SELECT copy FROM t", False),
        ("SELECT 'COPY t FROM STDIN'", False),
        ("SELECT '; COPY t FROM STDIN'", False),
        ("/* COPY */ SELECT 1", False),
    ],
)
def test_copy_is_found_wherever_a_statement_begins(statement: str, expected: bool) -> None:
    assert traits(statement).is_copy is expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("BEGIN", True),
        ("start TRANSACTION READ ONLY", True),
        ("COMMIT", True),
        ("END", True),
        ("ROLLBACK TO s", True),
        ("ABORT", True),
        ("SAVEPOINT s", True),
        ("RELEASE s", True),
        ("PREPARE TRANSACTION 'a'", True),
        ("PREPARE p AS SELECT 1", False),
        ("SELECT prepare transaction FROM t", False),
        ("SELECT 1;COMMIT;", True),
        ("SELECT CASE WHEN a THEN 1 END", False),
        ("SELECT 1 AS begin, '; COMMIT'", False),
        ("DO $$ BEGIN; COMMIT; END $$", False),
        ("SET TRANSACTION READ ONLY", False),
    ],
)
def test_transaction_control_is_told_wherever_a_statement_begins(statement: str, expected: bool) -> None:
    assert traits(statement).controls_transaction is expected


# What speaks against preparing.


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT \0",
        "SELECT * FROM t WHERE a = \0 AND b IN (\0, \0)",
        "INSERT INTO t (a, b) VALUES (\0,\0), (\0, \0) ON CONFLICT (a) DO UPDATE SET b = \0 RETURNING a, \0",
        "UPDATE t SET a=\0 WHERE b>=\0;",
        "DELETE FROM t WHERE a[\0:\0] = ARRAY[\0,\0]",
        "MERGE INTO t USING s ON t.a = \0 WHEN MATCHED THEN DELETE",
        "VALUES (\0)",
        "WITH a AS (SELECT \0) SELECT * FROM a",
        "(SELECT \0::int)",
        "TABLE t",
        "SELECT -\0, \0/**/+/**/\0 -- x\n,\n\0--x",
        "SELECT pg_notify(\0, \0)",
        "SELECT flags_u&\0, 1 &\0",
        "SELECT a AS into, t.into FROM t",
        "SELECT 'set_config', settings FROM config",
    ],
)
def test_what_is_plain_may_be_prepared(statement: str) -> None:
    assert obstacle(statement) == ""


@pytest.mark.parametrize(
    "statement",
    ["SET a = \0", "EXPLAIN SELECT \0", "CALL p(\0)", "CREATE TABLE t ()", "COPY t FROM STDIN", "SHOW a",
     "DO \0", "NOTIFY c", "EXECUTE p(\0)", "COMMIT", "FETCH 1 FROM c", "((", "\0", "'SELECT'"],
)  # fmt: skip
def test_what_is_no_query_is_not_prepared(statement: str) -> None:
    assert obstacle(statement) == NOT_PREPARABLE


def test_an_empty_statement_is_not_prepared() -> None:
    assert obstacle("-- nothing") == "empty"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT interval '\0 days'",
        "SELECT 'a''\0'",
        "SELECT E'a\\'\0'",
        "SELECT E'a'\n'\\'\0'",
        "SELECT U&'\0'",
        'SELECT "\0"',
        'SELECT "a""\0"',
        "SELECT $$ \0 $$",
        "SELECT $a$ \0 $a$",
        "SELECT 1 -- \0",
        "SELECT 1 /* \0 */",
        "SELECT 1 /* /* */ \0 */",
        "SELECT \0, 'open \0",
    ],
)
def test_a_parameter_inside_of_something_is_not_prepared(statement: str) -> None:
    assert obstacle(statement) == INSIDE


@pytest.mark.parametrize(
    "glued",
    ["E\0", "t\0", "\0abc", "\0\0", "\0'x'", "'x'\0", '"x"\0', '\0"x"', "U&\0", "u&\0", "N\0", "B\0", "1\0", "\0" + "1",
     "1.\0", "\0.5", "\0.x", "é\0", "\0é", "_\0", "$\0", "\0$", "\0$a$x$a$", "$$x$$\0"],
)  # fmt: skip
def test_a_parameter_glued_to_a_token_is_not_prepared(glued: str) -> None:
    assert obstacle(f"SELECT {glued} FROM t") == GLUED
    assert obstacle(f"SELECT ({glued})") == GLUED


@pytest.mark.parametrize(
    "near", ["(\0)", ",\0,", "=\0", "\0::int", "[\0]", "/**/\0/**/", "\n\0\n", "--x\n\0--", "<\0;"]
)
def test_operators_blanks_and_comments_do_not_glue(near: str) -> None:
    assert obstacle(f"SELECT {near}") == ""


POSITIONS = [
    "SELECT a FROM t ORDER BY \0",
    "SELECT a FROM t ORDER BY \0;",
    "SELECT a FROM t order /**/ by -- x\n \0",
    "SELECT a FROM t ORDER BY a, \0 DESC",
    "SELECT a FROM t ORDER BY \0, a",
    "SELECT a FROM t ORDER BY \0 ASC NULLS LAST",
    "SELECT a FROM t ORDER BY \0 NULLS FIRST",
    "SELECT a FROM t ORDER BY \0 USING <",
    "SELECT a FROM t ORDER BY \0 LIMIT 1",
    "SELECT a FROM t ORDER BY \0 FETCH FIRST ROW ONLY",
    "SELECT a FROM t ORDER BY \0 FOR SHARE",
    "SELECT a FROM t ORDER BY (\0)",
    "SELECT a FROM t ORDER BY ((\0)), a",
    "SELECT a FROM t ORDER BY -\0",
    "SELECT a FROM t ORDER BY f(a, b), (a + 1) DESC, \0",
    "SELECT a FROM t ORDER BY a[\0], \0",
    "SELECT a FROM t UNION SELECT b FROM t ORDER BY \0",
    "VALUES (2), (1) ORDER BY \0",
    "TABLE t ORDER BY \0",
    "SELECT * FROM (SELECT a FROM t ORDER BY \0) x",
    "SELECT a FROM t ORDER BY (SELECT b FROM s ORDER BY \0) + 1",
    "SELECT a FROM t WHERE a IN (SELECT b FROM s GROUP BY \0) AND b = \0",
    "SELECT a FROM t GROUP BY \0",
    "SELECT a FROM t GROUP BY \0 HAVING a > \0",
    "SELECT a FROM t GROUP BY a, (\0)",
    "SELECT a, b FROM t GROUP BY (a, \0)",
    "SELECT a FROM t GROUP BY DISTINCT \0",
    "SELECT a FROM t GROUP BY ALL \0",
    "SELECT a FROM t GROUP BY ROLLUP (a, \0)",
    "SELECT a FROM t GROUP BY b, CUBE(\0)",
    "SELECT a FROM t GROUP BY GROUPING SETS ((a), (b, \0))",
    "SELECT a FROM t GROUP BY GROUPING SETS (a, ROLLUP (\0), ())",
    "INSERT INTO s SELECT a FROM t GROUP BY \0 ON CONFLICT DO NOTHING",
    "SELECT DISTINCT ON (\0) a FROM t",
    "SELECT DISTINCT ON (\0) * FROM t",
    "SELECT DISTINCT ON (a, \0) +b FROM t",
    "SELECT DISTINCT ON ((\0)) a FROM t",
]


@pytest.mark.parametrize("statement", POSITIONS)
@pytest.mark.parametrize("oid", [INT2, INT4, INT8, NUMERIC])
def test_a_number_as_a_column_position_is_not_prepared(statement: str, oid: int) -> None:
    assert obstacle(statement, oid) == POSITION


@pytest.mark.parametrize("statement", POSITIONS)
@pytest.mark.parametrize("oid", [TEXT, UNKNOWN])
def test_what_is_no_number_is_no_column_position(statement: str, oid: int) -> None:
    assert obstacle(statement, oid) == ""


def test_each_parameter_has_its_own_type() -> None:
    statement, number, text = b"SELECT a FROM t WHERE b = \0 ORDER BY \0", INT4.to_bytes(4, "big"), bytes(4)
    assert examine(statement, text + number).obstacle == POSITION
    assert examine(statement, number + text).obstacle == ""


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT a FROM t ORDER BY a LIMIT \0 OFFSET \0",
        "SELECT a FROM t ORDER BY a FETCH FIRST \0 ROWS ONLY",
        "SELECT a FROM t ORDER BY f(\0), coalesce(a, \0, \0)",
        "SELECT a FROM t ORDER BY a + \0, \0 * a, - \0 + a, (\0) - a",
        "SELECT a FROM t ORDER BY \0::int, \0 IN (a), \0 BETWEEN a AND b, \0 OPERATOR(pg_catalog.+) a, +\0",
        "SELECT a FROM t ORDER BY \0 AND a, \0 OR a, \0 NOT IN (a), \0 IS NULL, \0 ISNULL, \0 NOTNULL",
        "SELECT a FROM t ORDER BY \0 AT TIME ZONE a, \0 COLLATE c, \0 LIKE a, \0 ILIKE a, \0 SIMILAR TO a",
        "SELECT a FROM t ORDER BY a = \0, a IN (\0, \0), ARRAY[\0, \0, \0], a[\0]",
        "SELECT a FROM t ORDER BY CASE WHEN \0 THEN \0 ELSE \0 END",
        "SELECT a FROM t ORDER BY (SELECT b, \0 FROM s LIMIT \0)",
        "SELECT a FROM t GROUP BY a HAVING count(*) > \0 AND a IN (\0, \0)",
        "SELECT a FROM t GROUP BY a UNION SELECT b, \0 FROM s",
        "SELECT a, \0 FROM t GROUP BY a UNION VALUES (\0, \0)",
        "INSERT INTO t SELECT a FROM s GROUP BY a RETURNING a, \0",
        "INSERT INTO t SELECT a FROM s GROUP BY a ON CONFLICT (a) DO UPDATE SET (a, b) = (\0, \0) RETURNING a, \0",
        "SELECT f(a ORDER BY b), \0, (\0) FROM t",
        "SELECT sum(a) OVER (PARTITION BY b ORDER BY a ROWS \0 PRECEDING), \0 FROM t",
        "SELECT percentile_cont(\0) WITHIN GROUP (ORDER BY a), \0 FROM t",
        "SELECT DISTINCT ON (a) \0, \0 FROM t",
        "SELECT DISTINCT \0, a FROM t",
        "SELECT a IS DISTINCT FROM \0, \0 FROM t JOIN s ON (\0)",
        "SELECT a FROM t GROUP BY ROW(\0, \0)",
    ],
)
def test_a_number_elsewhere_is_no_column_position(statement: str) -> None:
    assert obstacle(statement) == ""


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT * INTO s FROM t", INTO),
        ("SELECT a, \0 into temp s FROM t", INTO),
        ("WITH a AS (SELECT 1) SELECT * INTO s FROM a", INTO),
        ("INSERT /* x */ INTO s SELECT * FROM t", ""),
        ("WITH a AS (INSERT INTO s VALUES (1) RETURNING *) TABLE a", ""),
        ("MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE", ""),
        ("SELECT 'INTO', \"into\" FROM t", ""),
        ("SELECT set_config('a.b', \0, false)", SETTINGS),
        ("SELECT pg_catalog . SET_CONFIG (\0, \0, \0)", SETTINGS),
        ('SELECT pg_catalog."set_config"(\0, \0, \0)', SETTINGS),
        ("SELECT set_configuration(\0), current_setting(\0)", ""),
        ("SELECT $1, \0", "$1 in the text"),
        ("SELECT '$1', $$ $1 $$, a$1, \0", ""),
    ],
)
def test_disguised_utilities_and_foreign_parameters_are_not_prepared(statement: str, expected: str) -> None:
    assert obstacle(statement) == expected


def test_a_statement_too_long_to_keep_is_not_prepared_and_still_examined() -> None:
    longest = "SELECT '".ljust(MAX_BYTES - 1, "x") + "'"
    assert obstacle(longest) == ""
    assert obstacle(longest + ";") == "too long to keep"
    long = traits(f"{longest}, \0; COPY t FROM STDIN; SET a = 1; COMMIT")
    assert long == Traits("SELECT", "too long to keep", True, True, True, False, True)


def test_too_many_parameters_are_not_prepared() -> None:
    most = "SELECT " + ", ".join(["\0"] * MAX_PARAMETERS)
    assert obstacle(most) == ""
    assert obstacle(most + ", \0") == "too many parameters"


# Strangers' bytes.

FRAGMENTS = (
    "SELECT", "INTO", "AS", "ORDER BY", "GROUP BY", "DISTINCT ON", "NULL", "END", "x", "é", "E'", "e'a\\'b',", "'",
    "''", '"', "\\", "$", "$$", "$a$", "$1", "1", "1.", ".", "::", ":", "-", "--", "/", "/*", "*/", "\n", " ", ";", ",",
    "(", ")", "[", "]", "+", "\0", "(1, 'a')", "U&",
)  # fmt: skip
texts_like_sql = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(lambda parts: "".join(parts).encode())
statements = st.binary() | texts_like_sql


@given(statements, st.binary())
def test_no_bytes_raise(statement: bytes, types: bytes) -> None:
    found = examine(statement, types)
    assert not (found.is_empty and found.is_several)
    assert not found.verb or not found.is_empty


@given(statements)
def test_tokens_lie_in_order_and_only_blanks_and_comments_are_left_out(statement: bytes) -> None:
    end = 0
    for kind, text, begin, following in [*tokens(statement), ("", b"", len(statement), len(statement))]:
        gap = statement[end:begin].strip(b" \t\n\r\f\v")
        assert not gap or gap.startswith((b"--", b"/*"))
        assert text == statement[begin:following]
        assert following > begin or not kind
        end = following


@given(statements)
def test_skimming_leaves_out_nothing_but_constants(statement: bytes) -> None:
    plain, skimmed = list(tokens(statement)), list(tokens(statement, True))
    dull = [(begin, end) for kind, _, begin, end in skimmed if kind == "dull"]
    inside = [token for token in plain if any(begin <= token[2] and token[3] <= end for begin, end in dull)]
    assert [token for token in plain if token not in inside] == [token for token in skimmed if token[0] != "dull"]
    assert not {kind for kind, _, _, _ in inside} & {"name", "parameter"}
    assert not {text for _, text, _, _ in inside} & {b";", b"SELECT", b"INTO", b"END"} or b"::" in statement
    assert sum((text == b"(") - (text == b")") for _, text, _, _ in inside) == 0


@pytest.mark.parametrize(
    ("unit", "count"),
    [
        ("(", 100_000),
        (";", 100_000),
        ("\\", 100_000),
        ("a ", 50_000),
        ("'", 50_000),
        ('"', 50_000),
        ("$", 25_000),
        ("E'", 25_000),
        ("$a$", 16_667),
        ("$a", 2),
        (" ", 0),
        ("-", 0),
        ("/*", MAX_TOKENS + 1),
        ("/**/", 0),
    ],
)
def test_any_length_of_one_thing_has_its_number_of_tokens(unit: str, count: int) -> None:
    statement = (unit.encode() * MAX_BYTES)[:MAX_BYTES]
    assert sum(1 for _ in tokens(statement)) == count
    assert sum(1 for _ in tokens(statement, True)) <= count
    is_read = count <= MAX_TOKENS
    assert (obstacle(statement.decode()) == "empty") is (is_read and (count == 0 or unit == ";"))


@pytest.mark.parametrize("unit", ["(", "'", "/*", "$a$", "$", " ", "\0", "(1, "])
def test_a_megabyte_of_one_thing_is_examined(unit: str) -> None:
    found = examine(unit.encode() * (MEGABYTE // len(unit)), b"")
    assert found.obstacle == "too long to keep"
    assert found.is_empty is (unit == " ")
    assert found.is_read is (unit in (" ", "\0"))


@pytest.mark.parametrize(
    ("opening", "unit"),
    [("'", "a"), ("E'", "\\"), ("E'", "a"), ("E'", "\\'"), ('"', "'"), ("$a$", "$"), ("$a$", "$a "), ("$$", "$a$ ")],
)
def test_a_megabyte_in_quotes_is_one_token(opening: str, unit: str) -> None:
    statement = (opening + unit * (MEGABYTE // len(unit))).encode()
    assert sum(1 for _ in tokens(statement)) == 1
    assert sum(1 for _ in tokens(statement, True)) == 1


def test_deep_nesting_is_no_recursion() -> None:
    depth = MAX_TOKENS // 2 - 100
    assert obstacle("(" * depth + "SELECT a ORDER BY \0" + ")" * depth) == POSITION
    assert obstacle("SELECT a ORDER BY " + "(" * depth + "\0" + ")" * depth) == POSITION
    assert obstacle("SELECT a ORDER BY " + "[" * depth + "\0" + "]" * depth) == ""
    assert obstacle("SELECT " + "/*" * depth + "\0") == INSIDE


def test_the_rows_of_a_bulk_insert_are_few_tokens() -> None:
    row = "(1, 'it''s', 2.5, NULL, '2020-01-01'::date, E'a\\n'::text, ARRAY[1, -2], true)"
    statement = ("INSERT INTO t VALUES " + ", ".join([row] * 10_000) + "; COMMIT").encode()
    assert sum(1 for _ in tokens(statement, True)) < 100
    assert examine(statement, b"").controls_transaction
