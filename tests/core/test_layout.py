"""Tables fit the terminal: texts give way, then columns, then rows; no number is cut, and nothing left out unsaid."""

import pytest
from rich.cells import cell_len

from poold.operations.cells import cell, counted, cut, duration, fitted, folded, number
from poold.operations.layout import Column, Room, Table, render

TEXT = Column("text", is_text=True, least=6)


def table(rows: int = 3, more: int = 0) -> Table:
    made = Table("a title", [Column("n"), TEXT, Column("big", 1), Column("huge", 2)], more=more)
    for place in range(rows):
        made.add(place, "some words that are long", 123456, 123456789)
    return made


def test_without_a_terminal_all_is_there() -> None:
    lines = render([table(50)], Room())
    assert len(lines) == 52
    assert lines[2].split() == ["0", "some", "words", "that", "are", "long", "123456", "123456789"]


def test_what_nobody_has_sent_is_counted_without_a_terminal_as_well() -> None:
    assert render([table(2, more=7)], Room())[-1] == "7 more are not shown"


@pytest.mark.parametrize("width", range(20, 60))
def test_no_line_is_wider_and_no_number_is_cut(width: int) -> None:
    lines = render([table()], Room(width, 40))
    assert max(map(len, lines)) <= width
    for place, line in enumerate(lines[2:]):
        numbers = [word for word in line.split() if word.isdigit()]
        assert numbers[0] == str(place)
        assert set(numbers[1:]) <= {"123456", "123456789"}


def test_texts_are_cut_before_columns_leave_and_the_highest_rank_leaves_first() -> None:
    assert "some words that are long" in render([table()], Room(47, 40))[2]
    assert render([table()], Room(40, 40))[1].split() == ["n", "text", "big", "huge"]
    assert "…" in render([table()], Room(40, 40))[2]
    assert render([table()], Room(26, 40))[1].split() == ["n", "text", "big"]


@pytest.mark.parametrize("height", range(8, 40))
def test_all_tables_fit_the_screen_and_say_what_is_missing(height: int) -> None:
    lines = render([table(20), table(5), table(1)], Room(80, height + 3), 3)
    assert len(lines) <= height
    rows = sum(line.endswith("123456789") for line in lines)
    missing = sum(int(line.split()[0]) for line in lines if "are not shown" in line)
    tables = lines.count("a title")
    assert rows + missing == sum((20, 5, 1)[:tables])


def test_a_table_that_has_room_is_whole() -> None:
    lines = render([table(3, more=2)], Room(80, 8))
    assert len(lines) == 6
    assert lines[-1] == "2 more are not shown"


def test_texts_of_strangers_steer_no_terminal_and_wide_ones_count_as_what_they_take() -> None:
    made = Table("t", [TEXT, Column("n")])
    made.add("\x1b[2J\n", 1)
    made.add("漢字漢字漢字", 2)
    lines = render([made], Room(20, 10))
    assert "\x1b" not in "".join(lines)
    assert lines[2] == "\\x1b[2J\\n     1"
    assert lines[3].endswith("2")


def test_the_lines_around_tables_are_folded_and_say_if_there_is_no_room_for_all() -> None:
    lines = ["word " * 30] * 9
    found = fitted(lines, 40, 3)
    assert len(found) == 3
    assert max(map(len, found)) <= 40
    assert found[-1].endswith("…")
    assert " ".join(fitted(lines, 40, None)).split() == ["word"] * 270
    assert fitted(["word " * 30], None, None) == ["word " * 30]


@pytest.mark.parametrize("width", range(8, 50))
def test_a_folded_text_has_all_its_words_and_no_line_is_wider(width: int) -> None:
    text = "lane: compiled, 9 requests, averyveryverylongwordindeed 漢字漢字漢字漢字漢字漢字 12345678"
    lines = folded(text, width, "  ")
    assert max(map(cell_len, lines)) <= width
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert folded("", width) == []


def test_numbers_and_times_are_for_people() -> None:
    assert [number(each) for each in (0.0, 0.01234, 12.345, 999.4, 1234.5, 1234567.0)] == [
        "0", "0.0123", "12.3", "999", "1234", "1234567",
    ]  # fmt: skip
    times = (None, 0.2, 12.4, 1500.0, 75_000.0, 7_500_000.0, 300_000_000.0)
    assert [duration(each) for each in times] == [None, "0.2ms", "12ms", "1.5s", "1m15s", "2h05m", "3d11h"]
    assert [cell(None), cell(7), cell(0.5)] == ["-", "7", "0.5"]
    assert [counted(each, "client") for each in (0, 1, 2)] == ["0 clients", "1 client", "2 clients"]
    assert [cut("abcd", width) for width in (4, 3)] == ["abcd", "ab…"]


