"""Turns a pgdbpool configuration into poold's TOML.

The input is JSON, or a Python file with a top-level `config = {...}`, which is not run (`pgdbpool_source`). It is
checked as poold.config.file checks, by rules for pgdbpool's keys. Errors show neither passwords nor source text, in
which a password may stand.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from poold.config.file import NAME, ConfigError, Rule, check_table, parse, quoted_key, rules_of, shown, toml_string
from poold.config.model import EndpointConfig
from poold.config.pgdbpool_source import Unreadable, Variable, how_to_print, read

_ENDPOINT = rules_of(EndpointConfig)
_TOP = {
    # Secret, because somebody may write a connection string here, with the password in it.
    "db": Rule(type=list, secret=True, may_be_empty=False, help="a dict, or a list of dicts, one for each endpoint"),
    "groups": Rule(type=dict, may_be_empty=False, help="a dict of the groups by name"),
    "type": Rule(type=str, help="the threading model", default="threaded", choices=("threaded", "non-threaded")),
}
_DB = {
    "host": _ENDPOINT["host"],
    "port": _ENDPOINT["port"],
    "name": _ENDPOINT["dbname"],
    "user": _ENDPOINT["user"],
    "pass": Rule(type=str | None, help="the password", secret=True),
    "ssl": replace(_ENDPOINT["sslmode"], default="disable"),
    "connect_timeout": _ENDPOINT["connect_timeout"],
    # The maximum is that of PostgreSQL's statement_timeout.
    "query_timeout": Rule(type=int, help="milliseconds; 0 is none", default=None, minimum=0, maximum=2**31 - 1),
    "session_tmp_buffer": Rule(type=int, help="megabytes", default=None, minimum=1),
    "connection_retry_sleep": Rule(type=float, help="seconds", default=None, minimum=0),
}
_FROM_FIRST = {"query_timeout": 5000, "session_tmp_buffer": 128}  # pgdbpool takes the first entry's, or these defaults
_GROUP = {
    "connection_count": Rule(type=int, help="connections opened at the start", minimum=1),
    "autocommit": Rule(type=bool, help="whether each statement is its own transaction", default=False),
    "sqlprepare": Rule(type=bool, help="whether SQLPrepare is called on each new connection", default=False),
}
# The keys whose values errors may show. Beneath any other key, what looks like a name may be an unquoted password.
_HARMLESS_KEYS = {"db"} | {key for rules in (_TOP, _DB, _GROUP) for key, rule in rules.items() if not rule.secret}


class LegacyConfigError(ConfigError):
    """The pgdbpool configuration cannot be converted; `problems` and str() as in ConfigError.

    advice is the last line of str(): another way that may help.
    """

    def __init__(self, problems: list[str], source_name: str, advice: str = "") -> None:
        super().__init__(problems, source_name)
        self.advice = advice

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.advice}" if self.advice else super().__str__()


def convert(source_text: str, filename: str) -> str:
    """Return poold's TOML for a pgdbpool configuration; `poold.config.file.parse` has accepted the result.

    A filename that ends with .json or .py says what the text is; otherwise a text that begins with a brace is JSON.
    Endpoints are named db1, db2, ... in pgdbpool's order. pgdbpool takes query_timeout and session_tmp_buffer of the
    first entry for all connections, and so does the result; it has a comment where a later entry differs.

    Raises LegacyConfigError with every problem found in the source, ConfigError if poold refuses the result.
    """
    text = source_text.removeprefix("\ufeff")
    is_json = filename.endswith(".json") or (not filename.endswith(".py") and text.lstrip().startswith("{"))
    document = _from_json(text, filename) if is_json else _from_python(text, filename)
    problems: list[str] = []
    top, entries, groups = _checked(document, problems)
    if problems:
        raise LegacyConfigError(problems, filename)
    # Variables of passwords need not be set here, so what is checked has the passwords themselves.
    plain = [{**entry, "pass": None if entry["pass"] is None else str(entry["pass"])} for entry in entries]
    checked, toml = (
        "\n".join([*_header(filename, top["type"]), *_endpoint_lines(each), *_group_lines(groups), ""])
        for each in (plain, entries)
    )
    parse(checked, filename)
    return toml


def _from_json(text: str, filename: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise LegacyConfigError([f"line {error.lineno}: not valid JSON: {error.msg}"], filename) from None
    except (ValueError, RecursionError) as error:  # int() refuses thousands of digits
        raise LegacyConfigError([f"not usable JSON: {error}"], filename) from None


def _from_python(text: str, filename: str) -> object:
    try:
        return read(text, _HARMLESS_KEYS)
    except Unreadable as error:
        how = how_to_print(filename, error.name) if error.name else ""
        advice = f"Python can print it, with all that it is made of: {how}" if how else ""
        raise LegacyConfigError(error.problems, filename, advice) from None


def _checked(
    document: Any, problems: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the usable values at the top, of each db entry and of each group; append what is wrong to problems."""
    if not isinstance(document, Mapping):
        problems.append("found no dict, expected one with db and groups")
        return {}, [], {}
    single = isinstance(document.get("db"), Mapping)
    top = check_table(_TOP, "top level", {**document, "db": [document["db"]]} if single else document, problems)
    entries = {"db" if single else f"db[{index}]": entry for index, entry in enumerate(top.get("db", ()))}
    checked = [_table(_DB, where, entry, problems) for where, entry in entries.items()]
    groups = {}
    for name, group in top.get("groups", {}).items():
        where = f"groups[{shown(name)}]"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            problems.append(f"{where}: expected a name of 1 to 64 characters of A-Z a-z 0-9 _ . -")
        groups[name] = _table(_GROUP, where, group, problems)
    return top, checked, groups


