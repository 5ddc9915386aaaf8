"""What a connection asks of PostgreSQL in its startup options, and whether the server has it.

Clients' literals, read_only and query_timeout rest on these settings, and RESET ALL gives them back because they are
the session's own defaults. But a pooler between broker and server may drop them: PgBouncer can be told to ignore
`options` (ignore_startup_parameters). So each new connection is asked for the settings that it has, and for those that
RESET gives it; a connection that lacks one is not used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from poold.config.model import EndpointConfig, GroupConfig

# How often a running query checks whether its client, the broker, is still there (PostgreSQL 14 and later).
CHECK = "client_connection_check_interval"
CHECK_INTERVAL = "5s"
_DATE_STYLE = "datestyle"
# Settings that come behind the configuration's own options, and so win.
_LAST = {"standard_conforming_strings": "on", "IntervalStyle": "postgres"}

# Settings by name, in the order of the array. current_setting knows the few that pg_show_all_settings leaves out (role,
# and those with a dot that no extension has defined).
QUESTION = (
    "SELECT n, s.setting, s.unit, s.reset_val, s.source, "
    "CASE WHEN s.name IS NULL THEN pg_catalog.current_setting(n, true) END "
    "FROM pg_catalog.unnest(%s::pg_catalog.text[]) AS n LEFT JOIN pg_catalog.pg_show_all_settings() AS s "
    "ON pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) n"
)
# Units, in milliseconds and in bytes: https://www.postgresql.org/docs/current/config-setting.html
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "min": 60_000.0, "h": 3_600_000.0, "d": 86_400_000.0}
_UNITS |= {"B": 1.0, "kB": 1024.0, "MB": 1024.0**2, "GB": 1024.0**3, "TB": 1024.0**4}
_QUANTITY = re.compile(r"\s*([+-]?[0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]*)\s*", re.ASCII)
_TRUTHS = {"on": "on", "true": "on", "yes": "on", "1": "on", "off": "off", "false": "off", "no": "off", "0": "off"}


class Setting(NamedTuple):
    """A row of the answer to QUESTION."""

    name: str  # in lower case
    value: str | None
    unit: str | None
    reset: str | None  # what RESET gives
    source: str | None  # "client": the startup has asked for it
    hidden: str | None  # the value if the server does not list the setting


def options(config: EndpointConfig, group: GroupConfig, has_check: bool, date_style: str) -> str:
    """Return the startup's options; date_style is "" if the server's own DateStyle may stay."""
    first = {"statement_timeout": str(round(config.query_timeout * 1000)), "temp_buffers": config.temp_buffers}
    if has_check:
        first[CHECK] = CHECK_INTERVAL
    last = _LAST | ({"DateStyle": date_style} if date_style else {})
    if group.read_only:
        last = {"default_transaction_read_only": "on"} | last
    return " ".join(filter(None, (_written(first), config.options, _written(last))))


def names(config: EndpointConfig, group: GroupConfig) -> list[str]:
    """Return the names of the settings for QUESTION."""
    return list(dict.fromkeys([*_expected(config, group), CHECK, _DATE_STYLE]))


def objections(settings: Iterable[Setting], config: EndpointConfig, group: GroupConfig) -> list[str]:
    """Return a text for each setting that is not as it was asked for."""
    found = {each.name: each for each in settings}
    wrong = []
    for name, (expected, is_own) in _expected(config, group).items():
        setting = found.get(name)
        if setting is None:
            wrong.append(f"the server does not tell {name}, expected {expected!r}")
        elif not _holds(setting, expected, is_own):
            value = setting.value if setting.value is not None else setting.hidden
            after = "" if setting.reset in (None, value) else f", and {setting.reset!r} after RESET"
            wrong.append(f"{name} is {value!r}{after}, expected {expected!r}")
    date_style = found.get(_DATE_STYLE)
    if date_style is None or not _is_iso(date_style.value) or not _is_iso(date_style.reset):
        value = None if date_style is None else date_style.value if not _is_iso(date_style.value) else date_style.reset
        wrong.append(f"datestyle is {value!r}, expected 'ISO' and either order of day and month")
    return wrong


def iso_for(settings: Iterable[Setting]) -> str:
    """Return the DateStyle to ask for if the server's own is not ISO, with its order of day and month; else ""."""
    for each in settings:
        if each.name == _DATE_STYLE and each.reset is not None and not _is_iso(each.reset):
            order = each.reset.rpartition(",")[2].strip().upper()
            return f"ISO,{order}" if order in ("DMY", "MDY", "YMD") else "ISO"
    return ""


