"""A request's options besides its statement: checked here, and converted to the form in which they travel.

To the broker an invalid option is a breach of the protocol, so it is found here, where the error can name it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from client.wire import limits
from client.wire.limits import ISOLATIONS, MAX_RETRIES, MAX_SETTINGS, PRIORITIES

DEFAULT_RETRIES = 3
DEFAULT_PRIORITY = PRIORITIES[limits.NORMAL]
ROWS = ("row", "dict")
# In seconds. A broker cancels an overdue statement and says so; only if it does not, the client gives up so much later.
GRACE = 1.0

Settings = Mapping[str, str | int | float | bool]


class Options(NamedTuple):
    """How a transaction is to run: the fields of TransactionMessage that the caller chooses for the whole of it."""

    isolation: str | None = None
    read_only: bool | None = None
    deferrable: bool | None = None
    retries: int = DEFAULT_RETRIES
    timeout: float | None = None
    priority: int = limits.NORMAL
    settings: bytes = b""


def checked_group(group: str) -> str:
    """Return the group's name, if it is one that can be sent."""
    if not isinstance(group, str):
        raise TypeError(f"group is {group!r:.200}; expected the name of a group of the broker's")
    if not group or len(group) > limits.MAX_NAME_CHARS or "\0" in group:
        raise ValueError(
            f"group is {group!r:.200}; expected a name of 1 to {limits.MAX_NAME_CHARS} characters without NUL"
        )
    _check_utf8("group", group)
    return group


def _check_utf8(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is {text!a:.200}; expected text that UTF-8 has: {error.reason}") from None


def checked_isolation(isolation: str | None) -> str | None:
    """Return the isolation level as it travels."""
    if isolation is None:
        return None
    level = isolation.lower().replace("_", " ").replace("-", " ") if isinstance(isolation, str) else isolation
    if level not in ISOLATIONS:
        raise ValueError(f"isolation is {isolation!r}; expected one of {', '.join(ISOLATIONS)}, or None")
    return level


def checked_retries(retries: int) -> int:
    """Return retries, if it is a number that can be sent."""
    if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= MAX_RETRIES:
        raise ValueError(f"retries is {retries!r}; expected a whole number from 0 to {MAX_RETRIES}")
    return retries


def checked_choice(name: str, value: bool | None) -> bool | None:
    """Return the option, if it is True, False, or None for the server's default."""
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; expected True, False, or None for the server's default")
    return value


def checked_prepare(prepare: bool) -> bool:
    """Return prepare, if it is a boolean; a word like 'off' would count as true."""
    if not isinstance(prepare, bool):
        raise TypeError(f"prepare is {prepare!r}; expected True, or False to keep parameters as literals")
    return prepare


def checked_autocommit(autocommit: bool | None) -> bool | None:
    """Return autocommit, if it is True, False, or None for the group's."""
    if autocommit is not None and not isinstance(autocommit, bool):
        raise TypeError(f"autocommit is {autocommit!r}; expected True, False, or None for what its group has")
    return autocommit


def checked_flag(name: str, value: bool) -> bool:
    """Return the option of this name, if it is a boolean; a word like 'false' would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r:.200}; expected True or False")
    return value


def wants_dicts(rows: str) -> bool:
    """Return whether rows are to be dicts."""
    if rows not in ROWS:
        raise ValueError(f"rows is {rows!r}; expected one of {', '.join(map(repr, ROWS))}")
    return rows == "dict"


def checked_read_only(read_only: bool) -> bool:
    """Return read_only, if it is a boolean."""
    if not isinstance(read_only, bool):
        raise TypeError(f"read_only is {read_only!r}; expected True for what only reads, or False")
    return read_only


def checked_position(position: str) -> str:
    """Return the position, if it can be sent; the broker reads it."""
    if not isinstance(position, str) or len(position) > limits.MAX_NAME_CHARS or "\0" in position:
        raise ValueError(f"after is {position!r:.200}; expected what another Handler's position has given")
    return position


def checked_tag(tag: str) -> str:
    """Return the tag, if it can be sent."""
    if not isinstance(tag, str) or len(tag) > limits.MAX_NAME_CHARS or "\0" in tag:
        raise ValueError(
            f"tag is {tag!r:.200}; expected text of at most {limits.MAX_NAME_CHARS} characters without NUL"
        )
    _check_utf8("tag", tag)
    return tag


def checked_priority(priority: str) -> int:
    """Return the priority as it travels."""
    if priority not in PRIORITIES:
        raise ValueError(f"priority is {priority!r}; expected one of {', '.join(PRIORITIES)}")
    return PRIORITIES.index(priority)


def patience(timeout: float) -> float:
    """Return the seconds to wait for the reply to a request with this timeout; raises ValueError if it is invalid."""
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout <= limits.MAX_TIMEOUT:
        raise ValueError(
            f"timeout is {timeout!r:.200}; expected seconds, above 0 and up to {limits.MAX_TIMEOUT:.0f}, or None"
        )
    return timeout + GRACE


def timeout_in(waits: float) -> float:
    """Return the timeout of a request for whose reply so many seconds are left; the opposite of `patience`."""
    return max(0.001, waits - GRACE)


def packed_settings(settings: Settings | None) -> bytes:
    """Return settings of PostgreSQL, by name, as they travel."""
    if settings is None:
        return b""
    if not isinstance(settings, Mapping):
        raise TypeError(
            f"settings is {settings!r:.200}; expected a mapping of names to values, as in {{'work_mem': '64MB'}}"
        )
    if len(settings) > MAX_SETTINGS:
        raise ValueError(f"settings has {len(settings)} names; at most {MAX_SETTINGS} travel with a request")
    return b"".join(b"%b\0%b\0" % (_name(name), _value(name, value)) for name, value in settings.items())


def _name(name: Any) -> bytes:
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"settings has the name {name!r:.200}; expected the name of a setting")
    _check_utf8("a setting's name", name)
    return name.encode()


def _value(name: str, value: Any) -> bytes:
    if isinstance(value, bool):
        return b"on" if value else b"off"
    if isinstance(value, (int, float)):
        return str(value).encode()
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"settings[{name!r}] is {value!r:.200}; expected text, a number or a boolean")
    _check_utf8(f"settings[{name!r}]", value)
    return value.encode()
