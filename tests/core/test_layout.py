"""Tables fit the terminal: texts give way, then columns, then rows; no number is cut, and nothing left out unsaid."""

import pytest

from poold.operations.layout import Column, Room, Table, cell, duration, number, render, wrapped

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


def test_the_lines_around_tables_are_wrapped_and_do_not_fill_the_screen() -> None:
    found = wrapped(["word " * 30] * 9, Room(40, 12))
    assert len(found) == 3
    assert max(map(len, found)) <= 40
    assert wrapped(["word " * 30], Room()) == ["word " * 30]


def test_numbers_and_times_are_for_people() -> None:
    assert [number(each) for each in (0.0, 0.01234, 12.345, 999.4, 1234.5, 1234567.0)] == [
        "0", "0.0123", "12.3", "999", "1234", "1234567",
    ]  # fmt: skip
    times = (None, 0.2, 12.4, 1500.0, 75_000.0, 7_500_000.0, 300_000_000.0)
    assert [duration(each) for each in times] == [None, "0.2ms", "12ms", "1.5s", "1m15s", "2h05m", "3d11h"]
    assert [cell(None), cell(7), cell(0.5)] == ["-", "7", "0.5"]