def advice(wrong: list[str], user: str) -> str:
    """Return the connect error's text for a server with such objections."""
    return (
        f"the server does not have what the startup's options ask for: {'; '.join(wrong)}. Something between poold and "
        "PostgreSQL drops or changes them, as PgBouncer does with ignore_startup_parameters = options: connect to "
        f"PostgreSQL itself, let it pass options on, or give role {user!r} these settings by ALTER ROLE ... SET"
    )


def given(options: str) -> dict[str, str]:
    """Return what options set by -c name=value or --name=value, by name in lower case; the last one wins."""
    found: dict[str, str] = {}
    words = iter(_words(options))
    for word in words:
        if word == "-c":
            word = "--" + next(words, "")
        elif word.startswith("-c"):
            word = "--" + word[2:]
        name, is_set, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and is_set:
            found[name.replace("-", "_").lower()] = value
    return found


def _expected(config: EndpointConfig, group: GroupConfig) -> dict[str, tuple[str, bool]]:
    """Return what is asked for, by name in lower case, and whether RESET must give it back."""
    expected = {
        "statement_timeout": (f"{round(config.query_timeout * 1000)}ms", True),
        "temp_buffers": (config.temp_buffers, True),
    }
    expected |= {name: (value, False) for name, value in given(config.options).items() if name != _DATE_STYLE}
    expected |= {name.lower(): (value, True) for name, value in _LAST.items()}
    expected["client_encoding"] = "UTF8", True
    if group.read_only:
        expected["default_transaction_read_only"] = "on", True
    return expected


def _holds(setting: Setting, expected: str, is_own: bool) -> bool:
    if is_own:
        return _is(setting.value, expected, setting.unit) and _is(setting.reset, expected, setting.unit)
    # With the source "client" PostgreSQL itself took it from the startup, in whatever form it was written.
    return setting.source == "client" or _is(setting.value or setting.hidden, expected, setting.unit)


def _is(value: str | None, expected: str, unit: str | None) -> bool:
    if value is None:
        return False
    if value.lower() == expected.lower() or _TRUTHS.get(value.lower(), "") == _TRUTHS.get(expected.lower()):
        return True
    has, wants = _quantity(value, unit), _quantity(expected, unit)
    # PostgreSQL rounds to whole units.
    return has is not None and wants is not None and abs(has - wants) < (_size_of(unit) if unit else 1e-9)


def _quantity(text: str, unit: str | None) -> float | None:
    """Return a number in milliseconds or bytes; if the text has no unit, the setting's holds. None if it is none."""
    found = _QUANTITY.fullmatch(text)
    if found is None or len(text) > 40:
        return None
    number, name = found.groups()
    size = _UNITS.get(name) if name else _size_of(unit)
    return None if size is None else float(number) * size


def _size_of(unit: str | None) -> float:
    """Return the size of a unit as PostgreSQL names it: ms, kB, 8kB."""
    found = re.fullmatch(r"([0-9]{0,6})([A-Za-z]+)", unit or "", re.ASCII)
    return 1.0 if found is None else float(found[1] or 1) * _UNITS.get(found[2], 1.0)


def _is_iso(date_style: str | None) -> bool:
    return date_style is not None and date_style.upper().startswith("ISO")


def _written(settings: dict[str, str]) -> str:
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def _words(options: str) -> list[str]:
    """Split options as PostgreSQL does: at blanks that have no backslash before them (pg_split_opts)."""
    return [re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL) for word in re.findall(r"(?:[^\s\\]|\\.)+", options)]
