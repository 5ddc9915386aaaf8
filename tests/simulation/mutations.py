"""Mistakes put into the core, to see that the simulator finds them: that is what it is worth.

Each takes pytest's monkeypatch and changes one thing, as a slip in the code might.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from client.wire.messages import TX_NONE, ResultMessage, TransactionResult
from poold.core.broker import Broker
from poold.core.clients.accounts import Accounts
from poold.core.clients.leases import Leases
from poold.core.effects import Cancel, Reply
from poold.core.pools import routing
from poold.core.pools.availability import Availability
from poold.core.pools.group import Group
from poold.core.records.request import Verb
from poold.core.requests.runs import Runs
from poold.core.requests.waiting import Waiting
from poold.core.settling import Settling
from poold.core.shared.queue import Queue
from poold.core.state import BackendState, BrokerState, RequestState
from poold.core.statements.prepared import Prepared
from poold.core.timers import Timers
from poold.core.work.decision import Answer
from poold.core.work.ending import EndingWork
from poold.core.work.inquiry import InquiryWork
from poold.core.work.probe import ProbeWork
from poold.core.work.query import QueryWork
from poold.core.work.script import Script
from poold.core.work.transaction import TransactionWork

Mutation = Callable[[pytest.MonkeyPatch], None]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    """Put it on the list."""
    MUTATIONS[function.__name__.replace("_", " ")] = function
    return function


def wrap(patch: pytest.MonkeyPatch, owner: type, name: str, instead: Callable[..., Any]) -> None:
    """Let instead(original, self, ...) be the method."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda self, *args, **more: instead(original, self, *args, **more))


# Replies.


@mutation
def a_reply_is_sent_twice(patch: pytest.MonkeyPatch) -> None:
    def answer(original: Any, self: Accounts, request: Any, reply: Any) -> None:
        original(self, request, reply)
        effects = self._agenda.effects
        if type(reply) is TransactionResult and reply.failure is not None and type(effects[-1]) is Reply:
            effects.append(effects[-1])

    wrap(patch, Accounts, "answer", answer)


@mutation
def a_reply_goes_to_another_client(patch: pytest.MonkeyPatch) -> None:
    clients: set[int] = set()

    def answer(original: Any, self: Accounts, request: Any, reply: Any) -> None:
        original(self, request, reply)
        clients.add(request.client.key)
        last = self._agenda.effects[-1] if self._agenda.effects else None
        if type(last) is Reply and request.verb is Verb.ROLLBACK and len(clients) > 1:
            last.client = next(key for key in clients if key != last.client)

    wrap(patch, Accounts, "answer", answer)


@mutation
def a_request_that_is_withdrawn_is_not_answered(patch: pytest.MonkeyPatch) -> None:
    def discard(original: Any, self: Waiting, request: Any, reply: Any) -> None:
        is_withdrawn = reply is not None and getattr(reply, "sqlstate", None) == "57014"
        original(self, request, None if is_withdrawn else reply)

    wrap(patch, Waiting, "discard", discard)


@mutation
def a_waiting_request_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    def push_front(_: Any, self: Queue, request: Any) -> None:
        pass

    wrap(patch, Queue, "push_front", push_front)


# Running again what may have had its effect.


@mutation
def a_statement_that_has_begun_is_run_again(patch: pytest.MonkeyPatch) -> None:
    def lost(original: Any, self: QueryWork, backend: Any, request: Any, loss: Any, _: bool, now: float) -> Any:
        return original(self, backend, request, loss, False, now)

    wrap(patch, QueryWork, "lost", lost)


@mutation
def a_commit_is_retried_blindly(patch: pytest.MonkeyPatch) -> None:
    def in_doubt(_: Any, self: TransactionWork, backend: Any, request: Any, script: Any, *rest: Any) -> Any:
        return self.elsewhere(backend, request, *rest)

    wrap(patch, TransactionWork, "_in_doubt", in_doubt)


@mutation
def a_commit_without_an_answer_counts_as_done(patch: pytest.MonkeyPatch) -> None:
    def in_doubt(_: Any, self: TransactionWork, backend: Any, request: Any, *rest: Any) -> Any:
        return self.committed(request)

    wrap(patch, TransactionWork, "_in_doubt", in_doubt)


@mutation
def another_server_is_asked_what_became_of_a_commit(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, InquiryWork, "can_be_told", lambda *_: True)


@mutation
def a_transaction_still_in_progress_counts_as_rolled_back(patch: pytest.MonkeyPatch) -> None:
    def ended(original: Any, self: InquiryWork, backend: Any, inquiry: Any, done: Any, now: float) -> Any:
        if done.failure is None and b"in progress" in done.results[-1].rows:
            return self.told(inquiry, "aborted", now)
        return original(self, backend, inquiry, done, now)

    wrap(patch, InquiryWork, "ended", ended)


@mutation
def an_id_given_again_after_a_crash_counts_as_the_one_before(patch: pytest.MonkeyPatch) -> None:
    def ended(original: Any, self: InquiryWork, backend: Any, inquiry: Any, done: Any, now: float) -> Any:
        inquiry.epoch = backend.server.epoch
        return original(self, backend, inquiry, done, now)

    wrap(patch, InquiryWork, "ended", ended)


