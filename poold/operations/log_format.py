"""How log lines look: one event, one line, and no values of clients; for people, or as JSON for programs.

A log call has constant words first, then `key=` and a placeholder for each field, as in "client refused pid=%d
reason=%s". Both forms are made of that text and of the arguments, so they cannot differ in what they say.

Some of what is logged comes from strangers, as the release that a client claims to be. It cannot begin a line of its
own, forge a field, steer a terminal, or fill the disk. An exception that nobody expected is logged with its traceback
but without its text, which may quote a statement, a parameter or a row.
"""

import json
import logging
import math
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple

TEXT, JSON = FORMATS = ("text", "json")
# Characters of one value, or of a line that has no fields. The longest useful one is an endpoint's error with all its
# addresses.
LONGEST = 2000
# What each line has in JSON besides its fields; no field has such a name.
RESERVED = ("time", "level", "logger", "event", "exception")
# Characters that are not seen and change what is: Unicode's category Cf, some of which turn the order of a line around.
_UNSEEN = (
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
)
# What is left of them, and of control characters, in JSON's strings; two of them are ends of a line for terminals.
_HIDDEN = f"\x7f-\x9f\u2028\u2029\ud800-\udfff{_UNSEEN}"
_LEFT = re.compile(f"[{_HIDDEN}]")
# All control characters, also those that a terminal takes for the end of a line or the beginning of a command.
_CONTROL = re.compile(f"[\x00-\x1f{_HIDDEN}]")
_PLAIN = re.compile(rf"[^\s\"'=\\\x00-\x1f{_HIDDEN}]+")
_KEY = re.compile(r"(?:^| )([a-z_][a-z0-9_]*)=")
_PLACEHOLDER = re.compile(r"%(?:%|[-#0 +]*[0-9]*(?:\.[0-9]+)?[a-zA-Z])")
# The loggers whose texts are written as above.
_OWN = ("poold", "client")

_Info = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Event(NamedTuple):
    """What a log call says."""

    text: str
    fields: dict[str, Any]


def event_of(record: logging.LogRecord) -> Event:
    """Return what the record says; of a library's all is text."""
    template, args = record.msg, record.args
    if record.name.partition(".")[0] not in _OWN or not isinstance(template, str) or isinstance(args, Mapping):
        return Event(record.getMessage(), {})
    values = list(args or ())
    text, *rest = _KEY.split(template)
    fields: dict[str, Any] = {}
    event = _filled(text, values)
    for name, pattern in zip(rest[::2], rest[1::2], strict=True):
        is_value = pattern != "%%" and _PLACEHOLDER.fullmatch(pattern) is not None
        fields[name] = values.pop(0) if is_value else _filled(pattern, values)
    return Event(event, fields)


def _filled(pattern: str, values: list[Any]) -> str:
    """Return the text with the first of the values in its placeholders; they are taken from the list."""
    count = sum(found != "%%" for found in _PLACEHOLDER.findall(pattern))
    taken = tuple(values[:count])
    del values[:count]
    return pattern % taken if "%" in pattern else pattern


def printable(text: str) -> str:
    """Return the text with Python's escape in the place of each control character."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def printable_lines(text: str) -> str:
    """Return the text with its lines as they are, and other control characters escaped."""
    return "\n".join(map(printable, text.split("\n")))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def _plain(value: Any) -> Any:
    """Return the value as one that JSON has."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return _cut(str(value))


def _json(value: Any) -> str:
    """Return the value as JSON, in one line of valid UTF-8 whatever it holds."""
    text = json.dumps(value, ensure_ascii=False)
    return _LEFT.sub(_in_json, text)


def _in_json(found: re.Match[str]) -> str:
    """Return JSON's escape for the character, two of them for those that UTF-16 has in two halves."""
    halves = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{halves[at : at + 2].hex()}" for at in range(0, len(halves), 2))


def _shown(value: Any) -> str:
    """Return a field's value for people; a text is in quotes, as in JSON, where it could be misread without."""
    plain = _plain(value)
    if isinstance(plain, str):
        return plain if _PLAIN.fullmatch(plain) else _json(plain)
    return _json(plain) if isinstance(plain, list) else str(plain)


def origin(error: BaseException) -> str:
    """Return where an exception came from: types and lines of code, its causes first, no texts."""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [origin(earlier), "which led to"] if earlier is not None else []
    lines += ["Traceback (most recent call last):", *map(str.rstrip, traceback.format_tb(error.__traceback__))]
    kind = type(error)
    return "\n".join(
        [*lines, f"{kind.__module__}.{kind.__qualname__} (its text may quote statements and is not shown)"]
    )


class LineFormatter(logging.Formatter):
    """The log for people: time, level, logger, event, key=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Return the record's line, without control characters."""
        event = event_of(record)
        record.message = " ".join(
            [printable(_cut(event.text)), *[f"{name}={_shown(value)}" for name, value in event.fields.items()]]
        )
        return super().formatMessage(record)

    def formatException(self, ei: _Info) -> str:  # noqa: N802  logging's name
        """Return what follows the line: where the exception came from."""
        return "" if ei[1] is None else origin(ei[1])


class JsonFormatter(logging.Formatter):
    """The log for programs: one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        event = event_of(record)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),  # RFC 3339
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _cut(event.text),
            **{name: _plain(value) for name, value in event.fields.items() if name not in RESERVED},
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = origin(record.exc_info[1])
        return _json(line)


def formatter(name: str) -> logging.Formatter:
    """Return the formatter of this format."""
    return JsonFormatter() if name == JSON else LineFormatter()


def use(name: str) -> None:
    """Write this process's log in this format from here on."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter(name))
    if name == JSON:
        # What would be written to stderr in other forms.
        if hasattr(sys.stderr, "reconfigure"):
            sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")
        logging.captureWarnings(True)
        sys.excepthook = lambda _kind, error, _trace: _uncaught(error)
        sys.unraisablehook = lambda found: _uncaught(found.exc_value)
        threading.excepthook = lambda found: _uncaught(found.exc_value)


def _uncaught(error: BaseException | None) -> None:
    logging.getLogger("poold").critical("unexpected error error=%s", type(error).__name__, exc_info=error)


def complaint(text: str, name: str) -> str:
    """Return what a command that cannot start says on stderr, in this format."""
    if name != JSON:
        return printable_lines(f"poold: {text}")
    record = logging.LogRecord("poold", logging.ERROR, "", 0, "broker not started error=%s", (text,), None)
    return JsonFormatter().format(record)
