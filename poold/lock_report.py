"""Who of the broker's waits for a lock, and for whom: what servers say, and what the core knows of the sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poold.config.current import CurrentConfig
from poold.config.model import EndpointConfig
from poold.postgres.blockers import Held, Locks, Session, Wait, locks
from poold.postgres.connect import Learned

# Backends as `poold.core.sections.backends` shows them.
Backends = Sequence[Mapping[str, Any]]

_ABOUT = (
    "number", "group", "endpoint", "server_pid", "state", "client", "pid", "tag", "request", "lease", "lease_age_ms",
    "idle_in_transaction_ms", "statement", "statement_age_ms",
)  # fmt: skip


class LockReport:
    """Asks the servers of all endpoints at which something runs."""

    def __init__(self, config: CurrentConfig) -> None:
        self._config = config
        # What was learned of each endpoint's server, and by which configuration; a reload may name another server.
        self._learned: dict[str, tuple[EndpointConfig, Learned]] = {}

    async def make(self, look: Callable[[], Backends]) -> dict[str, Any]:
        """Return what waits for locks; look returns the backends at the moment."""
        pids: dict[str, list[int]] = {}
        for backend in look():
            if _runs(backend):
                pids.setdefault(backend["endpoint"], []).append(backend["server_pid"])
        known = {name: found for name, found in pids.items() if name in self._config.endpoints}
        asked = [locks(*self._server(name), found) for name, found in known.items()]
        answers = dict(zip(known, await asyncio.gather(*asked), strict=True))
        backends = look()
        found = [each for name, answer in answers.items() for each in self._of_endpoint(name, answer, backends)]
        # Those first for whom nobody else has to wait: who blocks them is where it begins.
        found.sort(key=lambda each: (all(who["waits"] for who in each["blocked_by"]), -each["statement_age_ms"]))
        errors = {name: answer.error for name, answer in answers.items() if answer.error}
        errors |= dict.fromkeys(pids.keys() - known.keys(), "a reload has removed the endpoint")
        return {"locks": found, "locks_unknown": errors}

    def _server(self, endpoint: str) -> tuple[EndpointConfig, Learned]:
        config = self._config.endpoints[endpoint]
        found = self._learned.get(endpoint)
        if found is None or found[0] is not config:
            found = self._learned[endpoint] = config, Learned()
        return found

    def _of_endpoint(self, endpoint: str, answer: Locks, backends: Backends) -> list[dict[str, Any]]:
        endpoints = self._config.endpoints
        here = endpoints.get(endpoint)
        if here is None:
            return []  # a reload has removed it meanwhile
        same = [name for name, each in endpoints.items() if (each.host, each.port) == (here.host, here.port)]
        # Endpoints may be databases of one server; its own first, as nobody knows whether two names are one server.
        ours = {each["server_pid"]: each for each in backends if each["endpoint"] in same}
        sessions = {each.pid: each for each in answer.sessions}
        waiting = {wait.pid for wait in answer.waits}
        found = []
        for wait in answer.waits:
            backend = ours.get(wait.pid)
            if backend is not None and _runs(backend):
                blockers = [
                    {**_blocker(pid, ours.get(pid), sessions.get(pid)), "waits": pid in waiting}
                    for pid in dict.fromkeys(wait.blockers)
                    if pid
                ]
                if 0 in wait.blockers:
                    blockers += _prepared(wait, answer.prepared)
                lock = _lock(wait)
                found.append({**{key: backend[key] for key in _ABOUT}, "lock": lock, "blocked_by": blockers})
        return found


def _runs(backend: Mapping[str, Any]) -> bool:
    return backend["statement_age_ms"] is not None and backend["server_pid"] is not None


def _blocker(pid: int, backend: Mapping[str, Any] | None, session: Session | None) -> dict[str, Any]:
    """Describe who has the lock: a backend of the broker's own, or anybody else's session."""
    if backend is not None:
        return {"is_own": True, **{key: backend[key] for key in _ABOUT}}
    if session is None:
        return {"is_own": False, "server_pid": pid, "state": "gone"}
    return {
        "is_own": False,
        "server_pid": pid,
        "application_name": session.application_name,
        "user": session.user,
        "database": session.database,
        "state": session.state,
        "query_age_ms": _ms(session.query_age),
        "transaction_age_ms": _ms(session.transaction_age),
    }


def _prepared(wait: Wait, locks: Sequence[Held]) -> list[dict[str, Any]]:
    """Describe the prepared transactions that have the lock; of one that has ended meanwhile no more is known."""
    about = {"is_own": False, "server_pid": None, "state": "prepared transaction", "waits": False}
    found = {held.gid: held for held in locks if wait.is_excluded_by(held)}
    return [
        {
            **about,
            "gid": held.gid,
            "user": held.user,
            "database": held.database,
            "prepared_age_ms": _ms(held.age),
            "end_with": f"ROLLBACK PREPARED {_literal(held.gid)}",
        }
        for held in found.values()
    ] or [about]


def _literal(text: str) -> str:
    """Return the text as a literal that is right whatever standard_conforming_strings is, and in one line."""
    quoted = text.replace("'", "''")
    if quoted.isprintable() and "\\" not in quoted:
        return f"'{quoted}'"
    quoted = quoted.replace("\\", "\\\\")
    return "E'" + "".join([each if each.isprintable() else f"\\U{ord(each):08x}" for each in quoted]) + "'"


def _lock(wait: Wait) -> dict[str, Any]:
    """Describe the lock."""
    return {
        "kind": wait.kind,
        "mode": wait.mode,
        "relation": wait.relation,
        "row": _row(wait),  # its ctid
        "transaction": wait.of("transactionid") or wait.of("virtualxid"),
        "key": wait.key,
        "object": wait.object,
        "in_words": _in_words(wait),
    }


def _row(wait: Wait) -> str | None:
    return None if wait.page is None or wait.line is None else f"({wait.page},{wait.line})"


def _in_words(wait: Wait) -> str:
    relation = wait.relation or (f"relation {oid}" if (oid := wait.of("relation")) else None)
    if wait.kind in ("transactionid", "tuple"):
        if relation is not None:
            return f"a row of {relation} {_row(wait) or ''}".rstrip()
        return f"the end of transaction {wait.of('transactionid')}"
    if wait.kind == "virtualxid":
        return f"the end of transaction {wait.of('virtualxid')}"
    if wait.kind == "advisory":
        return f"advisory lock {wait.key} ({wait.mode})"
    if wait.object is not None:
        return f"{wait.object} ({wait.mode})"
    if wait.kind == "relation":
        return f"{relation or 'a relation'} ({wait.mode})"
    of = "" if relation is None else f" of {relation}"
    return f"{wait.kind}{of} ({wait.mode})"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(0.0, seconds) * 1000, 3)