def _table(rules: Mapping[str, Rule], where: str, value: object, problems: list[str]) -> dict[str, Any]:
    if isinstance(value, Mapping):
        if value.get("ssl") is False:
            value = {**value, "ssl": "disable"}  # pgdbpool's word for no encryption
        return check_table(rules, where, value, problems)
    problems.append(f"{where}: found no dict, expected one with {', '.join(rules)}")
    return {}


def _header(filename: str, threading_model: str) -> list[str]:
    source = toml_string(filename.encode(errors="backslashreplace").decode())
    return [
        f"# poold's configuration, converted from pgdbpool's in {source}.",
        "#",
        "# What to do next:",
        "# 1. Lower min_size and max_size: pgdbpool opened as many in every process, here all processes share them.",
        "# 2. Move each password into a file that only poold's user can read, and name it with password_file.",
        "# 3. Check the result with `poold check-config`.",
        "#",
        f"# pgdbpool's type, {toml_string(threading_model)}, is a client matter: clients pass it to Connection.init.",
    ]


def _endpoint_lines(entries: list[dict[str, Any]]) -> Iterator[str]:
    shared = {key: default if entries[0][key] is None else entries[0][key] for key, default in _FROM_FIRST.items()}
    for number, entry in enumerate(entries, 1):
        yield from ("", f"[endpoints.db{number}]")
        for key, used in shared.items():
            if entry[key] not in (None, used):
                yield f"# {key} = {entry[key]} had no effect: pgdbpool took the first entry's, {used}, for all."
        if entry["connection_retry_sleep"] is not None:
            sleep = entry["connection_retry_sleep"]
            yield f"# connection_retry_sleep = {sleep} is left out: poold uses exponential backoff by itself."
        if entry["port"] != _DB["port"].default:
            yield f"# pgdbpool 1.0.2 ignored the port and used {_DB['port'].default}: see that this one is right."
        yield from _pairs(host=entry["host"], port=entry["port"], dbname=entry["name"], user=entry["user"])
        if isinstance(entry["pass"], Variable):
            if entry["pass"].has_default:
                yield "# The default beside it is left out: the variable has to be set where the broker is started."
            yield from _pairs(password_env=str(entry["pass"]))
        elif entry["pass"] is not None:
            yield f'# Safer: password_file = "/etc/poold/db{number}.password" instead, readable only by poold\'s user.'
            yield from _pairs(password=entry["pass"])
        yield from _pairs(
            sslmode=entry["ssl"],
            connect_timeout=entry["connect_timeout"],
            query_timeout=shared["query_timeout"] / 1000,
            temp_buffers=f"{shared['session_tmp_buffer']}MB",
        )


def _group_lines(groups: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, group in groups.items():
        yield from ("", f"[groups.{quoted_key(name)}]")
        yield from _pairs(min_size=group["connection_count"], max_size=group["connection_count"])
        yield from _pairs(autocommit=group["autocommit"], sqlprepare=group["sqlprepare"])


def _pairs(**values: str | bool | float) -> Iterator[str]:
    for key, value in values.items():
        yield f"{key} = {toml_string(value) if isinstance(value, str) else repr(value).lower()}"
