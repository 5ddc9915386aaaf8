"""Constants and names as PostgreSQL reads them, in each spelling that it takes; it was asked what they mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poold.core.statements.lexemes import NAME, OTHER, STRING, WORD, lexemes, names_moment, sets_relied_on
from poold.core.statements.sql import MAX_TOKENS


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT Now", [(WORD, "select"), (WORD, "now")]),
        ('"Now"', [(NAME, "Now")]),
        ('"a""b"', [(NAME, 'a"b')]),
        ("'it''s'", [(STRING, "it's")]),
        ("''", [(STRING, "")]),
        ("'a\\x'", [(STRING, "a\\x")]),
        (r"E'\x6e\157\n\'\\'", [(STRING, "no\n'\\")]),
        (r"e'\u00e9\U0000006e'", [(STRING, "\u00e9n")]),
        (r"E'a''b\'c'", [(STRING, "a'b'c")]),
        ("E'n'\n'\\x6fw'", [(STRING, "now")]),
        (r"U&'\006e\+00006f\\'", [(STRING, "no\\")]),
        (r'u&"\0061b"', [(NAME, "ab")]),
        ("U&'\\006e'\n'\\006f'", [(STRING, "no")]),
        ("'no'\n'w'", [(STRING, "now")]),
        ("'no' \r\n\t'w'", [(STRING, "now")]),
        ("'no' -- it goes on\n'w'", [(STRING, "now")]),
        ("'no'\n-- it goes on\n  'w'", [(STRING, "now")]),
        ("'no' 'w'", [(STRING, "no"), (STRING, "w")]),
        ("'no' /* \n */ 'w'", [(STRING, "no"), (STRING, "w")]),
        ("$$no'w$$", [(STRING, "no'w")]),
        ("$a$no$$w$a$", [(STRING, "no$$w")]),
        ("u & 'a'", [(WORD, "u"), (OTHER, "&"), (STRING, "a")]),
        ("u&a", [(WORD, "u"), (OTHER, "&"), (WORD, "a")]),
        ("u", [(WORD, "u")]),
        ("u &", [(WORD, "u"), (OTHER, "&")]),
        ("a=1", [(WORD, "a"), (OTHER, "="), (OTHER, "1")]),
        ("'open", [(STRING, "open")]),
        ("$$open", [(STRING, "open")]),
        ("", []),
    ],
)
def test_quotes_are_taken_off_and_parts_put_together(statement: str, expected: list[tuple[str, str]]) -> None:
    assert [(kind, text.decode()) for kind, text in lexemes(statement.encode())] == expected


MOMENTS = [
    "'now'",
    "'NoW'",
    "' today '",
    "'\ttomorrow\n'",
    "'yesterday'",
    "'today 10:00'",
    "'today10:00'",
    "'10:00 tomorrow'",
    "'yesterday allballs'",
    "'now UTC'",
    "'{now,2001-01-01}'",
    "'[today,tomorrow)'",
    "'no'\n'w'",
    "'no' -- x\n 'w'",
    r"E'n\x6fw'",
    r"E'\156ow'",
    r"E'n\u006fw'",
    "E'n'\n'\\x6fw'",
    r"U&'n\006fw'",
    r"u&'n\+00006fw'",
    "U&'n!006fw' UESCAPE '!'",
    "U&'n!006fw' uescape E'!'",
    "$$now$$",
    "$a$today 04:05 UTC$a$",
]


@pytest.mark.parametrize("constant", MOMENTS)
@pytest.mark.parametrize("place", ["SELECT {}::timestamptz", "SELECT timestamptz {}", "SELECT a FROM t WHERE at > {}"])
def test_a_constant_that_is_read_as_a_moment_is_seen_in_any_spelling(constant: str, place: str) -> None:
    assert names_moment(place.format(constant).encode())


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT now()",
        "SELECT now",
        'SELECT "today" FROM t',
        "SELECT 'know'",
        "SELECT 'nowhere', 'todays'",
        "SELECT 'no' 'w'",
        "SELECT 'epoch', 'infinity', 'allballs'",
        "SELECT 1 -- 'now'",
        "SELECT 'a' /* 'now' */",
        "SELECT \0 FROM t WHERE a = 'b'",
        "SELECT 'no', 'w'",
    ],
)
def test_what_is_no_moment_may_be_prepared(statement: str) -> None:
    assert not names_moment(statement.encode())


SETTERS = [
    "SET datestyle = 'German'",
    "set DateStyle to german",
    "SET LOCAL IntervalStyle = 'iso_8601'",
    "SET SESSION standard_conforming_strings = off",
    'SET "DateStyle" = x',
    'SET "client_encoding" = x',
    'SET U&"\\0064atestyle" = x',
    "SET U&\"!0064atestyle\" UESCAPE '!' = x",
    "SET NAMES 'latin1'",
    "SET LOCAL NAMES 'latin1'",
    "SET client_encoding TO x",
    "/* x */ SET -- y\n datestyle = x",
    "SELECT 1; SET datestyle = x",
    "UPDATE t SET a = 1; SET datestyle = x",
    "SELECT set_config('datestyle', \0, false)",
    "SELECT pg_catalog.set_config('Client_Encoding', \0, true)",
    "SELECT \"set_config\"('client_encoding', \0, true)",
    "SELECT set_config('date'\n'style', \0, true)",
    "SELECT set_config('date' -- x\n'style', \0, true)",
    r"SELECT set_config(E'\x64atestyle', '', true)",
    r"SELECT set_config(U&'\0064atestyle', '', true)",
    "SELECT set_config(U&'!0064atestyle' UESCAPE '!', '', true)",
    "SELECT set_config($$intervalstyle$$, '', true)",
    r"""SELECT U&"set\005fconfig"('intervalstyle', '', true)""",
    "UPDATE pg_settings SET setting = 'x' WHERE name = 'DateStyle'",
    "UPDATE pg_catalog.pg_settings SET setting = 'x' WHERE name = 'DateStyle'",
    "DO $$ BEGIN SET datestyle = x; END $$",
    "DO 'BEGIN PERFORM set_config(''datestyle'', ''x'', false); END'",
    "CREATE FUNCTION f() RETURNS int SET datestyle = x LANGUAGE sql AS 'SELECT 1'",
    "ALTER ROLE a SET datestyle = x",
    "SET client_encoding = 'LATIN1'",
    "SET client_encoding = 'UTF8', 'LATIN1'",
    "SET client_encoding = DEFAULT",
    "SET client_encoding 'UTF8'",
    "SET client_encoding",
    "SET client_encoding FROM CURRENT",
    "SET client_encoding = on",
    "SET client_encoding = \0",
    "SET client_encoding = U&'!0075tf8' UESCAPE '!'",
    "SET client_encoding = 'UTF8'; SET client_encoding = 'LATIN1'",
    "SET client_encoding = 'UTF8'; SELECT set_config('datestyle', \0, false)",
    "SET NAMES",
    "SET NAMES = 'utf8'",
    "SET NAMES DEFAULT",
    "SET standard_conforming_strings = off",
    "SET standard_conforming_strings = utf8",
    "SET standard_conforming_strings TO on, off",
    "CREATE FUNCTION f() RETURNS int SET client_encoding = 'UTF8' LANGUAGE sql AS 'SELECT 1'",
]


@pytest.mark.parametrize("statement", SETTERS)
def test_what_changes_a_setting_that_literals_rely_on_is_seen_in_any_spelling(statement: str) -> None:
    assert sets_relied_on(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "SET search_path = datestyle",
        "SET application_name = 'about datestyle'",
        "SHOW datestyle",
        "SELECT current_setting('datestyle')",
        "SELECT set_config('a.b', \0, true)",
        "SELECT * FROM pg_settings WHERE name = 'DateStyle'",
        "UPDATE pg_settings SET setting = 'x' WHERE name = 'work_mem'",
        "UPDATE prefs SET datestyle = \0 WHERE id = \0",
        "UPDATE people SET names = \0",
        "WITH a AS (SELECT 1) UPDATE people SET names = \0",
        "INSERT INTO prefs (datestyle) VALUES (\0) ON CONFLICT (id) DO UPDATE SET datestyle = excluded.datestyle",
        "INSERT INTO docs VALUES ('how datestyle is set') ON CONFLICT DO NOTHING",
        "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN UPDATE SET names = u.names",
        "INSERT INTO t SELECT names FROM settings",
        "SELECT 'SET datestyle = x'",
        "SELECT 1 -- SET datestyle = x",
        "SET client_encoding = 'UTF8'",
        "SET client_encoding TO utf8;",
        "set session CLIENT_ENCODING = 'utf-8' ;",
        "SET LOCAL client_encoding = 'UTF8'",
        "SET NAMES 'utf8'",
        "SET standard_conforming_strings = on",
        "SET standard_conforming_strings TO 'on'",
        "SET statement_timeout = 0;\nSET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\nSELECT 1",
    ],
)
def test_what_changes_none_of_them_is_left_alone(statement: str) -> None:
    assert not sets_relied_on(statement.encode())


PIECES = ["U&", "u", "&", "E", "'", "''", '"', "$$", "$a$", "\\", "\\x", "\\u00", "\\+0", "\n", " ", "--", "/*", "*/"]
PIECES += ["now", "set", "datestyle", "set_config", "uescape", ";", "do", "é", "\0", "6f", "\\777", "\\uffff", "\\d800"]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=40))
def test_any_text_is_read_without_an_error(text: str) -> None:
    statement = text.encode("utf-8", "replace")
    assert all(kind in (WORD, NAME, STRING, OTHER) for kind, _ in lexemes(statement))
    assert names_moment(statement) in (True, False)
    assert sets_relied_on(statement) in (True, False)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_without_an_error(statement: bytes) -> None:
    for read in (names_moment, sets_relied_on):
        assert read(b"set names " + statement) in (True, False)
        assert read(b"E'\\" + statement) in (True, False)


@given(st.sampled_from(["now", "today"]), st.data())
def test_a_moment_is_seen_however_its_letters_are_written(word: str, data: st.DataObject) -> None:
    def written(letter: str) -> str:
        code = ord(letter)
        forms = [letter, letter.upper(), f"\\x{code:02x}", f"\\{code:03o}", f"\\u{code:04x}", f"\\U{code:08x}"]
        return data.draw(st.sampled_from(forms)) + data.draw(st.sampled_from(["", "", "'\n'", "' -- x\n '"]))

    assert names_moment(f"SELECT E'{''.join(map(written, word))}'".encode())


@pytest.mark.parametrize(
    "piece", ["'" + "a" * 40 + "'\n", "''", "U&'\\0061' ", "u&", "'a' -- x\n", "E'\\x61", "$$a$$ ", "\n' ", '"', "' \t"]
)
def test_a_megabyte_of_one_thing_is_read(piece: str) -> None:
    """What is quadratic would take minutes."""
    statement = b"SELECT set_config(" + piece.encode() * (1_000_000 // len(piece))
    assert not names_moment(statement)
    assert not sets_relied_on(statement)
    assert sum(1 for _ in lexemes(statement)) <= MAX_TOKENS
