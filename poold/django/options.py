"""One entry of Django's DATABASES as this backend reads it: which group of which broker, and what is void.

A Django project tells its database where the server is and how long to keep connections. Here the broker knows both, so
an entry has only to name a group; what else it says is either passed on to the client, or named in a problem.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from client.handler import DEFAULT_GROUP

# Of OPTIONS: what the client takes, see `client.handler.Handler`.
CLIENT_OPTIONS = (
    "address", "server_key", "key", "connect_wait", "tag", "priority", "prepare", "read_only", "after",
    "cursor_factory", "code_place", "trace",
)  # fmt: skip
# Of OPTIONS: what this backend makes of Django's own.
OWN_OPTIONS = ("group", "settings", "isolation_level", "assume_role")
_PREPARES = "the broker prepares by itself what is sent often; OPTIONS['prepare'] = False turns that off"
# Of OPTIONS, with the reason: what means nothing here and may stay, so that ENGINE can be changed back and forth.
VOID_OPTIONS = {
    "pool": "the broker pools the backends of all processes; the group's max_size is the pool's size",
    "server_side_binding": _PREPARES,
    "prepare_threshold": _PREPARES,
    "client_encoding": "the client's encoding is always UTF8",
}
# Of OPTIONS: libpq's words for what the broker's configuration says of an endpoint.
ENDPOINT_OPTIONS = frozenset(
    (
        "application_name", "channel_binding", "connect_timeout", "host", "hostaddr", "options", "passfile", "password",
        "port", "dbname", "service", "sslcert", "sslcrl", "sslkey", "sslmode", "sslrootcert", "user",
    )
)  # fmt: skip
# Of the entry itself, with the reason.
_ELSEWHERE = "the broker's configuration says where the server is and who connects, in [endpoints.NAME]"
VOID_SETTINGS = {
    "HOST": _ELSEWHERE,
    "PORT": _ELSEWHERE,
    "USER": _ELSEWHERE,
    "PASSWORD": _ELSEWHERE + "; a password need not be in the project any more",
    "CONN_MAX_AGE": "a connection here holds nothing that could grow old; the group's max_lifetime and max_idle say "
    "how long backends live",
    "CONN_HEALTH_CHECKS": "the broker notices a dead backend before it is given to anybody, and the next statement may "
    "run on another one than the one that a check has asked",
}
# What a project can do where an error says what a program with connections of its own can.
WORDS = (
    ("on a connection made by connect(..., session=True)", "in atomic()"),
    ("in one transaction or in atomic()", "in one atomic() block"),
    ("set autocommit = False, or connect with session=True", "use atomic()"),
    ("connect with session=True", "use atomic()"),
    ("connect(..., settings={'name': 'value'})", "OPTIONS['settings'] = {'name': 'value'}"),
    ("connect(..., settings={'statement_timeout': '1min'})", "OPTIONS['settings'] = {'statement_timeout': '1min'}"),
    ("call rollback()", "leave the atomic() block (or call rollback())"),
)  # fmt: skip


class Place(NamedTuple):
    """Where statements go: what is known of the server behind it holds for all connections with the same place."""

    address: str | None
    group: str
    role: str | None


def group_of(settings: Mapping[str, Any]) -> str:
    """The group of an entry; of one without a database (Django's for CREATE DATABASE) TEST["ADMIN_GROUP"], or ''."""
    if settings["NAME"] is None:
        return str(settings["TEST"].get("ADMIN_GROUP") or "")
    return str(settings["OPTIONS"].get("group", DEFAULT_GROUP))


def place_of(settings: Mapping[str, Any]) -> Place:
    """The place of an entry."""
    options = settings["OPTIONS"]
    return Place(options.get("address"), group_of(settings), options.get("assume_role"))


def connect_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `client.dbapi.connect`, but for the time zone."""
    options = settings["OPTIONS"]
    found: dict[str, Any] = {name: options[name] for name in CLIENT_OPTIONS if name in options}
    found["group"] = group_of(settings)
    travelling = dict(options.get("settings") or {})
    if options.get("assume_role"):
        travelling["role"] = options["assume_role"]
    found["settings"] = travelling
    return found


def mistakes(settings: Mapping[str, Any]) -> list[str]:
    """What cannot be meant: words in OPTIONS that nobody would read."""
    found = []
    for name in settings["OPTIONS"]:
        if name in ENDPOINT_OPTIONS:
            found.append(
                f"OPTIONS[{name!r}] is for who connects to the server, which is the broker; write it into "
                f"[endpoints.NAME] of the broker's configuration, and remove it here"
            )
        elif name not in (*CLIENT_OPTIONS, *OWN_OPTIONS, *VOID_OPTIONS):
            known = ", ".join(sorted((*CLIENT_OPTIONS, *OWN_OPTIONS)))
            found.append(f"OPTIONS has no {name!r} with the engine poold.django; expected one of {known}")
    travelling = settings["OPTIONS"].get("settings")
    if travelling is not None and not isinstance(travelling, Mapping):
        found.append(
            f"OPTIONS['settings'] is {travelling!r:.200}; expected a mapping of PostgreSQL's settings, as in "
            "{'work_mem': '64MB'}"
        )
    elif any(str(name).lower() in ("timezone", "role") for name in travelling or ()):
        found.append(
            "OPTIONS['settings'] has TimeZone or role; the time zone is this entry's TIME_ZONE, or the project's, and "
            "the role is OPTIONS['assume_role']"
        )
    return found


def void(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is said and means nothing here: the word, and why."""
    found = [(name, reason) for name, reason in VOID_SETTINGS.items() if settings.get(name)]
    found += [(f"OPTIONS[{name!r}]", VOID_OPTIONS[name]) for name in VOID_OPTIONS if settings["OPTIONS"].get(name)]
    return found
