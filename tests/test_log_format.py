"""Log lines: one a line whatever strangers send, and no text of an exception that nobody expected."""

import logging
import sys
from io import StringIO

import pytest

from poold.operations.figures import lines_of
from poold.operations.log_format import LONGEST, LineFormatter, printable

SECRET = "opensesame"


@pytest.fixture
def said() -> StringIO:
    return StringIO()


@pytest.fixture
def log(said: StringIO) -> logging.Logger:
    made = logging.Logger("poold.test")
    handler = logging.StreamHandler(said)
    handler.setFormatter(LineFormatter())
    made.addHandler(handler)
    return made


def test_a_message_cannot_begin_a_line_or_steer_a_terminal(log: logging.Logger, said: StringIO) -> None:
    log.warning("client refused reason=%s", "x\n2026-01-01 CRITICAL forged\r\x1b[2J\x7f\x85\u2028\u2029end")
    assert len(said.getvalue().splitlines()) == 1
    assert r"reason=x\n2026-01-01 CRITICAL forged\r\x1b[2J\x7f\x85\u2028\u2029end" in said.getvalue()


def test_a_message_has_a_greatest_length(log: logging.Logger, said: StringIO) -> None:
    log.warning("client refused reason=%s", "x" * 10_000_000)
    assert len(said.getvalue()) == LONGEST + len("...\n")


def test_an_exception_is_told_by_where_it_came_from_and_not_by_its_text(log: logging.Logger, said: StringIO) -> None:
    def inner() -> None:
        raise KeyError(SECRET)

    try:
        try:
            inner()
        except KeyError as error:
            raise ValueError(f"cannot read {SECRET}") from error
    except ValueError:
        log.critical("unexpected error", exc_info=sys.exc_info())
    text = said.getvalue()
    assert SECRET not in text
    assert text.index("in inner") < text.index("builtins.KeyError") < text.index("builtins.ValueError")
    assert text.count("its text may quote statements") == 2


def test_an_exception_during_another_ones_handling_is_told_with_it(log: logging.Logger, said: StringIO) -> None:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError:
            raise TypeError(SECRET)  # noqa: B904  this is the case
    except TypeError as error:
        log.critical("unexpected error", exc_info=error)
    assert [said.getvalue().count(name) for name in ("builtins.KeyError", "builtins.TypeError", SECRET)] == [1, 1, 0]


def test_ordinary_text_is_as_it_is() -> None:
    assert printable("grüße 🐘 a\\b") == "grüße 🐘 a\\b"


def test_stats_shows_names_of_clients_as_they_are_and_steers_no_terminal() -> None:
    process = {
        "pid": 1,
        "uid": 2,
        "gid": 3,
        "name": "[/red]\x1b[2J",
        "clients": 1,
        "requests": 0,
        "held": 0,
        "leases": 0,
    }
    work = {
        "what": "request",
        "id": "1/2",
        "state": "running",
        "pid": 1,
        "group": "a",
        "age_ms": 1.0,
        "tag": "t\x1b[3J",
    }
    general = {"version": "0", "pid": 1, "state": "running", "address": "a", "uptime_s": 1.0, "cpu_s": 0.1}
    snapshot = {
        **general,
        "lane": {"state": "compiled"},
        "max_memory_kb": 1,
        "clients": 1,
        "groups": {},
        "endpoints": {},
        "processes": [process],
        "work": [work],
        "work_not_shown": 0,
    }
    text = "\n".join(lines_of({**snapshot, "processes_not_shown": 0}, None, ()))
    assert r"[/red]\x1b[2J" in text
    assert r"t\x1b[3J" in text
    assert "\x1b" not in text
