"""More mistakes: in what the core makes of a lane, and in the lane of the model, which the real one has to be like."""

from __future__ import annotations

from typing import Any

import pytest
from model import lane as lanes
from model.lane import Lane
from model.lending import Lending
from model.lent import Flight, Lent, Way

from poold.core.broker import Broker
from poold.core.clients.accounts import Accounts
from poold.core.effects import Bind, Recall
from poold.core.pools.group import Group
from poold.core.records.client import Client
from poold.core.requests.handover import HandOver
from poold.core.shared.queue import Line
from simulation.mutations import mutation, wrap
from simulation.mutations_of_pools import MUTATIONS
from simulation.scenario import LANE

__all__ = ["MUTATIONS"]  # all of them, those here among them
_BEFORE = set(MUTATIONS)


# What is handed over.


@mutation
def an_answer_that_came_before_the_lane_handed_over_is_lost(patch: pytest.MonkeyPatch) -> None:
    surprised: list[int] = []

    def is_surprised(original: Any, self: Lane, number: int, done: Any) -> bool:
        found: bool = original(self, number, done)
        surprised[:] = [number] if found else []
        return found

    def tell_end(original: Any, self: Lending, line: Any, done: Any) -> None:
        if line.number in surprised:
            surprised.clear()
        else:
            original(self, line, done)

    wrap(patch, Lane, "is_surprised", is_surprised)
    wrap(patch, Lending, "_tell_end", tell_end)


@mutation
def neighbours_of_what_is_handed_over_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    def handed_over(original: Any, self: HandOver, backend: Any, now: float) -> Any:
        backend.flights = backend.flights[:1]
        return original(self, backend, now)

    wrap(patch, HandOver, "handed_over", handed_over)


@mutation
def the_unit_of_what_is_handed_over_is_made_of_what_statements_are_today(patch: pytest.MonkeyPatch) -> None:
    def unit(original: Any, self: Flight) -> Any:
        current = self.flow.group.statements.current
        sent = zip(map(current, self.flow.statements), original(self), strict=True)
        return tuple(Bind(each.name, command.count, command.values) for each, command in sent)

    wrap(patch, Flight, "unit", unit)


@mutation
def a_request_of_the_lanes_counts_twice(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Accounts, "take_over", lambda _, self, request: self.open(request))


@mutation
def the_size_of_what_is_handed_over_does_not_count(patch: pytest.MonkeyPatch) -> None:
    def take_over(_: Any, self: Accounts, request: Any) -> None:
        request.client.requests[request.number] = request

    wrap(patch, Accounts, "take_over", take_over)


@mutation
def what_is_handed_over_has_no_deadline(patch: pytest.MonkeyPatch) -> None:
    def handed_over(original: Any, self: HandOver, backend: Any, now: float) -> Any:
        units = original(self, backend, now)
        for request in backend.running:
            self._agenda.timers.clear(request)
        return units

    wrap(patch, HandOver, "handed_over", handed_over)


@mutation
def the_loss_of_a_lent_backend_is_told_before_its_requests(patch: pytest.MonkeyPatch) -> None:
    def tell_lost(original: Any, self: Lending, line: Any, *more: Any) -> None:
        lent = self.lane.lent.get(line.number)
        if lent is not None:
            self.lane._remove(lent)
        original(self, line, *more)

    wrap(patch, Lending, "tell_lost", tell_lost)


@mutation
def a_client_is_gone_before_its_requests_are_handed_over(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Lending, "release", lambda *_: None)


# Who is served, and when.


@mutation
def the_lane_begins_a_request_although_others_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lanes, "_nobody_waits", lambda group: True)


@mutation
def what_waits_in_the_lane_loses_its_place(patch: pytest.MonkeyPatch) -> None:
    def replace(_: Any, self: Line, flight: Any, request: Any) -> None:
        requests = self.turns[request.client.process]
        del requests[flight]
        requests[request] = None

    wrap(patch, Line, "replace", replace)


@mutation
def nobody_tells_the_lane_that_others_wait(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Group, "_is_to_be_poked", lambda *_: False)


@mutation
def the_lane_keeps_its_backends_although_others_wait(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Lane, "poke", lambda *_: None)


@mutation
def the_lane_keeps_what_is_too_old(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lanes, "PATIENCE", 0.1)


@mutation
def who_is_heard_by_the_lane_alone_is_silent(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Client, "last_heard", lambda _, self: self.heard)


# Ends.


@mutation
def the_broker_ends_while_backends_are_lent(patch: pytest.MonkeyPatch) -> None:
    def drain(original: Any, self: Broker, now: float) -> None:
        original(self, now)
        self.agenda.effects = [each for each in self.agenda.effects if type(each) is not Recall]

    wrap(patch, Broker, "drain", drain)


@mutation
def what_is_recalled_at_once_comes_when_it_rests(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Lane, "recall", lambda original, self, number, _: original(self, number, False))


# What the lane runs.


@mutation
def the_lane_runs_what_is_of_another_generation(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Way, "holds", lambda *_: True)


@mutation
def the_lane_does_not_note_that_sequences_are_used(patch: pytest.MonkeyPatch) -> None:
    def note_runs(original: Any, self: Lent, flow: Any) -> None:
        before = self.backend.used_sequences
        original(self, flow)
        self.backend.used_sequences = before

    wrap(patch, Lent, "note_runs", note_runs)


@mutation
def the_lane_does_not_count_runs(patch: pytest.MonkeyPatch) -> None:
    def note_runs(original: Any, self: Lent, flow: Any) -> None:
        kept = dict(self.backend.prepared.held)
        original(self, flow)
        self.backend.prepared.held.update(kept)

    wrap(patch, Lent, "note_runs", note_runs)


@mutation
def a_statement_that_a_transaction_runs_twice_is_run_once(patch: pytest.MonkeyPatch) -> None:
    def has_prepared(_: Any, self: Lent, flow: Any) -> bool:
        return all(self.backend.prepared.held.get(each.name) for each in flow.statements)

    wrap(patch, Lent, "has_prepared", has_prepared)


@mutation
def what_is_not_at_rest_is_lent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.pools.routing.may_be_lent", lambda backend: True)


# Mistakes about the lane are shown where there is one.
SHOWN_IN_LANES = dict.fromkeys((name for name in MUTATIONS if name not in _BEFORE), LANE)
