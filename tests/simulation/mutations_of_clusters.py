"""More mistakes: in which endpoint is the primary, what follows when that changes, and in reads on replicas."""

from __future__ import annotations

from typing import Any

import pytest

from poold.core.effects import Reply
from poold.core.pools import roles
from poold.core.pools.cluster import Cluster
from poold.core.pools.endpoint import Endpoint
from poold.core.pools.group import Group
from poold.core.pools.lifecycle import Lifecycle
from poold.core.reading import Reading
from poold.core.requests.observing import Observing
from poold.core.requests.rerouting import Rerouting
from poold.core.work import failures
from simulation.mutations import mutation, wrap
from simulation.mutations_of_the_lane import MUTATIONS
from simulation.scenario import CLUSTER

__all__ = ["MUTATIONS"]  # all of them, those here among them

_BEFORE = set(MUTATIONS)


@mutation
def an_older_timeline_is_as_good(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roles, "newest_timeline", lambda members, known: 0)


@mutation
def two_primaries_on_one_timeline_are_both_right(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roles, "_is_claim", lambda endpoint, newest: False)


@mutation
def what_runs_on_a_fenced_endpoint_goes_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Observing, "_abandon", lambda self, endpoint, now: None)


@mutation
def sessions_stay_on_what_is_not_the_primary_any_more(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Observing, "_retire", lambda self, pool, now: None)


@mutation
def idle_backends_stay_where_nobody_is_served(patch: pytest.MonkeyPatch) -> None:
    def endpoint_changed(original: Any, self: Lifecycle, group: Group) -> None:
        before = [pool for pool in group.pools if not pool.is_serving]
        for pool in before:
            pool.is_serving = True
        original(self, group)
        for pool in before:
            pool.is_serving = False
        group.respread()

    wrap(patch, Lifecycle, "endpoint_changed", endpoint_changed)


@mutation
def a_question_under_way_counts_for_a_later_write(patch: pytest.MonkeyPatch) -> None:
    def wrote(original: Any, self: Cluster, process: Any, is_loose: bool) -> None:
        self.asked -= 1
        original(self, process, is_loose)
        self.asked += 1

    wrap(patch, Cluster, "wrote", wrote)


@mutation
def one_replica_that_is_current_is_enough(patch: pytest.MonkeyPatch) -> None:
    def is_current(original: Any, self: Group, client: Any) -> bool:
        left_out = [pool for pool in self.pools if pool.is_serving][1:]
        for pool in left_out:
            pool.is_serving = False
        found = bool(original(self, client))
        for pool in left_out:
            pool.is_serving = True
        return found

    wrap(patch, Group, "is_current", is_current)


@mutation
def a_write_is_not_noted(patch: pytest.MonkeyPatch) -> None:
    def wrote(original: Any, self: Cluster, process: Any, is_loose: bool) -> None:
        if process not in self._writes:
            original(self, process, is_loose)

    wrap(patch, Cluster, "wrote", wrote)


@mutation
def who_was_seen_writing_once_counts_as_a_reader(patch: pytest.MonkeyPatch) -> None:
    def wrote(original: Any, self: Cluster, process: Any, is_loose: bool) -> None:
        is_new = process not in self._writes
        original(self, process, is_loose)
        self._writes[process].is_fresh = self._writes[process].is_fresh or is_new

    wrap(patch, Cluster, "wrote", wrote)


@mutation
def who_has_written_is_forgotten_with_the_primary(patch: pytest.MonkeyPatch) -> None:
    def begin_anew(original: Any, self: Cluster) -> None:
        original(self)
        self._writes.clear()
        self._pending.clear()

    wrap(patch, Cluster, "begin_anew", begin_anew)


@mutation
def a_replica_with_another_history_serves(patch: pytest.MonkeyPatch) -> None:
    def is_behind(endpoint: Endpoint, group: Group, now: float) -> bool:
        main, group.main = group.main, None
        found = original(endpoint, group, now)
        group.main = main
        return found

    original = roles.is_behind
    patch.setattr(roles, "is_behind", is_behind)


@mutation
def a_standby_that_restarts_keeps_its_position(patch: pytest.MonkeyPatch) -> None:
    def doubt(original: Any, self: Observing, now: float) -> None:
        kept = {each: each.position for each in self.endpoints}
        original(self, now)
        for each, position in kept.items():
            each.position = max(each.position, position)

    wrap(patch, Observing, "doubt", doubt)
    wrap(patch, Observing, "unobserved", _keeping_the_position)


def _keeping_the_position(original: Any, self: Observing, endpoint: Endpoint, error: str, now: float) -> None:
    position = endpoint.position
    original(self, endpoint, error, now)
    endpoint.position = max(endpoint.position, position)


@mutation
def what_is_rerouted_is_answered_as_well(patch: pytest.MonkeyPatch) -> None:
    def to_primary(original: Any, self: Rerouting, request: Any, now: float) -> None:
        original(self, request, now)
        told = failures.draining()._replace(request=request.number)
        self._agenda.effects.append(Reply(request.client.key, told))

    wrap(patch, Rerouting, "to_primary", to_primary)


@mutation
def what_a_standby_refuses_is_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(failures, "is_of_standby", lambda backend, failure: False)


@mutation
def a_read_that_waits_for_replicas_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reading, "overdue", lambda self, request, now: self._waiting.pop(request, None))


# Mistakes about roles are shown where there are some.
SHOWN_IN_CLUSTERS = dict.fromkeys((name for name in MUTATIONS if name not in _BEFORE), CLUSTER)
