"""Proofs from captured trees, with made-up answers of the catalogs; real ones are in test_proofs_on_servers."""

import re
from pathlib import Path

import pytest
from examined import data_rows

from poold.core.statements.proof_query import MAX_ANSWER
from poold.core.statements.proofs import MAX_OIDS, MAX_ROUNDS, UNPROVEN, Examination, Proof

TREES = Path(__file__).parent / "trees"
VERSIONS = ("15", "16", "18")
CHECK = (
    "{OPEXPR :opno 521 :opfuncid 147 :opresulttype 16 :opretset false :opcollid 0 :inputcollid 0 :args ({FUNCEXPR"
    " :funcid 77777 :funcresulttype 23 :funcretset false :funcvariadic false :funcformat 0 :funccollid 0 :inputcollid"
    " 0 :args <> :location 1} {CONST :consttype 23 :consttypmod -1 :constcollid 0 :constlen 4 :constbyval true"
    " :constisnull false :location 20 :constvalue 4 [ 0 0 0 0 0 0 0 0 ]}) :location 18}"
)


def tree(name: str, version: str = "18") -> str:
    return (TREES / f"{name}-{version}.txt").read_text()


def examined(name: str, *answers: list[tuple[str, str]], version: str = "18") -> Proof:
    examination = Examination(tree(name, version))
    for answer in answers:
        assert examination.question() is not None
        examination.answered(data_rows(answer))
    assert examination.question() is None
    return examination.proof


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one", Proof(is_harmless=True, is_plain_read=True)),
        ("join", Proof(is_harmless=True, is_plain_read=True)),
        ("by-key", Proof(is_harmless=True, is_plain_read=True, may_be_generic=True)),
        ("lock", Proof(is_harmless=True, why="locks rows")),
        ("insert", Proof(is_harmless=True, uses_sequences=True, may_be_generic=True, why="writes")),
        ("upsert", Proof(is_harmless=True, uses_sequences=True, why="writes")),
        ("update", Proof(is_harmless=True, may_be_generic=True, why="writes")),
    ],
)
def test_what_the_catalogs_have_nothing_against_is_proven(name: str, expected: Proof, version: str) -> None:
    answer = [("U", "")] if expected.may_be_generic and name != "insert" else []
    answer += [("S", "")] if expected.uses_sequences else []  # the default of a serial column
    assert examined(name, answer, version=version) == expected


@pytest.mark.parametrize("kind", "FTDMKGL")
def test_whatever_the_catalogs_object_to_is_unproven_and_may_call_anything(kind: str) -> None:
    proof = examined("by-key", [(kind, "the thing"), ("U", "")])
    assert not proof.is_harmless
    assert not proof.is_plain_read
    assert proof.calls_unknown
    assert proof.may_be_generic
    assert proof.why


@pytest.mark.parametrize("kind", "BR")
def test_what_is_seen_to_leave_something_calls_nothing_unknown(kind: str) -> None:
    proof = examined("by-key", [(kind, "set_config")])
    assert not proof.is_harmless
    assert not proof.calls_unknown
    assert "set_config" in proof.why


def test_a_function_that_asks_for_more_than_data_makes_no_plain_read() -> None:
    proof = examined("by-key", [("P", "txid_current")])
    assert proof.is_harmless
    assert not proof.is_plain_read
    assert "txid_current" in proof.why


def test_the_trees_of_checks_are_examined_with_another_question() -> None:
    examination = Examination(tree("update"))
    examination.answered(data_rows([("X", CHECK)]))
    question = examination.question()
    assert question is not None
    assert re.search(rb"\b77777\b", question.text)
    assert examination.proof == UNPROVEN
    examination.answered(data_rows([("F", "evil")]))
    assert examination.question() is None
    assert not examination.proof.is_harmless


@pytest.mark.parametrize("check", ["{COERCETODOMAIN :arg 1}", "({QUERY :commandType 1})", "garbage{"])
def test_a_check_that_cannot_be_read_leaves_the_statement_unproven(check: str) -> None:
    assert not examined("update", [("X", check)]).is_harmless


def test_what_was_asked_is_not_asked_again_and_the_rounds_end() -> None:
    examination = Examination(tree("by-key"))
    examination.answered(data_rows([("f", "65"), ("o", "96")]))
    assert examination.question() is None
    assert examination.proof.is_harmless
    examination = Examination(tree("by-key"))
    rounds = 0
    while examination.question() is not None:
        rounds += 1
        examination.answered(data_rows([("f", str(70_000 + rounds))]))
    assert rounds == MAX_ROUNDS
    assert not examination.proof.is_harmless


@pytest.mark.parametrize(
    "rows",
    [
        b"garbage",
        b"D",
        b"D\x00\x00\x00\x06\x00\x01",
        data_rows([("F", None)]),
        data_rows([("?", "x")]),
        data_rows([("f", "x")]),
        data_rows([("H", "1")]),
        data_rows([("P", "x")])[:-1],
        data_rows([("P", "x" * MAX_ANSWER)]),
    ],
)
def test_an_answer_that_makes_no_sense_proves_nothing(rows: bytes) -> None:
    examination = Examination(tree("by-key"))
    examination.answered(rows)
    assert examination.question() is None
    assert not examination.proof.is_harmless


@pytest.mark.parametrize("text", ["", "(", "<>", "garbage", "({QUERY :commandType 1})", "\x00", "(" * 50_000, "(())"])
def test_a_text_that_is_no_tree_proves_nothing_and_asks_nothing(text: str) -> None:
    examination = Examination(text)
    assert examination.question() is None
    assert not examination.proof.is_harmless
    assert examination.proof.calls_unknown


@pytest.mark.parametrize("version", VERSIONS)
def test_a_tree_with_any_field_of_the_query_missing_or_changed_never_raises(version: str) -> None:
    text = tree("upsert", version)
    for match in re.finditer(r":\w+ (\S+)", text):
        for instead in ("", "<>", "-1", "()", "(o 1 x)", "{CONST}", "99999999999999999999"):
            examination = Examination(text[: match.start(1)] + instead + text[match.end(1) :])
            examination.question()
            assert not examination.proof.is_plain_read


def test_a_statement_that_names_too_many_oids_is_not_asked_about() -> None:
    text = tree("one").replace(":consttype 23", ":consttype 23", 1)
    types = " ".join(str(20_000 + number) for number in range(MAX_OIDS + 1))
    text = text.replace(":rtable <>", f":rtable ({{RANGETBLENTRY :rtekind 5 :coltypes (o {types})}})")
    examination = Examination(text)
    assert examination.question() is None
    assert "too many" in examination.proof.why


def test_types_of_parameters_that_are_built_in_need_no_question() -> None:
    examination = Examination("garbage", [23, 1186])
    assert examination.question() is None
    assert examination.holds_interval
    assert not examination.has_domain
    assert Examination("garbage", [1187]).holds_interval
    assert not Examination("garbage", [23, 25]).holds_interval


def test_other_types_of_parameters_are_asked_about_even_if_the_statement_is_unproven() -> None:
    examination = Examination("garbage", [20_000])
    question = examination.question()
    assert question is not None
    assert b"20000" in question.text
    assert examination.holds_interval
    assert examination.has_domain
    examination.answered(data_rows([("O", "")]))
    assert examination.question() is None
    assert not examination.holds_interval
    assert examination.has_domain
    assert not examination.proof.is_harmless
