"""More mistakes: in which endpoint is the primary, what follows when that changes, and in reads on replicas."""

from __future__ import annotations

from typing import Any

import pytest

from poold.core.effects import Reply
from poold.core.pools import roles
from poold.core.pools.cluster import Cluster
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
def a_write_is_not_noted(patch: pytest.MonkeyPatch) -> None:
    def wrote(original: Any, self: Cluster, process: Any, is_loose: bool) -> None:
        if process not in self._writes:
            original(self, process, is_loose)

    wrap(patch, Cluster, "wrote", wrote)


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
