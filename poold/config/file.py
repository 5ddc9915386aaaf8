"""Reads poold's TOML into the frozen dataclasses of poold.config.model, or reports everything that is wrong with it.

The dataclasses are the grammar: a field's annotation and metadata become a Rule, and `check_table` checks a table by
its rules. A key added to poold.config.model needs no line here; only rules about several keys, or about the world
outside the file, are functions. Problems are collected, not raised: whoever edits a configuration wants the whole list.
No problem shows a secret, nor a line of the file, which might contain one.
"""

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from client.wire.address import check_address, default_address
from client.wire.limits import PRIORITIES
from poold.config import passwords
from poold.config.client_keys import key_problems
from poold.config.model import SIZES, BrokerConfig, Config, EndpointConfig, GroupConfig, Weights
from poold.config.usable import Usable, usable
from poold.config.users import resolved_users
from poold.system.file_errors import in_words
from poold.system.named_files import read_text
from poold.system.tcp_listener import host_and_port

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # narrow, because names appear in log lines and metric labels
MAX_WEIGHT = 1000  # with more, the other priorities would hardly ever have a turn
_SHOWN_CHARS = 80  # of a refused value: enough to recognise it, still one line
_PASSWORD_KEYS = ("password", "password_file", "password_env")
_Tables = dict[str, dict[str, Any]]  # the checked values by the table's name


class ConfigError(Exception):
    """The configuration cannot be used.

    `problems` holds every problem found, one line each; str() puts the source's name above them. Neither has secrets.
    `usable` has what can be tried all the same, None if there is nothing.
    """

    def __init__(self, problems: list[str], source_name: str = "configuration", usable: Usable | None = None) -> None:
        super().__init__(problems, source_name)
        self.problems = problems
        self.source_name = source_name
        self.usable = usable

    def __str__(self) -> str:
        return "\n  ".join([f"{self.source_name}: problems found: {len(self.problems)}", *self.problems])


def load(path: str | os.PathLike[str]) -> Config:
    """Read a configuration file as `parse` does; ConfigError also for a file that cannot be read."""
    try:
        text = read_text(Path(path)).removeprefix("\ufeff")  # with which some editors begin
    except OSError as error:
        problem = f"cannot read the file: {in_words(Path(path), error)}"
    except UnicodeDecodeError as error:
        problem = f"not valid TOML: the text is not UTF-8 (at line {error.object.count(10, 0, error.start) + 1})"
    else:
        return parse(text, os.fspath(path))
    raise ConfigError([problem], os.fspath(path))


def parse(source: str | Mapping[str, object], source_name: str) -> Config:
    """Make a Config of TOML text, or of a table as tomllib would return it.

    Each password is resolved into `EndpointConfig.password`, each group's endpoints into names that exist and its users
    into numbers. Relative paths are taken from the working directory, as libpq takes them. Raises ConfigError with
    every problem found.
    """
    problems: list[str] = []
    top = check_table(_TOP, "", _toml(source, source_name) if isinstance(source, str) else source, problems)
    broker = check_table(_BROKER, "[broker]", top.get("broker", {}), problems)
    endpoints = _entries("endpoints", _ENDPOINT, top, problems)
    groups = _entries("groups", _GROUP, top, problems)
    problems += _broker_problems(broker)
    for name, values in endpoints.items():
        _check_endpoint(f"[endpoints.{quoted_key(name)}]", values, problems)
    for name, values in groups.items():
        where = f"[groups.{quoted_key(name)}]"
        _check_group(where, values, tuple(top.get("endpoints", ())), problems)
        address, client_keys = broker.get("address", default_address()), broker.get("client_keys")
        values["allow_users"], wrong = resolved_users(values.get("allow_users", ()), address, client_keys)
        problems += [f"{where} allow_users: {each}" for each in wrong]
    if problems:
        parts = _wrong("endpoints", endpoints, problems), _wrong("groups", groups, problems)
        raise ConfigError(problems, source_name, usable(broker, endpoints, groups, *parts))
    return Config(
        broker=BrokerConfig(**broker),
        endpoints={name: EndpointConfig(**values) for name, values in endpoints.items()},
        groups={name: GroupConfig(**values) for name, values in groups.items()},
    )


