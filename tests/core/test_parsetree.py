"""The reader of node trees: real ones of three versions, cut ones, wrong ones, hostile ones."""

import random
from pathlib import Path

import pytest

from poold.core.statements import parsetree
from poold.core.statements.parsetree import Node, UnreadableTree, read, unwrapped

TREES = sorted((Path(__file__).parent / "trees").glob("*.txt"))


@pytest.mark.parametrize("path", TREES, ids=lambda path: path.stem)
def test_what_servers_log_is_read(path: Path) -> None:
    text = unwrapped(path.read_text())
    ((query,),), nodes = read(text)  # type: ignore[misc]  # a list of one value, which is a list of one
    assert isinstance(query, Node)
    assert query.kind == "QUERY"
    assert len(nodes) == text.count("{")


def test_words_keep_what_is_escaped_in_them() -> None:
    ((alias,), *_), _ = read(r'({ALIAS :aliasname a\ \{b\}\(\)\\ :colnames (":x" "y\ z")})')  # type: ignore[misc]
    assert alias.fields == {"aliasname": r"a\ \{b\}\(\)\\", "colnames": ['":x"', r'"y\ z"']}


def test_a_value_may_look_like_the_name_of_a_field() -> None:
    (alias,), _ = read("{ALIAS :aliasname :colnames :colnames <>}")
    assert isinstance(alias, Node)
    assert alias.fields == {"aliasname": ":colnames", "colnames": "<>"}


def test_the_bytes_of_a_constant_are_one_word() -> None:
    (const,), _ = read("{CONST :constvalue 4 [ 1 -2 0 0 ] :consttype 23}")
    assert isinstance(const, Node)
    assert const.fields == {"constvalue": "4 [ 1 -2 0 0 ]", "consttype": "23"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(",
        ")",
        "}",
        "()()",
        "({QUERY})}",
        "({QUERY :commandType})",
        "({QUERY commandType 1})",
        "({QUERY :commandType 1 :commandType 2})",
        "({QUERY :commandType 1 2})",
        "({QUERY :nothing 1})",
        "({NOTHING :x 1})",
        "({})",
        "({QUERY :commandType )",
        "({QUERY :commandType (})",
        "({query :commandType 1})",
    ],
)
def test_what_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(UnreadableTree):
        read(text)


@pytest.mark.parametrize("path", TREES, ids=lambda path: path.stem)
def test_a_tree_that_is_cut_off_is_refused(path: Path) -> None:
    text = path.read_text().strip()
    for end in range(0, len(text), 7):
        with pytest.raises(UnreadableTree):
            read(unwrapped(text[:end]))


def test_a_changed_tree_is_read_or_refused_and_nothing_else() -> None:
    chance = random.Random(11)
    texts = [path.read_text() for path in TREES]
    refused = 0
    for _ in range(2_000):
        text = chance.choice(texts)
        at, length = chance.randrange(len(text)), chance.randrange(12)
        piece = chance.choice(["", "{", "}", "(", ")", ":", "\\", " ", "\n", "<>", "{CONST", "4 [ 1", "9" * 30])
        try:
            read(unwrapped(text[:at] + piece + text[at + length :]))
        except UnreadableTree:
            refused += 1
    assert refused > 500


def test_deep_nesting_and_size_are_bounded_without_recursion() -> None:
    with pytest.raises(UnreadableTree):
        read("(" * 50_000)
    with pytest.raises(UnreadableTree):
        read("({QUERY :cteList " * 5_000)
    value, _ = read("(" * 50_000 + ")" * 50_000)
    assert len(value) == 1
    with pytest.raises(UnreadableTree, match="too large"):
        read("{BOOLEXPR :args (" * (parsetree.MAX_NODES + 1))
    with pytest.raises(UnreadableTree, match="too large"):
        read(" " * (parsetree.MAX_CHARACTERS + 1))
    depth = parsetree.MAX_NODES
    _, nodes = read("{BOOLEXPR :args (" * depth + ")}" * depth)
    assert len(nodes) == depth


def test_a_word_that_the_server_may_have_cut_in_two_is_refused() -> None:
    # Lines are cut at a blank if there is one, else after 78 bytes, in the middle of a word.
    with pytest.raises(UnreadableTree, match="longer than a line"):
        unwrapped("({ALIAS :aliasname\n" + "x" * 78 + "\nyz :colnames <>})")
    with pytest.raises(UnreadableTree, match="longer than a line"):
        unwrapped("({ALIAS :aliasname\n" + "\\\n" * 39 + "\nyz :colnames <>})")
    with pytest.raises(UnreadableTree, match="longer than a line"):
        unwrapped("({ALIAS :aliasname\n" + "\N{BUG}" * 20 + " :colnames <>})")
    assert unwrapped("({ALIAS :aliasname\nx\n:colnames\n<>})") == "({ALIAS :aliasname x :colnames <>})"


def test_numbers_are_those_of_a_field_or_a_list() -> None:
    assert list(parsetree.numbers("23")) == [23]
    assert list(parsetree.numbers("0")) == []
    assert list(parsetree.numbers("<>")) == []
    assert list(parsetree.numbers(["o", "23", "0", "25"])) == [23, 25]
    for wrong in ("x", ["o", "x"], Node("CONST"), [Node("CONST")]):
        with pytest.raises(UnreadableTree):
            parsetree.numbers(wrong)
