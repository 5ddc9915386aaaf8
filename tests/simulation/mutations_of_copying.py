"""Mistakes in what the core does for COPY, for the state machine over it and for worlds in which data is copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from client.wire.messages import ResultMessage
from poold.core.effects import EndFeed, Feed, Hold, Tell
from poold.core.records.request import Request
from poold.core.requests import copying
from poold.core.requests.copying import Copying
from poold.core.work import failures

Mistake = Callable[[pytest.MonkeyPatch], None]
MISTAKES: dict[str, Mistake] = {}


def mistake(function: Mistake) -> Mistake:
    """Put it on the list."""
    MISTAKES[function.__name__.replace("_", " ")] = function
    return function


def wrap(patch: pytest.MonkeyPatch, name: str, instead: Callable[..., Any]) -> None:
    """Let instead(original, self, ...) be the method of Copying."""
    original = getattr(Copying, name)
    patch.setattr(Copying, name, lambda self, *args, **more: instead(original, self, *args, **more))


def without(self: Copying, kind: type) -> None:
    """The last effect is forgotten, if it is of this kind."""
    if self._agenda.effects and type(self._agenda.effects[-1]) is kind:
        self._agenda.effects.pop()


@mistake
def a_copy_stays_held_at_its_end(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, "ended", lambda *_: None)


@mistake
def a_cancelled_copy_stays_held(patch: pytest.MonkeyPatch) -> None:
    def give_up(original: Any, self: Copying, request: Request) -> None:
        original(self, request)
        without(self, Hold)

    wrap(patch, "give_up", give_up)


@mistake
def a_cancelled_copy_waits_for_data(patch: pytest.MonkeyPatch) -> None:
    def give_up(original: Any, self: Copying, request: Request) -> None:
        original(self, request)
        without(self, EndFeed)

    wrap(patch, "give_up", give_up)


@mistake
def a_copy_that_was_cancelled_before_it_began_goes_on(patch: pytest.MonkeyPatch) -> None:
    def begun(original: Any, self: Copying, number: int, now: float) -> None:
        found = self._running(number)
        original(self, number, now)
        if found is not None and found[0].state.name != "RUNNING":
            without(self, EndFeed)

    wrap(patch, "begun", begun)


@mistake
def a_cancelled_copy_ends_as_if_all_data_had_come(patch: pytest.MonkeyPatch) -> None:
    def give_up(original: Any, self: Copying, request: Request) -> None:
        original(self, request)
        last = self._agenda.effects[-1] if self._agenda.effects else None
        if type(last) is EndFeed:
            last.error = None

    wrap(patch, "give_up", give_up)


@mistake
def the_data_of_an_earlier_copy_counts_for_the_next(patch: pytest.MonkeyPatch) -> None:
    def fed(original: Any, self: Copying, number: int, size: int, now: float) -> None:
        found = self._running(number)
        is_begun = found is None or found[1].is_begun
        if found is not None:
            found[1].is_begun = True
        original(self, number, size, now)
        if found is not None:
            found[1].is_begun = is_begun

    wrap(patch, "fed", fed)


@mistake
def data_is_told_behind_a_cancel(patch: pytest.MonkeyPatch) -> None:
    def fed(original: Any, self: Copying, number: int, size: int, now: float) -> None:
        found = self._running(number)
        is_over = found is not None and found[1].is_over
        if found is not None:
            found[1].is_over = False
        original(self, number, size, now)
        if found is not None:
            found[1].is_over = is_over

    wrap(patch, "fed", fed)


@mistake
def a_piece_is_lost(patch: pytest.MonkeyPatch) -> None:
    def given(original: Any, self: Copying, request: Request, transfer: Any, data: bytes, now: float) -> None:
        original(self, request, transfer, data, now)
        if len(data) == 1:
            without(self, Feed)

    wrap(patch, "_given", given)


@mistake
def a_piece_comes_twice(patch: pytest.MonkeyPatch) -> None:
    def came(original: Any, self: Copying, number: int, data: bytes, now: float) -> None:
        original(self, number, data, now)
        last = self._agenda.effects[-1] if self._agenda.effects else None
        if type(last) is Tell and len(data) == 5:
            self._agenda.effects.append(Tell(last.client, last.body))

    wrap(patch, "came", came)


@mistake
def nobody_is_held(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, "_hold", lambda _, self, request, transfer, is_held: setattr(transfer, "is_held", is_held))


@mistake
def who_has_taken_enough_stays_held(patch: pytest.MonkeyPatch) -> None:
    def hold(original: Any, self: Copying, request: Request, transfer: Any, is_held: bool) -> None:
        if is_held or request.state.name != "RUNNING":
            original(self, request, transfer, is_held)

    wrap(patch, "_hold", hold)


@mistake
def a_client_that_keeps_the_rules_is_dropped(patch: pytest.MonkeyPatch) -> None:
    def given(original: Any, self: Copying, request: Request, transfer: Any, data: bytes, now: float) -> None:
        transfer.pending += 1
        original(self, request, transfer, data, now)

    wrap(patch, "_given", given)


@mistake
def the_end_of_the_data_may_be_an_error_that_nobody_sees(patch: pytest.MonkeyPatch) -> None:
    wrap(
        patch,
        "_given_all",
        lambda original, self, request, transfer, _, now: original(self, request, transfer, None, now),
    )


@mistake
def a_copy_of_which_data_has_passed_is_run_again(patch: pytest.MonkeyPatch) -> None:
    def begun(original: Any, self: Copying, number: int, now: float) -> None:
        found = self._running(number)
        moves = 0 if found is None else found[0].moves
        original(self, number, now)
        if found is not None:
            found[0].moves = moves

    wrap(patch, "begun", begun)
    patch.setattr("poold.core.work.query._is_plain_read", lambda request: request.transfer is not None)


@mistake
def what_was_given_completely_counts_as_failed(patch: pytest.MonkeyPatch) -> None:
    original = failures.connection_lost

    def connection_lost(request: Request, *rest: Any) -> Any:
        if request.transfer is not None:
            request.transfer.is_complete = False
        return original(request, *rest)

    patch.setattr(failures, "connection_lost", connection_lost)


@mistake
def a_copy_of_which_data_was_thrown_away_counts_as_done(patch: pytest.MonkeyPatch) -> None:
    def came(original: Any, self: Copying, number: int, data: bytes, now: float) -> None:
        original(self, number, data, now)
        if (found := self._running(number)) is not None:
            found[1].is_cut = False

    wrap(patch, "came", came)


@mistake
def a_reply_comes_before_the_last_data(patch: pytest.MonkeyPatch) -> None:
    def came(original: Any, self: Copying, number: int, data: bytes, now: float) -> None:
        found = self._running(number)
        if found is not None and found[1].pending + len(data) < copying.HOLD_FROM and len(data) == 1:
            reply = ResultMessage(found[0].number, "none", "COPY", 1, None, b"", ())
            self._agenda.effects.append(_reply(found[0].client.key, reply))
        original(self, number, data, now)

    wrap(patch, "came", came)


def _reply(client: int, body: ResultMessage) -> Any:
    from poold.core.effects import Reply

    return Reply(client, body)