# What is not dropped.

WORKERS = [
    Column("group", is_text=True, least=8), Column("age"), Column("far", 5), Column("note", 2, is_text=True, least=12),
    Column("tag", 1, is_text=True, least=8),
]  # fmt: skip


def workers() -> Table:
    made = Table("workers", WORKERS)
    made.add("transactions", "1.5s", 123456, "UPDATE accounts SET balance = 0 WHERE id = 7", "admin page")
    return made


@pytest.mark.parametrize("width", range(36, 90))
def test_texts_are_cut_down_to_the_least_before_a_column_that_matters_goes(width: int) -> None:
    _, headings, line = render([workers()], Room(width, 20))
    assert len(line) <= width
    shown = headings.split()
    assert shown[:2] == ["group", "age"]
    # 8, 4 and 8 with gaps are 24, with a note of 12 they are 38.
    assert ("note" in shown) == (width >= 38)
    assert "tag" in shown
    if "note" in shown and width < 79:
        assert len(line) == width, "no room is left over while a text is cut"


def test_a_column_that_has_room_is_there_though_a_more_important_one_has_none() -> None:
    made = Table("t", [Column("n"), Column("wide", 1), Column("small", 2)])
    made.add(1, "x" * 40, 22)
    assert render([made], Room(20, 9))[1].split() == ["n", "small"]


LOCKS = [
    Column("pid"), Column("for", is_text=True, least=20), Column("end it with", is_text=True, is_whole=True),
    Column("far", 5),
]  # fmt: skip


def locks() -> Table:
    made = Table("locks", LOCKS)
    for place in range(3):
        made.add(1000 + place, "a row of public.accounts", f"SELECT pg_terminate_backend({place})", 9)
    return made


@pytest.mark.parametrize("width", range(20, 90))
def test_what_has_to_be_seen_is_seen_at_any_width(width: int) -> None:
    lines = render([locks()], Room(width))
    assert max(map(len, lines)) <= width
    text = "".join("".join(lines).split())
    for place in range(3):
        assert str(1000 + place) in text
        assert f"SELECTpg_terminate_backend({place})" in text
    assert ("pid: 1000" in "\n".join(lines)) == (width < 4 + 2 + 20 + 2 + 30)
    assert "-" not in text


def test_where_rows_are_chosen_each_has_one_line() -> None:
    lines = render([locks()], Room(30, 20, has_blocks=False))
    assert len(lines) == 5
    assert max(map(len, lines)) <= 30


@pytest.mark.parametrize("height", range(2, 30))
def test_rows_of_several_lines_are_counted_as_well(height: int) -> None:
    lines = render([locks()], Room(40, height))
    assert len(lines) <= height
    assert all(not line.endswith("…") for line in lines)
    if height >= 3:
        missing = sum(int(line.split()[0]) for line in lines if "are not shown" in line)
        assert sum(line.startswith("pid:") for line in lines) + missing == 3


# Sums, and what nobody has sent.


def sums(rows: int) -> Table:
    made = table(rows, more=40)
    made.pinned.append(["-", "all", "1", "2"])
    made.rest = ["-", "40 others", "1", "2"]
    return made


def test_the_sums_of_the_others_are_shown_behind_all_rows_and_else_counted_with_those_that_are_missing() -> None:
    lines = render([sums(5)], Room(80))
    assert lines[2].split()[1] == "all"
    assert "40 others" in lines[-1]
    assert "not shown" not in "".join(lines)
    lines = render([sums(5)], Room(80, 7))
    assert lines[2].split()[1] == "all"
    assert lines[-1] == "42 more are not shown"
    assert len(lines) == 7
    assert "others" not in "".join(lines)


def test_titles_are_folded_notes_stand_below_them_and_an_empty_table_says_what_that_means() -> None:
    made = Table("a title that is rather long; it says units", [Column("n")], notes=["a note"], nothing="nobody waits")
    lines = render([made], Room(30, 20))
    assert lines == ["a title that is rather long;", "it says units", "a note", " n".strip(), "nobody waits"]


def test_tables_of_little_importance_go_first_and_are_named() -> None:
    def some(name: str, rank: int) -> Table:
        made = Table(f"{name}; in words", [Column("n")], rank=rank)
        for place in range(9):
            made.add(place)
        return made

    tables = [some("first", 0), some("sums", 5), some("second", 1)]
    lines = render(tables, Room(80, 12))
    assert len(lines) <= 12
    assert lines[-1] == "no room for 1 table: sums"
    assert [line for line in lines if line.endswith("in words")] == ["first; in words", "second; in words"]
    assert lines.count("0") == 2
    assert render(tables, Room(80, 7))[-1] == "no room for 2 tables: sums; second"
    assert "no room" not in "".join(render(tables, Room(80, 40)))
