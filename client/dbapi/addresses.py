"""What becomes of psycopg2's ways to name a server: an error that says what to write instead."""

from __future__ import annotations

from typing import Any

import psycopg2

from client.wire.address import check_address

# Keywords of libpq's that say where the database is, or how to get there.
_SERVERS = (
    "dsn", "dbname", "database", "host", "hostaddr", "port", "user", "password", "service", "sslmode", "options",
    "connect_timeout", "application_name", "client_encoding", "target_session_attrs", "keepalives",
)  # fmt: skip
# What there is instead of some of them.
_INSTEAD = {
    "options": "instead of options='-c search_path=app' give settings={'search_path': 'app'}",
    "application_name": "instead of application_name='billing' give tag='billing'",
    "connect_timeout": "instead of connect_timeout=5 give connect_wait=5",
}


class AddressError(psycopg2.ProgrammingError, ValueError):
    """The address has no form that poold knows; a ValueError as the Handler's."""


def refuse_servers(address: Any, options: dict[str, Any]) -> None:
    """Raise psycopg2's ProgrammingError if a server is named, by a connection string or by keywords.

    The error shows no values: one of them may be a password. An address that is none raises one too.
    """
    named = [name for name in _SERVERS if name in options]
    text = address if isinstance(address, str) else ""
    if text.startswith(("postgres://", "postgresql://")) or ("=" in text and "://" not in text):
        named.insert(0, "a connection string")
    if named:
        instead = "".join(f"; {_INSTEAD[name]}" for name in named if name in _INSTEAD)
        raise psycopg2.ProgrammingError(
            f"connect() was given {', '.join(named)} for libpq, and it is poold's configuration that names servers, "
            "databases, users and their options: write connect(group='...') with the name of a group there, and "
            f"address='ipc:///...' if the broker is not at its default address{instead}"
        )
    for name in ("async", "async_"):
        if options.pop(name, None):
            raise psycopg2.NotSupportedError(
                "there are no asynchronous connections; run calls in threads (asyncio.to_thread) instead"
            )
    if isinstance(address, str):
        try:
            check_address(address)
        except ValueError as error:
            default = "; leave it out, or None, for the default one (POOLD_ADDRESS, or this user's broker)"
            raise AddressError(f"{error}{default}") from None