def _wrong(kind: str, names: Collection[str], problems: list[str]) -> dict[str, list[str]]:
    """Return what is wrong with each table `[kind.NAME]`, without its name."""
    starts = {name: f"[{kind}.{quoted_key(name)}]" for name in names}
    return {
        name: [each.removeprefix(start).lstrip() for each in problems if each.startswith(start)]
        for name, start in starts.items()
    }


def at_address(config: Config, address: str) -> Config:
    """Return the configuration with another address; raises ValueError if its keys do not suit that address."""
    broker = replace(config.broker, address=address)
    if problems := _broker_problems(asdict(broker)):
        raise ValueError("; ".join(problems))
    return replace(config, broker=broker)


def describe(config: Config) -> dict[str, Any]:
    """Return the whole configuration as values for JSON; a secret is '***', one that is not set stays None."""

    def plain(section: Any) -> dict[str, Any]:
        values = asdict(section, dict_factory=lambda pairs: {k: list(v) if type(v) is tuple else v for k, v in pairs})
        secrets = [field.name for field in fields(section) if field.metadata.get("secret")]
        return values | {key: "***" for key in secrets if values[key] is not None}

    endpoints = {name: plain(endpoint) for name, endpoint in config.endpoints.items()}
    groups = {name: plain(group) for name, group in config.groups.items()}
    return {"broker": plain(config.broker), "endpoints": endpoints, "groups": groups}


def _fits(value: object) -> bool:
    """Whether it is an integer of 64 bits, as TOML's are. tomllib allows longer ones, for which repr() may fail."""
    return type(value) is int and -(2**63) <= value < 2**63


def _is_number(value: object) -> bool:
    return _fits(value) or (type(value) is float and math.isfinite(value))


class _Kind(NamedTuple):
    name: str  # as in "expected an integer"
    accepts: Callable[[Any], bool]
    make: Callable[[Any], Any] = lambda value: value
    part: type | None = None  # what the values of an array are

    def wrong(self, value: Any) -> object:
        """What is wrong of the value: of an array its first value of another type, if there is one."""
        if self.part is None or type(value) is not list:
            return value
        return next((each for each in value if type(each) is not self.part), value)


