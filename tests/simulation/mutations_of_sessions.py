"""More mistakes: in what sessions leave, in whose turn it is, and in what clients may do."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from model.leftovers import DEALLOCATE_ALL, RESETTING

from client.wire.limits import BATCH, IN_SESSION, OPENS_SESSION
from client.wire.messages import TX_NONE, Query
from poold.core.broker import Broker
from poold.core.clients.admission import Admission
from poold.core.clients.leases import Leases
from poold.core.deadlines import Deadlines
from poold.core.effects import Bind, Drop, SimpleQuery
from poold.core.pools import lifecycle
from poold.core.pools.group import Group
from poold.core.pools.lifecycle import Lifecycle
from poold.core.records.client import Client
from poold.core.settling import Settling
from poold.core.shared.queue import Line, Queue
from poold.core.state import RequestState
from poold.core.statements import leftovers
from poold.core.statements.leftovers import NOTHING
from poold.core.work import failures, settings, units
from poold.core.work.query import QueryWork
from poold.core.work.script import Script
from simulation.mutations import MUTATIONS, mutation, wrap

__all__ = ["MUTATIONS"]  # all of them, those here among them

# What was left in a session.


@mutation
def a_reset_is_skipped(patch: pytest.MonkeyPatch) -> None:
    def reset(original: Any, self: Lifecycle, backend: Any, now: float) -> None:
        if backend.transaction != TX_NONE:
            original(self, backend, now)
        else:
            backend.left = NOTHING
            self._agenda.resting.append(backend)

    wrap(patch, Lifecycle, "reset", reset)


@mutation
def the_failure_of_a_reset_is_ignored(patch: pytest.MonkeyPatch) -> None:
    def ended(original: Any, self: Lifecycle, backend: Any, done: Any) -> None:
        if done.failure is not None:
            cell = leftovers.names_held(backend.server, len(backend.prepared))
            row = b"D" + (len(cell) + 10).to_bytes(4, "big") + b"\0\1" + len(cell).to_bytes(4, "big") + cell
            done = replace(done, failure=None, results=[("SELECT 1", 1, b"", row, ())])
        original(self, backend, replace(done, is_changed=False))

    wrap(patch, Lifecycle, "reset_ended", ended)


def _without(patch: pytest.MonkeyPatch, command: bytes) -> None:
    def reset(*args: Any) -> Any:
        texts = [unit[0].sql for unit in leftovers.reset(*args)]  # type: ignore[union-attr]  # a Simple
        kept = [b"; ".join(each for each in text.split(b"; ") if command not in each) for text in texts]
        return tuple((SimpleQuery(text),) for text in kept)

    patch.setattr(lifecycle, "leftovers", Instead(leftovers, reset=reset))


for _command in (each for each in RESETTING if each != DEALLOCATE_ALL):
    MUTATIONS[f"a reset goes without {_command.decode()}"] = partial(_without, command=_command)


@mutation
def a_library_counts_as_reset(patch: pytest.MonkeyPatch) -> None:
    def reset(use: Any, *rest: Any) -> Any:
        return leftovers.reset(replace(use, is_lasting=False), *rest)

    patch.setattr(lifecycle, "leftovers", Instead(leftovers, reset=reset))


@mutation
def what_wants_a_session_runs_without_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.clients.admission.statement_objection", lambda *_: None)


@mutation
def a_statement_timeout_is_left_behind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(settings, "SET_LOCAL", settings.SET_LOCAL.replace(b"true", b"false"))


# Settings that travel.


@mutation
def a_transaction_that_is_tried_again_goes_without_its_settings(patch: pytest.MonkeyPatch) -> None:
    def start(original: Any, self: Script, *rest: Any) -> Any:
        if self.tries:
            self._settings = b""
        return original(self, *rest)

    wrap(patch, Script, "start", start)


@mutation
def a_statement_with_literals_goes_without_its_settings(patch: pytest.MonkeyPatch) -> None:
    def commands(own: Any, travelling: bytes, milliseconds: int, is_literal: bool, run: Any) -> Any:
        return settings.commands(own, b"" if is_literal else travelling, milliseconds, is_literal, run)

    patch.setattr(units, "settings", Instead(settings, commands=commands))


@mutation
def settings_stay_with_their_statement(patch: pytest.MonkeyPatch) -> None:
    kept: dict[Any, bytes] = {}

    def unit_for(backend: Any, request: Any, now: float) -> Any:
        text = request.statement.sql
        request.settings = kept[text] = request.settings or kept.get(text, b"")
        return units.unit_for(backend, request, now)

    patch.setattr(QueryWork, "begin", staticmethod(unit_for))


@mutation
def settings_come_after_their_statement(patch: pytest.MonkeyPatch) -> None:
    original = units._unit_with_settings

    def unit_with_settings(*args: Any) -> Any:
        unit = original(*args)
        return (unit[-1], *unit[:-1]) if all(type(each) is Bind for each in unit) else unit

    patch.setattr(units, "_unit_with_settings", unit_with_settings)


# Sessions.


@mutation
def a_lost_session_is_opened_again_unseen(patch: pytest.MonkeyPatch) -> None:
    def query(original: Any, self: Admission, client: Any, message: Query, now: float) -> Any:
        if message.session == IN_SESSION and message.lease not in client.leases:
            message = message._replace(session=OPENS_SESSION)
        return original(self, client, message, now)

    wrap(patch, Admission, "_query", query)


@mutation
def a_statement_outside_of_a_transaction_that_is_lost_counts_as_not_executed(patch: pytest.MonkeyPatch) -> None:
    original = failures.connection_lost
    patch.setattr(
        failures, "connection_lost", lambda request, endpoint, error, _: original(request, endpoint, error, True)
    )


@mutation
def a_release_leaves_what_runs(patch: pytest.MonkeyPatch) -> None:
    def end(original: Any, self: Leases, lease: Any, reason: str) -> None:
        if reason == "it was released" and lease.backend is not None and lease.backend.running:
            lease.client.leases.pop(lease.number)
        else:
            original(self, lease, reason)

    wrap(patch, Leases, "end", end)


@mutation
def a_session_is_always_told_of_a_transaction(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.requests.waiting.transaction_of", lambda _: "active")


# Turns.


@mutation
def the_share_of_batch_is_ignored(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Group, "_batch_room", lambda *_: 1)


@mutation
def a_priority_is_never_served(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Queue, "_next_line", lambda original, self, priorities: original(self, min(priorities, BATCH)))


@mutation
def a_priority_pays_for_the_turns_it_had_alone(patch: pytest.MonkeyPatch) -> None:
    def pop(original: Any, self: Queue, priorities: int) -> Any:
        found = original(self, priorities)
        self._paid = 0.0
        return found

    wrap(patch, Queue, "pop", pop)


@mutation
def a_process_has_all_turns_until_it_wants_none(patch: pytest.MonkeyPatch) -> None:
    def pop(original: Any, self: Line) -> Any:
        process = next(iter(self.turns))
        found = original(self)
        if process in self.turns:
            self.turns.move_to_end(process, last=False)
        return found

    wrap(patch, Line, "pop", pop)


@mutation
def who_comes_back_is_the_first(patch: pytest.MonkeyPatch) -> None:
    def push(original: Any, self: Line, request: Any) -> None:
        original(self, request)
        self.turns.move_to_end(request.client.process, last=False)

    wrap(patch, Line, "push", push)


@mutation
def the_last_request_of_a_process_comes_first(patch: pytest.MonkeyPatch) -> None:
    def push(original: Any, self: Line, request: Any) -> None:
        original(self, request)
        self.turns[request.client.process].move_to_end(request, last=False)

    wrap(patch, Line, "push", push)


@mutation
def each_thread_of_a_process_has_turns_of_its_own(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Client, "__post_init__", lambda _, self: setattr(self, "process", self.key))


@mutation
def what_comes_is_begun_before_those_of_its_priority_that_wait(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Group, "is_busy_for", lambda _, self, request: request.priority == BATCH)


@mutation
def a_lease_of_batch_that_ends_serves_nobody(patch: pytest.MonkeyPatch) -> None:
    def end(original: Any, self: Leases, lease: Any, reason: str) -> None:
        lease.priority = min(lease.priority, BATCH - 1)
        original(self, lease, reason)

    wrap(patch, Leases, "end", end)


# Clients.


@mutation
def a_silent_client_is_not_dropped(patch: pytest.MonkeyPatch) -> None:
    def due(original: Any, self: Deadlines, client: Any, now: float) -> None:
        before = len(self._agenda.effects)
        original(self, client, now)
        if self._agenda.effects[before:]:
            del self._agenda.effects[before:]

    wrap(patch, Deadlines, "_client_due", due)


@mutation
def a_client_that_waits_is_dropped(patch: pytest.MonkeyPatch) -> None:
    wrap(
        patch, Deadlines, "_client_due", lambda _, self, client, now: self._agenda.effects.append(Drop(client.key, ""))
    )


@mutation
def a_client_may_ask_for_any_number_at_once(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Admission, "_too_many", lambda *_: None)


@mutation
def what_a_client_asks_for_is_begun_although_it_reads_nothing(patch: pytest.MonkeyPatch) -> None:
    def dispatch(original: Any, self: Settling, request: Any, now: float) -> None:
        is_stalled, request.client.is_stalled = request.client.is_stalled, False
        original(self, request, now)
        request.client.is_stalled = is_stalled

    wrap(patch, Settling, "dispatch", dispatch)


@mutation
def what_waits_is_begun_although_its_client_reads_nothing(patch: pytest.MonkeyPatch) -> None:
    def next_served(original: Any, self: Group, now: float) -> Any:
        stalled = {request.client for request in self.queue if request.client.is_stalled}
        for client in stalled:
            client.is_stalled = False
        found = original(self, now)
        for client in stalled:
            client.is_stalled = True
        return found

    wrap(patch, Group, "_next_served", next_served)


@mutation
def who_reads_again_is_kept_waiting(patch: pytest.MonkeyPatch) -> None:
    def reads(original: Any, self: Broker, key: int, now: float) -> None:
        client = self.clients.get(key)
        held = {} if client is None else dict(client.held)
        original(self, key, now)
        for request in held:
            if request in request.group.queue:
                request.group.queue.discard(request)
                request.become(RequestState.HELD)
                request.client.held[request] = None

    wrap(patch, Broker, "client_reads", reads)


class Instead:
    """A module with some of its names replaced."""

    def __init__(self, module: Any, **instead: Any) -> None:
        self.__dict__.update(vars(module), **instead)
