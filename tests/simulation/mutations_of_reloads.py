"""Mistakes in what the core does when another configuration holds, for worlds in which an operator reloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from poold.core.clients import admission
from poold.core.operations import reconfiguring
from poold.core.operations.pausing import Pausing
from poold.core.operations.reconfiguring import GROUP_REMOVED, Reconfiguring
from poold.core.pools import janitor
from poold.core.pools.directory import Directory
from poold.core.pools.group import Group
from poold.core.pools.lifecycle import Lifecycle
from poold.core.state import BackendState
from simulation.mutations import wrap

Slip = Callable[[pytest.MonkeyPatch], None]
SLIPS: dict[str, Slip] = {}


def slip(function: Slip) -> Slip:
    """Put it on the list."""
    SLIPS[function.__name__.replace("_", " ")] = function
    return function


# Groups that are removed.


@slip
def who_waits_for_a_removed_group_is_not_told(patch: pytest.MonkeyPatch) -> None:
    def remove(original: Any, self: Reconfiguring, group: Any, now: float) -> None:
        before = dict(self._agenda.unsettled)
        original(self, group, now)
        self._agenda.unsettled.clear()
        self._agenda.unsettled.update(before)

    wrap(patch, Reconfiguring, "_remove", remove)


@slip
def what_is_open_is_looked_for_in_the_group_that_has_its_name(patch: pytest.MonkeyPatch) -> None:
    def going_on(original: Any, client: Any, message: Any) -> Any:
        return None if message.group in client.open_groups else original(client, message)

    wrap(patch, admission, "_going_on", going_on)


@slip
def a_removed_group_keeps_what_rests(patch: pytest.MonkeyPatch) -> None:
    reason_to_retire = janitor.reason_to_retire

    def reason(group: Any, backend: Any, now: float) -> str | None:
        found = reason_to_retire(group, backend, now)
        return None if found == GROUP_REMOVED else found

    patch.setattr(janitor, "reason_to_retire", reason)


@slip
def a_removed_group_opens_backends(patch: pytest.MonkeyPatch) -> None:
    def leave(original: Any, self: Lifecycle, pool: Any, why: str) -> None:
        shares = pool.cap, pool.floor
        original(self, pool, why)
        pool.cap, pool.floor = shares

    wrap(patch, Lifecycle, "leave", leave)


@slip
def what_is_leased_in_a_removed_group_is_closed_in_the_middle(patch: pytest.MonkeyPatch) -> None:
    def leave(original: Any, self: Lifecycle, pool: Any, why: str) -> None:
        original(self, pool, why)
        for backend in list(pool.members[BackendState.LEASED].values()):
            self.close(backend, why)

    wrap(patch, Lifecycle, "leave", leave)


@slip
def what_is_lent_of_a_removed_group_stays_lent(patch: pytest.MonkeyPatch) -> None:
    def leave(original: Any, self: Lifecycle, pool: Any, why: str) -> None:
        lent = dict(pool.lent)
        for number in lent:
            del pool.members[BackendState.LENT][number]
        original(self, pool, why)
        pool.members[BackendState.LENT].update(lent)

    wrap(patch, Lifecycle, "leave", leave)


@slip
def the_lane_goes_on_with_a_removed_group(patch: pytest.MonkeyPatch) -> None:
    def remove(original: Any, self: Reconfiguring, group: Any, now: float) -> None:
        generation = group.statements.generation
        original(self, group, now)
        group.statements.generation = generation
        group.is_removed = False
        group.use(group.pools)

    wrap(patch, Reconfiguring, "_remove", remove)


@slip
def a_lease_of_a_removed_group_is_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.clients.admission._going_on", lambda *_: None)


@slip
def a_removed_group_is_offered_to_those_who_knew_it(patch: pytest.MonkeyPatch) -> None:
    def remove(original: Any, self: Directory, group: Any) -> None:
        original(self, group)
        self.groups[group.name] = group

    wrap(patch, Directory, "remove", remove)


# What changes.


@slip
def a_group_that_shrinks_keeps_what_rests(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lifecycle, "shrink", lambda *_: None)


@slip
def a_group_that_shrank_uses_again_what_it_has_too_much_of(patch: pytest.MonkeyPatch) -> None:
    reason_to_retire = janitor.reason_to_retire

    def reason(group: Any, backend: Any, now: float) -> str | None:
        found = reason_to_retire(group, backend, now)
        return None if found == "max_size" else found

    patch.setattr(janitor, "reason_to_retire", reason)


@slip
def a_group_that_grows_does_not_look_at_its_queue(patch: pytest.MonkeyPatch) -> None:
    def apply(original: Any, self: Reconfiguring, *args: Any) -> None:
        before = dict(self._agenda.unsettled)
        original(self, *args)
        self._agenda.unsettled.clear()
        self._agenda.unsettled.update(before)

    wrap(patch, Reconfiguring, "apply", apply)


@slip
def backends_with_an_old_login_are_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reconfiguring, "are_backends_replaced", lambda *_: False)


@slip
def a_file_with_another_content_does_not_count(patch: pytest.MonkeyPatch) -> None:
    def change(original: Any, self: Reconfiguring, before: Any, _: Any, now: float) -> Any:
        return original(self, before, (), now)

    wrap(patch, Reconfiguring, "_change_endpoints", change)


@slip
def an_endpoint_that_comes_back_keeps_its_old_backends(patch: pytest.MonkeyPatch) -> None:
    def add_endpoint(original: Any, self: Directory, *args: Any) -> Any:
        return original(self, *args)[0], False

    wrap(patch, Directory, "add_endpoint", add_endpoint)


@slip
def all_groups_lose_their_statements(patch: pytest.MonkeyPatch) -> None:
    def apply(original: Any, self: Reconfiguring, *args: Any) -> None:
        original(self, *args)
        self._generations.begin_anew()

    wrap(patch, Reconfiguring, "apply", apply)


@slip
def all_groups_lose_their_backends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reconfiguring, "are_backends_replaced", lambda *_: True)


@slip
def a_groups_limits_stay_what_they_were(patch: pytest.MonkeyPatch) -> None:
    def configure(original: Any, self: Group, config: Any) -> None:
        known = getattr(self, "batch_limit", None)
        original(self, config)
        if known is not None:
            self.batch_limit = known

    wrap(patch, Group, "configure", configure)


# Pauses.


@slip
def what_joins_a_paused_group_begins(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Pausing, "joined", lambda *_: None)