_KINDS: dict[Any, _Kind] = {
    str: _Kind("a string", lambda v: isinstance(v, str)),
    str | None: _Kind("a string", lambda v: v is None or isinstance(v, str)),
    int: _Kind("an integer", _fits),
    float: _Kind("a number", _is_number, float),
    float | str: _Kind(
        f"a number of seconds from 0 up, or a size in {', '.join(SIZES)}, as in '16MB'",
        lambda v: (
            re.fullmatch(r"[0-9]{1,9}(kB|MB|GB)", v) is not None if isinstance(v, str) else _is_number(v) and v >= 0
        ),
        lambda v: v if isinstance(v, str) else float(v),
    ),
    bool: _Kind("true or false", lambda v: isinstance(v, bool)),
    tuple[str, ...]: _Kind("an array of strings", lambda v: type(v) is list and {*map(type, v)} <= {str}, tuple, str),
    tuple[int, ...]: _Kind(
        "an array of whole numbers", lambda v: type(v) is list and {*map(type, v)} <= {int}, tuple, int
    ),
    Weights: _Kind(
        f"a table of {', '.join(PRIORITIES)} with whole numbers from 1 to {MAX_WEIGHT}",
        lambda v: (
            isinstance(v, Mapping)
            and v.keys() <= set(PRIORITIES)
            and all(type(each) is int and 1 <= each <= MAX_WEIGHT for each in v.values())
        ),
        lambda v: Weights(**v),
    ),
    list: _Kind("an array", lambda v: isinstance(v, list | tuple)),
    dict: _Kind("a table", lambda v: isinstance(v, Mapping)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one key may hold; help, default and limits mean what they mean in `poold.config.model.setting`."""

    type: Any  # a key of _KINDS
    help: str
    default: Any = ...
    may_be_empty: bool = True
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    pattern: str | None = None
    secret: bool = False

    def expected(self) -> str:
        """The demand in words, as in "an integer from 1 to 65535"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        text = _KINDS[self.type].name
        if self.minimum is not None:
            text += f" from {self.minimum} {'up' if self.maximum is None else f'to {self.maximum}'}"
        if self.pattern:
            text += f" that matches {self.pattern}"
        return text if self.may_be_empty else f"{text} that is not empty"

    def objection(self, value: Any) -> str | None:
        """Return what was found (`...` is a missing value) and what was expected, or None if the value is right."""
        wrong = _KINDS[self.type].wrong(value)
        where = " in an array" if wrong is not value else ""
        found = "missing" if value is ... else f"found {'a secret (not shown)' if self.secret else shown(wrong)}{where}"
        if isinstance(value, str) and not clean(value):
            return f"{found}, expected text without NUL characters and lone surrogates"
        will_do = (
            _KINDS[self.type].accepts(value)
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.choices is None or value in self.choices)
            and (self.pattern is None or re.fullmatch(self.pattern, value, re.ASCII))
            and (self.may_be_empty or value)
        )
        return None if will_do else f"{found}, expected {self.expected()}"


def rules_of(cls: type) -> dict[str, Rule]:
    """Return the rules that a dataclass of poold.config.model carries in its annotations and metadata.

    Required strings and arrays may not be empty: libpq and the code would read that as "left out".
    """
    hints, known = get_type_hints(cls), {field.name for field in fields(Rule)}
    rules = {}
    for field in fields(cls):
        default = ... if field.default is MISSING else field.default
        limits = {key: field.metadata[key] for key in field.metadata.keys() & known} | {"default": default}
        rules[field.name] = Rule(type=hints[field.name], may_be_empty=default not in (..., ()), **limits)
    return rules


_BROKER, _ENDPOINT, _GROUP = rules_of(BrokerConfig), rules_of(EndpointConfig), rules_of(GroupConfig)
_TOP = {
    "broker": Rule(type=dict, help="one broker process", default={}),
    # Secret, because somebody may write a connection string in the place of the tables, with the password in it.
    "endpoints": Rule(type=dict, secret=True, may_be_empty=False, help="[endpoints.NAME]: one PostgreSQL address"),
    "groups": Rule(type=dict, may_be_empty=False, help="[groups.NAME]: what clients ask for by name"),
}


def check_table(rules: Mapping[str, Rule], where: str, table: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the usable values of one table, defaults filled in; append what is wrong to problems.

    A refused value is absent, so that rules about several keys do not complain about it once more. `where` is the
    table's path in messages; the empty path is the top level of a TOML file, where keys are tables.
    """
    before, after, noun = (f"{where} ", "", "key") if where else ("[", "]", "table")
    for key in map(str, table):
        if key not in rules:
            problems.append(f"{before}{quoted_key(key)}{after}: unknown {noun}{suggestion(key, rules)}")
    values: dict[str, Any] = {}
    for key, rule in rules.items():
        value = table.get(key, rule.default)
        if (key in table or value is ...) and (objection := rule.objection(value)):
            problems.append(f"{before}{key}{after}: {objection} ({rule.help})")
        else:
            values[key] = _KINDS[rule.type].make(value) if key in table else value
    return values


def suggestion(word: str, known: Collection[str]) -> str:
    """Return the end of a sentence about an unknown word: the nearest known word, or else all of them."""
    nearest = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else f"; expected one of {', '.join(known)}"


def toml_string(text: str) -> str:
    """Return the text, which must be `clean`, as a TOML basic string."""
    # JSON's escapes are a subset of TOML's; of the control characters only DEL is legal in JSON and not in TOML.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def quoted_key(name: str) -> str:
    """Return the name as a TOML key: bare if that is legal, else quoted; an overlong one is cut."""
    return name if NAME.fullmatch(name) and "." not in name else shown(name)


def clean(text: str) -> bool:
    """Whether TOML and libpq can hold the text: no NUL, and no lone surrogate, which Python and JSON allow."""
    return not re.search("[\0\ud800-\udfff]", text)


def shown(value: object) -> str:
    """Return a refused value for one line of a message: cut if it is long, only its kind if it has parts."""
    if isinstance(value, str):
        text = value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "..."
        return toml_string(text.encode(errors="backslashreplace").decode())
    if isinstance(value, bool | float | None) or _fits(value):
        return repr(value).lower()
    kinds = {int: "an integer of over 64 bits", list: "an array", tuple: "an array", dict: "a table"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _toml(text: str, source_name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: int() refuses thousands of digits
        problem = str(error).replace("at end of document", f"at line {text.count(chr(10)) + 1}, the end of the text")
        raise ConfigError([f"not valid TOML: {problem}"], source_name) from None


def _entries(kind: str, rules: Mapping[str, Rule], top: Mapping[str, Any], problems: list[str]) -> _Tables:
    """Return the checked values of each table `[kind.NAME]`."""
    entries = {}
    for name, table in top.get(kind, {}).items():
        where = f"[{kind}.{quoted_key(name)}]"
        if not NAME.fullmatch(name):
            problems.append(f"{where}: found {shown(name)} as a name, expected 1 to 64 characters of A-Z a-z 0-9 _ . -")
        if isinstance(table, Mapping):
            entries[name] = check_table(rules, where, table, problems)
        else:  # the value is not shown: it is a password if that was written one level too high
            problems.append(f"{where}: found a single value, expected a table ({_TOP[kind].help})")
    return entries


def _broker_problems(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the addresses, or with the keys for them."""
    keys = values.get("key_file"), values.get("client_keys")
    try:
        problems = key_problems(check_address(values.get("address", default_address())), *keys)
    except ValueError as error:
        problems = [str(error), *(key_problems("tcp://localhost:1", *keys) if any(keys) else [])]
    metrics_address = values.get("metrics_address")
    if metrics_address is not None:
        try:
            host_and_port(metrics_address)
        except ValueError as error:
            key = "metrics_address"
            problems.append(f"{key}: found {shown(metrics_address)}, {error} ({_BROKER[key].help})")
    return [f"[broker] {problem}" for problem in problems]


def _check_endpoint(where: str, values: dict[str, Any], problems: list[str]) -> None:
    for key in ("sslrootcert", "sslcert", "sslkey", "sslcrl"):
        path = values.get(key)  # libpq reads sslrootcert "system" as the operating system's certificates
        if path is not None and not os.path.isfile(path) and (key, path) != ("sslrootcert", "system"):
            problems.append(f"{where} {key}: found {shown(path)}, which does not exist, expected {_ENDPOINT[key].help}")
    if "," in values.get("host", ""):
        problems.append(
            f"{where} host: found {shown(values['host'])}, expected one host; make an endpoint for each, and name "
            "them all in the group's endpoints: poold finds out which one is the primary"
        )
    ways = [key for key in _PASSWORD_KEYS if values.get(key) is not None]
    if len(ways) > 1:
        problems.append(f"{where} {' and '.join(ways)}: found {len(ways)} ways to give the password, expected one")
    elif ways and ways[0] != "password":
        values["password"], trouble = passwords.find(ways[0], values[ways[0]])
        if trouble:
            problems.append(f"{where} {ways[0]}: found {shown(values[ways[0]])}, {trouble} ({_ENDPOINT[ways[0]].help})")


def _check_group(where: str, values: dict[str, Any], known: tuple[str, ...], problems: list[str]) -> None:
    low, high = values.get("min_size", 0), values.get("max_size", math.inf)
    if low > high:
        problems.append(f"{where} min_size: found {low}, expected at most max_size, which is {high}")
    if values.get("legacy_session") and values.get("autocommit") is False:
        problems.append(f"{where} legacy_session: found true with autocommit = false, expected autocommit with it")
    names = values["endpoints"] = values.get("endpoints") or known
    for position, name in enumerate(names):
        if known and name not in known:
            problems.append(f"{where} endpoints: found {shown(name)}, which is no endpoint{suggestion(name, known)}")
        elif name in names[:position]:
            problems.append(f"{where} endpoints: found {shown(name)} more than once, expected it once")
