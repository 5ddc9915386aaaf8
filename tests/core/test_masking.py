"""Statements that differ by values alone are one, and no value is shown."""

import pytest

from poold.core.statements.masking import MASKED_BYTES, joined, masked

CASES = {
    b"SELECT * FROM t WHERE a = 5 AND b='x''y' AND c = E'a\\'b'": b"SELECT * FROM t WHERE a = ? AND b=? AND c = ?",
    b"SELECT a1, t2.b FROM t2": b"SELECT a1, t2.b FROM t2",
    b"SELECT \0, \0 -- why\n FROM t;": b"SELECT ?, ... FROM t",
    b"SELECT 1 /* trace 77 */ FROM t": b"SELECT ? FROM t",
    b"/* trace 78 */ SELECT 1 FROM t": b"SELECT ? FROM t",
    b"INSERT INTO t VALUES (1,'a'), (2, 'b'),(3, \0)": b"INSERT INTO t VALUES (?, ...), ...",
    b"SELECT * FROM t WHERE id IN (1, 2,3)": b"SELECT * FROM t WHERE id IN (?, ...)",
    b"SELECT f(-5), -1.5e10 < x, a - 5": b"SELECT f(?), ? < x, a - ?",
    b"SELECT $$it's$$, $t$ $$ 'q' $t$, 'z'": b"SELECT ?, ...",
    b"SELECT \"5 'x'\", U&'d\\0061t'": b"SELECT \"5 'x'\", U&?",
    b"SELECT 'never ends": b"SELECT ?",
    b"SELECT $$never ends": b"SELECT ?",
    b"SELECT  a,\n\tb": b"SELECT a, b",
    "SELECT größe FROM straße WHERE name = 'ä'".encode(): "SELECT größe FROM straße WHERE name = ?".encode(),
    b"ALTER ROLE app PASSWORD 'secret'": b"ALTER ROLE app PASSWORD ?",
    b"": b"",
}


@pytest.mark.parametrize("statement", CASES, ids=repr)
def test_values_are_left_out_and_nothing_else(statement: bytes) -> None:
    assert masked(statement) == CASES[statement]


def test_a_long_text_is_cut_in_front_of_what_it_would_show() -> None:
    text = masked(b"SELECT " + b"'" + b"secret" * MASKED_BYTES)
    assert text == b"SELECT ? ..."
    assert len(masked(b"SELECT " + b"a, " * MASKED_BYTES)) <= MASKED_BYTES + 4


@pytest.mark.parametrize("part", [b"(", b"'a'", b"$a$ $b$", b"a1'", b"/*", b"--", b"e'", b"- 1", b'"', b"\\", b"\0"])
def test_any_text_is_read_to_its_end(part: bytes) -> None:
    assert len(masked(part * 5000)) <= 2 * MASKED_BYTES


def test_statements_in_a_row_that_are_the_same_are_one() -> None:
    assert joined([b"a", b"a", b"a", b"b", b"a"]) == b"a; ...; b; a"
    assert joined([b"a", b"a"]) == joined([b"a"] * 40) == b"a; ..."
    assert joined([b"x" * 600] + [b"y%d" % n for n in range(1000)]).endswith(b"; ...")
