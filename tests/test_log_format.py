"""Log lines: one a line whatever strangers send, and no text of an exception that nobody expected."""

import ast
import json
import logging
import re
import sys
import unicodedata
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poold.operations.figures import lines_of
from poold.operations.log_format import (
    FORMATS,
    JSON,
    LONGEST,
    RESERVED,
    JsonFormatter,
    LineFormatter,
    event_of,
    formatter,
    printable,
)

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
    assert r'reason="x\n2026-01-01 CRITICAL forged\r\u001b[2J\u007f\u0085\u2028\u2029end"' in said.getvalue()


def test_a_message_has_a_greatest_length(log: logging.Logger, said: StringIO) -> None:
    log.warning("client refused pid=%d reason=%s end=%s", 7, "x" * 10_000_000, "here")
    log.warning("x" * 10_000_000)
    first, second = said.getvalue().splitlines()
    assert first.endswith(f" reason={'x' * LONGEST}... end=here")
    assert second.endswith(f" {'x' * LONGEST}...")


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


def test_no_character_that_is_not_seen_gets_through_in_either_form() -> None:
    hidden = [
        chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp", "Cs")
    ]
    assert {"\u202e", "\u2066", "\u200b", "\ufeff", "\U000e0001", "\x1b"} < set(hidden)
    text = "".join(hidden)
    for name in FORMATS:
        record = logging.LogRecord("poold", logging.INFO, "", 0, "seen tag=%s", (text,), None)
        for cut in (text, *hidden[::7], hidden[-1]):
            record.args = (cut,)
            line = formatter(name).format(record)
            assert not set(line) & set(hidden)
            if name == JSON and len(cut) == 1:
                assert json.loads(line)["tag"] == cut
    assert not set(printable(text)) & set(hidden)
    assert printable("a\u202eb\U000e0001") == r"a\u202eb\U000e0001"


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


# The two forms of one call.

ROOT = Path(__file__).parent.parent
LEVELS = ("debug", "info", "warning", "error", "critical", "exception")
# A field in a log line for people: quoted as JSON's strings are where it has to be.
FIELD = re.compile(r' ([a-z_][a-z0-9_]*)=("(?:[^"\\]|\\.)*"|\[[^\n]*?\]|[^\s"]*)')


def record(text: str, *values: object, name: str = "poold.test", **more: Any) -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, "", 0, text, values, None, **more)


def as_json(text: str, *values: object) -> Any:
    line = JsonFormatter().format(record(text, *values))
    assert "\n" not in line
    return json.loads(line.encode())


def as_text(text: str, *values: object) -> tuple[str, dict[str, str]]:
    """The event and the fields of a line for people, read back."""
    line = LineFormatter().format(record(text, *values))
    assert len(line.splitlines()) == 1
    rest = line.partition(" poold.test ")[2]
    start = FIELD.search(rest)
    at = start.start() if start else len(rest)
    found: dict[str, str] = {}
    event = rest[:at]
    while at < len(rest):
        field = FIELD.match(rest, at)
        assert field is not None, rest[at:]
        found[field[1]] = json.loads(field[2]) if field[2].startswith('"') else field[2]
        at = field.end()
    return event, found


def test_both_forms_say_the_same() -> None:
    call = ("client refused pid=%d uid=%s share=%g why=%s expected=a name, or @ and a name", 7, None, 0.25, 'no "x"')
    assert as_json(*call) | {"time": ""} == {
        "time": "", "level": "warning", "logger": "poold.test", "event": "client refused",
        "pid": 7, "uid": None, "share": 0.25, "why": 'no "x"', "expected": "a name, or @ and a name",
    }  # fmt: skip
    event, fields = as_text(*call)
    assert event == "client refused"
    assert fields == {
        "pid": "7", "uid": "None", "share": "0.25", "why": 'no "x"', "expected": "a name, or @ and a name",
    }  # fmt: skip


@pytest.mark.parametrize("value", [True, False, None, 0, -5, 2**70, 1.5, ["a", 1], Path("/x y"), float("nan")])
def test_values_keep_their_types_in_json(value: object) -> None:
    plain = str(value) if isinstance(value, Path) or value != value else value
    assert as_json("event value=%s", value)["value"] == plain


@given(st.text(st.characters(exclude_categories=())))
def test_a_hostile_value_stays_one_value_in_both_forms(value: str) -> None:
    call = ("request ended tag=%s outcome=%s", value, "executed")
    cut = value if len(value) <= LONGEST else value[:LONGEST] + "..."
    assert as_json(*call)["tag"] == cut
    event, fields = as_text(*call)
    assert (event, fields) == ("request ended", {"tag": cut, "outcome": "executed"})


def test_the_time_in_json_is_utc() -> None:
    made = record("event")
    made.created = 1_700_000_000.25
    assert json.loads(JsonFormatter().format(made))["time"] == "2023-11-14T22:13:20.250000Z"


def test_an_exception_is_one_field_in_json() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        made = record("unexpected error kind=%s", "ValueError", sinfo=None)
        made.exc_info = sys.exc_info()
    found = json.loads(JsonFormatter().format(made))
    assert "builtins.ValueError" in found["exception"]
    assert SECRET not in found["exception"]


def test_what_a_library_logs_is_one_text() -> None:
    found = event_of(record("took %s waiting=%d", "long", 5, name="asyncio"))
    assert found == ("took long waiting=5", {})


def log_calls() -> Iterator[tuple[str, ast.expr]]:
    """Where each call of a logger is, and its text."""
    for path in [*ROOT.glob("poold/**/*.py"), *ROOT.glob("client/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = ast.unparse(node.func.value)
            if owner.rpartition(".")[2] in ("log", "_log") and node.func.attr in (*LEVELS, "log"):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.args[node.func.attr == "log"]


# Whose texts come from elsewhere: notes have their fields apart, and a limited log's are those of its callers.
PASSED_ON = ("poold/notes.py", "poold/system/rate_limited_log.py")
CALLS = [(place, text) for place, text in log_calls() if place.partition(":")[0] not in PASSED_ON]


@pytest.mark.parametrize(("place", "text"), CALLS, ids=[place for place, _ in CALLS])
def test_each_log_call_is_an_event_in_constant_words_and_fields(place: str, text: ast.expr) -> None:
    assert isinstance(text, ast.Constant), f"{place}: the text of a log call is constant; values belong into fields"
    template = str(text.value)
    event, *fields = re.split(r" ([a-z_][a-z0-9_]*)=", template)
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z ,:;'_-]*", event), f"{place}: {event!r} is no event in plain words"
    assert not set(fields[::2]) & set(RESERVED), f"{place}: a field has the name of what each line has"
    assert len(set(fields[::2])) == len(fields[::2]), f"{place}: two fields of one name"
    assert "%" not in re.sub(r"%[sdg]", "", template), f"{place}: fields are %s, %d or %g"
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        assert re.fullmatch(r"%[sdg]", value) or "%" not in value, f"{place}: {name} is more than one value"


def test_there_are_log_calls() -> None:
    assert len(CALLS) > 40
