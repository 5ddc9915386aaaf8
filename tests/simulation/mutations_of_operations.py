"""Mistakes in what the core does for operators, for worlds in which one gives orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from poold.core.effects import Drop
from poold.core.operations import pausing
from poold.core.operations.killing import REASON, Killing
from poold.core.operations.pausing import Pausing, busy
from poold.core.pools import janitor, routing
from poold.core.pools.group import Group
from poold.core.pools.lifecycle import Lifecycle
from poold.core.pools.pool import DRAINS, Pool
from poold.core.state import CANCELLED, RUNNING, BackendState
from poold.core.work import failures
from simulation.mutations import wrap

Blunder = Callable[[pytest.MonkeyPatch], None]
BLUNDERS: dict[str, Blunder] = {}


def blunder(function: Blunder) -> Blunder:
    """Put it on the list."""
    BLUNDERS[function.__name__.replace("_", " ")] = function
    return function


# Reconnect.


def _forgets(patch: pytest.MonkeyPatch, state: BackendState) -> None:
    """Reconnect does not see backends in this state."""

    def reconnect(original: Any, self: Lifecycle, pool: Any) -> None:
        kept = [backend for backend in pool if backend.state is state]
        for backend in kept:
            del pool.members[state][backend.number]
        original(self, pool)
        pool.members[state].update((backend.number, backend) for backend in kept)

    wrap(patch, Lifecycle, "reconnect", reconnect)


@blunder
def what_is_lent_is_not_dismissed(patch: pytest.MonkeyPatch) -> None:
    _forgets(patch, BackendState.LENT)


@blunder
def what_is_leased_is_not_dismissed(patch: pytest.MonkeyPatch) -> None:
    _forgets(patch, BackendState.LEASED)


@blunder
def what_is_being_opened_is_not_dismissed(patch: pytest.MonkeyPatch) -> None:
    _forgets(patch, BackendState.CONNECTING)


@blunder
def what_is_dismissed_is_used_again(patch: pytest.MonkeyPatch) -> None:
    reason_to_retire = janitor.reason_to_retire

    def reason(*args: Any) -> str | None:
        found = reason_to_retire(*args)
        return None if found == "reconnect" else found

    patch.setattr(janitor, "reason_to_retire", reason)


@blunder
def what_is_dismissed_takes_more_into_its_pipeline(patch: pytest.MonkeyPatch) -> None:
    is_company = routing.is_company

    def is_company_of_any(backend: Any, now: float) -> bool:
        is_dismissed, backend.is_dismissed = backend.is_dismissed, False
        found = is_company(backend, now)
        backend.is_dismissed = is_dismissed
        return found

    patch.setattr(routing, "is_company", is_company_of_any)


@blunder
def what_is_dismissed_is_closed_in_the_middle_of_its_lease(patch: pytest.MonkeyPatch) -> None:
    def reconnect(original: Any, self: Lifecycle, pool: Any) -> None:
        original(self, pool)
        for backend in list(pool.members[BackendState.LEASED].values()):
            self.close(backend, "reconnect")

    wrap(patch, Lifecycle, "reconnect", reconnect)


# Pauses.


@blunder
def what_is_paused_runs_what_comes(patch: pytest.MonkeyPatch) -> None:
    def idle_backend(pools: Any) -> Any:
        return next((next(reversed(pool.idle.values())) for pool in pools if pool.idle), None)

    patch.setattr(routing, "idle_backend", idle_backend)


@blunder
def what_is_paused_takes_more_into_its_pipelines(patch: pytest.MonkeyPatch) -> None:
    def backend_to_join(original: Any, pools: Any, *rest: Any) -> Any:
        paused = [pool for pool in pools if pool.is_paused]
        for pool in paused:
            pool.is_paused = False
        found = original(pools, *rest)
        for pool in paused:
            pool.is_paused = True
        return found

    original = routing.backend_to_join
    patch.setattr(routing, "backend_to_join", lambda *args: backend_to_join(original, *args))


@blunder
def what_is_paused_shares_a_turn(patch: pytest.MonkeyPatch) -> None:
    def take_sharing(original: Any, self: Group, *args: Any) -> Any:
        paused = [pool for pool in self.pools if pool.is_paused]
        for pool in paused:
            pool.is_paused = False
        found = original(self, *args)
        for pool in paused:
            pool.is_paused = True
        return found

    wrap(patch, Group, "take_sharing", take_sharing)


@blunder
def what_is_paused_stays_lent(patch: pytest.MonkeyPatch) -> None:
    def changed(original: Any, self: Pausing, pools: Any) -> None:
        pools = list(pools)
        lent = [(pool, dict(pool.lent)) for pool in pools]
        for pool, _ in lent:
            pool.lent.clear()
        original(self, pools)
        for pool, backends in lent:
            pool.lent.update(backends)

    wrap(patch, Pausing, "_changed", changed)


@blunder
def a_pause_is_told_while_leases_are_open(patch: pytest.MonkeyPatch) -> None:
    leased = BackendState.LEASED
    patch.setattr(pausing, "busy", lambda pools: (each for each in busy(pools) if each.state is not leased))


@blunder
def a_pause_is_told_while_a_commit_is_in_doubt(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Pausing, "_in_doubt", lambda *_: 0)


@blunder
def a_pause_is_not_told_when_all_has_ended(patch: pytest.MonkeyPatch) -> None:
    def look(original: Any, self: Pausing, now: float) -> None:
        if any(pending.began == now for pending in self.pending):
            original(self, now)

    wrap(patch, Pausing, "look", look)


@blunder
def a_pause_that_fails_stays(patch: pytest.MonkeyPatch) -> None:
    def due(original: Any, self: Pausing, pending: Any, now: float) -> None:
        pools, pending.pools = pending.pools, ()
        original(self, pending, now)
        pending.pools = pools

    wrap(patch, Pausing, "due", due)


@blunder
def a_pause_of_somebody_who_is_gone_stays(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Pausing, "leave", lambda *_: None)


@blunder
def a_pause_that_fails_ends_an_earlier_one(patch: pytest.MonkeyPatch) -> None:
    def undo(original: Any, self: Pausing, pending: Any) -> None:
        pending.pools = pending.chosen.pools
        original(self, pending)

    wrap(patch, Pausing, "_undo", undo)


@blunder
def what_is_resumed_does_not_look_at_its_queue(patch: pytest.MonkeyPatch) -> None:
    def resume(original: Any, self: Pausing, chosen: Any, kinds: Any) -> Any:
        before = dict(self._agenda.unsettled)
        found = original(self, chosen, kinds)
        self._agenda.unsettled.clear()
        self._agenda.unsettled.update(before)
        return found

    wrap(patch, Pausing, "resume", resume)


@blunder
def a_group_goes_on_though_its_endpoint_is_paused(patch: pytest.MonkeyPatch) -> None:
    def resume(_: Any, self: Pool, kind: Any) -> None:
        self.pauses.discard(kind)
        self.is_paused = False

    wrap(patch, Pool, "resume", resume)


@blunder
def who_waits_for_a_pause_counts_as_silent(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Pausing, "is_waited_for", lambda *_: False)


@blunder
def nobody_asks_about_what_had_begun_in_a_pause(patch: pytest.MonkeyPatch) -> None:
    def next_errand(original: Any, self: Group) -> Any:
        return None if self.is_paused else original(self)

    wrap(patch, Group, "_next_errand", next_errand)


# Kills.


@blunder
def a_killed_request_is_not_answered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(failures, "killed", lambda _: None)


@blunder
def a_killed_request_counts_as_failed_while_it_runs_on(patch: pytest.MonkeyPatch) -> None:
    def end_request(_: Any, self: Killing, request: Any, now: float) -> None:
        if request.is_waiting:
            self._waiting.discard(request, failures.killed(REASON))
        elif request.state is RUNNING:
            self._runs.cancel(request, CANCELLED, REASON, now)
            self._waiting._accounts.answer(request, failures.killed(REASON))

    wrap(patch, Killing, "_end_request", end_request)


@blunder
def a_killed_lease_goes_on(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Killing, "_end_lease", lambda *_: None)


@blunder
def only_one_client_of_a_killed_process_is_disconnected(patch: pytest.MonkeyPatch) -> None:
    def meant(original: Any, self: Killing, kind: str, text: str) -> Any:
        return original(self, kind, text)[:1]

    wrap(patch, Killing, "_meant", meant)


@blunder
def another_client_is_disconnected(patch: pytest.MonkeyPatch) -> None:
    def end_client(_: Any, self: Killing, client: Any) -> None:
        others = [key for key in self._clients if key != client.key]
        self._agenda.effects.append(Drop(others[0] if others else client.key, REASON))

    wrap(patch, Killing, "_end_client", end_client)


@blunder
def what_is_paused_is_lent(patch: pytest.MonkeyPatch) -> None:
    def may_be_lent(original: Any, backend: Any) -> bool:
        is_paused, backend.pool.is_paused = backend.pool.is_paused, False
        found = bool(original(backend))
        backend.pool.is_paused = is_paused
        return found

    original = routing.may_be_lent
    patch.setattr(routing, "may_be_lent", lambda backend: may_be_lent(original, backend))


@blunder
def a_killed_lease_is_told_to_be_rolled_back_while_it_commits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.operations.killing._refuse_what_cannot_end", lambda _: None)


# Drains.


@blunder
def a_drain_is_told_when_all_rests(patch: pytest.MonkeyPatch) -> None:
    def look(original: Any, self: Pausing, now: float) -> None:
        for pending in list(self.pending):
            if pending.kind in DRAINS and not any(busy(pending.chosen.pools)) and not self._in_doubt(pending):
                self._answer(pending, {"drained": True})
        original(self, now)

    def changed(original: Any, self: Lifecycle, group: Any) -> None:
        opening = [dict(pool.connecting) for pool in group.pools]
        for pool in group.pools:
            pool.connecting.clear()
        original(self, group)
        for pool, backends in zip(group.pools, opening, strict=True):
            pool.connecting.update(backends)

    wrap(patch, Pausing, "look", look)
    wrap(patch, Lifecycle, "endpoint_changed", changed)


@blunder
def what_is_drained_keeps_what_rests(patch: pytest.MonkeyPatch) -> None:
    reason_to_retire = janitor.reason_to_retire

    def reason(*args: Any) -> str | None:
        found = reason_to_retire(*args)
        return None if found == "it is drained" else found

    patch.setattr(janitor, "reason_to_retire", reason)