@mutation
def messages_are_tried_more_often_than_they_may(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, TransactionWork, "_may_try_again", lambda *_: True)


@mutation
def a_commit_that_rolled_back_counts_as_one(patch: pytest.MonkeyPatch) -> None:
    def ended(original: Any, self: EndingWork, backend: Any, request: Any, done: Any, now: float) -> Any:
        if request.verb is Verb.COMMIT and done.failure is None and done.results[-1].command == "ROLLBACK":
            return Answer(request, ResultMessage(request.number, TX_NONE, "COMMIT", -1, None, b"", ()))
        return original(self, backend, request, done, now)

    wrap(patch, EndingWork, "ended", ended)


# Cancels.


@mutation
def a_backend_is_used_before_its_cancel_is_settled(patch: pytest.MonkeyPatch) -> None:
    def send_cancel(_: Any, self: Runs, backend: Any) -> None:
        if backend.state is BackendState.ACTIVE:
            self._agenda.effects.append(Cancel(backend.number))

    wrap(patch, Runs, "send_cancel", send_cancel)


@mutation
def whoever_was_hit_by_the_cancel_of_another_is_told_so(patch: pytest.MonkeyPatch) -> None:
    def send_cancel(original: Any, self: Runs, backend: Any) -> None:
        original(self, backend)
        for request in backend.running:
            request.is_exposed = False

    wrap(patch, Runs, "send_cancel", send_cancel)


@mutation
def a_commit_is_cancelled(patch: pytest.MonkeyPatch) -> None:
    def cancel(original: Any, self: Runs, request: Any, state: RequestState, reason: str, now: float) -> None:
        original(self, request, state, reason, now)
        if request.verb is Verb.COMMIT:
            self.send_cancel(request.backend)

    wrap(patch, Runs, "cancel", cancel)


@mutation
def a_cancel_without_effect_is_not_repeated(patch: pytest.MonkeyPatch) -> None:
    def cancelled(original: Any, self: Runs, backend: Any, now: float) -> None:
        original(self, backend, now)
        if backend.request is not None:
            self._timers.clear(backend.request)
            self._timers.clear(backend)

    wrap(patch, Runs, "cancelled", cancelled)


# Leases.


@mutation
def a_lost_lease_is_not_told(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Leases, "lose", lambda _, self, lease, reason: self._agenda.timers.clear(lease))


@mutation
def the_lease_of_a_client_that_is_gone_stays(patch: pytest.MonkeyPatch) -> None:
    def gone(original: Any, self: Broker, key: int, now: float) -> None:
        client = self.clients.get(key)
        if client is not None and not client.requests:
            client.leases.clear()
        original(self, key, now)

    wrap(patch, Broker, "client_gone", gone)


@mutation
def a_transaction_left_open_is_not_rolled_back(patch: pytest.MonkeyPatch) -> None:
    def rest(original: Any, self: Settling, backend: Any, now: float) -> None:
        if backend.lease is None and backend.transaction == "failed":
            backend.transaction = TX_NONE
        original(self, backend, now)

    wrap(patch, Settling, "_rest", rest)


# Pools and time.


@mutation
def pools_grow_beyond_their_size(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Group, "next_opening", lambda original, self: original(self) or _one_more(self))


def _one_more(group: Group) -> Any:
    pool = group.pools[0]
    return pool if group.size == group.config.max_size and len(group.queue) > 3 and not pool.connecting else None


@mutation
def an_endpoint_that_failed_is_never_tried_again(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Availability, "probe", lambda *_: None)


@mutation
def a_pipeline_takes_what_is_not_short(patch: pytest.MonkeyPatch) -> None:
    def may_join(request: Any) -> bool:
        return request.statement is not None and request.lease is None

    patch.setattr(routing, "may_join", may_join)


@mutation
def a_lease_shares_its_backend(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routing, "is_company", lambda backend, now: True)


@mutation
def deadlines_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    def set_(original: Any, self: Timers, key: Any, when: float) -> None:
        if self._serial % 50 != 49:
            original(self, key, when)
        else:
            self._serial += 1

    wrap(patch, Timers, "set", set_)


@mutation
def a_drain_does_not_end(patch: pytest.MonkeyPatch) -> None:
    def drain(_: Any, self: Broker, now: float) -> None:
        self.agenda.state = BrokerState.DRAINING
        next(iter(self.groups.values())).clients += 1

    wrap(patch, Broker, "drain", drain)


@mutation
def a_name_that_was_not_prepared_counts_as_prepared(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Prepared, "_room", lambda original, self, among=(): (original(self, among), [])[1])


@mutation
def a_savepoint_block_that_failed_is_reported_as_done(patch: pytest.MonkeyPatch) -> None:
    def undo(original: Any, self: Script, block: int, step: int, failure: Any) -> None:
        kept = list(self.outcomes)
        original(self, block, step, failure)
        self.outcomes[:] = kept

    wrap(patch, Script, "_undo", undo)


@mutation
def a_probe_is_lost(patch: pytest.MonkeyPatch) -> None:
    def ended(original: Any, self: ProbeWork, backend: Any, request: Any, done: Any, now: float) -> Any:
        return None if done.failure is not None else original(self, backend, request, done, now)

    wrap(patch, ProbeWork, "ended", ended)
