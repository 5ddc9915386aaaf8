"""More mistakes: in what is proven, what is prepared, what it means there, and what shares a backend."""

from __future__ import annotations

from typing import Any

import pytest

from poold.core.effects import Bind, Deallocate
from poold.core.pools import lifecycle
from poold.core.pools.lifecycle import Lifecycle
from poold.core.pools.watch import Watch
from poold.core.records.request import Verb
from poold.core.requests.runs import Runs
from poold.core.requests.waiting import Waiting
from poold.core.statements import leftovers
from poold.core.statements import statement as statements
from poold.core.statements.generations import Generations
from poold.core.statements.leftovers import NOTHING
from poold.core.statements.proofs import Proof
from poold.core.statements.statement import Statement, Statements
from poold.core.work import early_failures, outcomes, probe
from poold.core.work.probe import Probe
from poold.core.work.query import QueryWork
from poold.core.work.units import Runner
from simulation.mutations import mutation, wrap
from simulation.mutations_of_sessions import MUTATIONS, Instead

__all__ = ["MUTATIONS"]  # all of them, those here among them

# In which kind of world a mistake shows early that is rare in others.
SHOWN_IN = {
    "a commit is retried blindly": "lost commits",
    "a commit is cancelled": "lost commits",
    "a transaction still in progress counts as rolled back": "lost commits",
    "a statement that has begun is run again": "company",
    "another server is asked what became of a commit": "lost commits",
    "whoever was hit by the cancel of another is told so": "company",
    "statements mean the same after a change of the schema": "changes",
    "statements mean the same after the commit of a change": "changes",
    "statements mean the same although the catalogs moved": "changes",
    "the failure of what may have run functions is repeated": "changes",
    "what fails at its commit is repeated": "changes",
    "who waits for a lock before others waits on": "locks",
    "nobody looks again after one that waited for a lock": "locks",
    "who waited for a lock before others does so again": "locks",
    "nobody asks before what may commit by itself": "code",
    "any number of transactions counts as one step": "code",
    "a question without an answer counts as one step": "code",
    "the question behind a failure is not awaited": "code",
    "a message that is lost runs again whatever it does": "lost commits",
    "an id given again after a crash counts as the one before": "lost commits",
    "a commit that rolled back counts as one": "sessions",
    "a reset goes without CLOSE ALL": "sessions",
    "a reset goes without UNLISTEN *": "sessions",
    "a reset goes without RESET SESSION AUTHORIZATION": "code",
    "a statement outside of a transaction that is lost counts as not executed": "sessions",
    "a transaction that is tried again goes without its settings": "settings",
    "a statement with literals goes without its settings": "settings",
    "settings stay with their statement": "settings",
    "settings come after their statement": "settings",
    "old backends are closed together": "old backends",
    "an old backend takes more into its pipeline": "old backends",
    "a session is always told of a transaction": "sessions",
    "what could not be examined counts as proven": "changes",
    "a connect that fails after another is not made up for": "refusals",
    "what follows on a lost backend follows on the next one as well": "sequences",
    "what is parsed twice in a unit is dropped before it": "settings",
    "a lease of batch that ends serves nobody": "code",
    "the moment at which a constant is read is kept": "changes",
    "a transaction left open is not rolled back": "lost commits",
    "a read that is lost runs again whatever it calls": "code",
    "what an examination left stays": "company",
    "an examination may write": "company",
    "a library counts as reset": "sessions",
}

# Resets.


@mutation
def an_unproven_statement_is_not_followed_by_a_reset(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.work.units.left_by", lambda use: use)


@mutation
def the_second_unit_of_a_reset_is_not_awaited(patch: pytest.MonkeyPatch) -> None:
    def ended(original: Any, self: Lifecycle, backend: Any, done: Any) -> None:
        if backend.resets > 1 and done.failure is None:
            backend.transaction, backend.resets, backend.left = done.transaction, 0, NOTHING
            self._agenda.resting.append(backend)
        else:
            original(self, backend, done)

    wrap(patch, Lifecycle, "reset_ended", ended)


@mutation
def the_names_that_a_reset_finds_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lifecycle, "leftovers", Instead(leftovers, names_held=lambda *_: _Anything()))


class _Anything:
    """Equals all there is."""

    __hash__ = None  # type: ignore[assignment]  # nobody keeps it

    def __eq__(self, _: object) -> bool:
        return True


@mutation
def the_values_of_sequences_stay_for_the_next_statement(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.work.units._before", lambda *_: [])


@mutation
def the_values_of_sequences_stay_for_the_next_message(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.work.script.DISCARD_BEFORE_BEGIN", ())


@mutation
def what_follows_on_a_lost_backend_follows_on_the_next_one_as_well(patch: pytest.MonkeyPatch) -> None:
    def again(original: Any, self: Waiting, request: Any, *rest: Any) -> None:
        following = request.then
        original(self, request, *rest)
        request.then = following

    wrap(patch, Waiting, "again", again)


# What prepared statements mean.


@mutation
def what_is_prepared_runs_behind_an_unproven_step(patch: pytest.MonkeyPatch) -> None:
    def alter(original: Any, self: Runner, statement: Any) -> None:
        original(self, statement)
        self.is_base = True

    wrap(patch, Runner, "_alter", alter)


@mutation
def what_is_prepared_runs_behind_an_unproven_statement_of_its_lease(patch: pytest.MonkeyPatch) -> None:
    def start(original: Any, self: Runs, backend: Any, request: Any, now: float) -> None:
        original(self, backend, request, now)
        if request.lease is not None:
            request.lease.is_altered = False

    wrap(patch, Runs, "start", start)


@mutation
def statements_are_known_without_their_settings(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Statements, "find", lambda original, self, template, types, *_: original(self, template, types))


@mutation
def a_statement_is_parsed_under_the_settings_of_nobody(patch: pytest.MonkeyPatch) -> None:
    def start(original: Any, self: Probe, *rest: Any) -> Any:
        kept, self.statement.settings = self.statement.settings, b""
        unit = original(self, *rest)
        self.statement.settings = kept
        return unit

    wrap(patch, Probe, "start", start)


@mutation
def a_name_is_planned_for_its_values_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(statements, "CUSTOM_PLANS", 1 << 62)


@mutation
def what_is_parsed_twice_in_a_unit_is_dropped_before_it(patch: pytest.MonkeyPatch) -> None:
    def in_order(commands: Any) -> Any:
        return tuple(sorted(commands, key=lambda command: type(command) is not Deallocate))

    patch.setattr("poold.core.work.script.in_order", in_order)


@mutation
def statements_mean_the_same_after_a_change_of_the_schema(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Generations, "forget_outdated", lambda *_: False)


@mutation
def statements_mean_the_same_after_the_commit_of_a_change(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, QueryWork, "committed", lambda *_: None)


@mutation
def statements_mean_the_same_although_the_catalogs_moved(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Watch, "have_changed", lambda original, self, counts: original(self, counts) and False)


@mutation
def the_moment_at_which_a_constant_is_read_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(statements, "names_moment", lambda _: False)


@mutation
def an_interval_is_read_as_a_parameter(patch: pytest.MonkeyPatch) -> None:
    def next_question(original: Any, self: Any) -> Any:
        self._examiner.holds_interval = False
        return original(self)

    wrap(patch, Probe, "_next_question", next_question)


@mutation
def what_could_not_be_examined_counts_as_proven(patch: pytest.MonkeyPatch) -> None:
    def conclude(original: Any, self: Any, proof: Proof) -> None:
        original(self, proof if proof.is_harmless else Proof(is_harmless=True))

    wrap(patch, Probe, "_conclude", conclude)


@mutation
def what_contains_a_domain_is_prepared(patch: pytest.MonkeyPatch) -> None:
    def next_question(original: Any, self: Any) -> Any:
        self._examiner.has_domain = False
        return original(self)

    wrap(patch, Probe, "_next_question", next_question)


@mutation
def what_an_examination_left_stays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(probe, "UNSEEN", NOTHING)


@mutation
def an_examination_may_write(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(probe, "_TELLING", probe._TELLING.replace(b"_read_only', 'on'", b"_read_only', 'off'"))
    patch.setattr(probe, "_QUIET", probe._QUIET.replace(b"_read_only', 'on'", b"_read_only', 'off'"))


# Failures.


@mutation
def the_failure_of_what_may_have_run_functions_is_repeated(patch: pytest.MonkeyPatch) -> None:
    def is_early(known: Any, statement: Any, failed: Any, done: Any, was_harmless: bool) -> bool:
        found = early_failures.is_early(known, statement, failed, done, was_harmless)
        return found or (failed is not None and done.is_unbound)

    patch.setattr("poold.core.work.query.is_early", is_early)
    patch.setattr("poold.core.work.transaction.is_early", is_early)


@mutation
def what_fails_at_its_commit_is_repeated(patch: pytest.MonkeyPatch) -> None:
    def is_worth(original: Any, self: QueryWork, backend: Any, request: Any, failure: Any, done: Any) -> bool:
        is_late = type(request.unit[-1]) is Bind and len(done.results) == done.bound
        if is_late and done.results and request.lease is None and failure.sqlstate in ("0A000", "26000", "XX000"):
            request.is_literal = True
            return True
        return bool(original(self, backend, request, failure, done))

    wrap(patch, QueryWork, "_is_worth_another_run", is_worth)


# What may commit by itself, and what is lost.


@mutation
def nobody_asks_before_what_may_commit_by_itself(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.requests.runs.question_before", lambda *_: None)


@mutation
def any_number_of_transactions_counts_as_one_step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.work.question.is_one_step", lambda *_: True)


@mutation
def a_question_without_an_answer_counts_as_one_step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.work.question.is_one_step", lambda *numbers: outcomes.is_one_step(*numbers) is not False)


@mutation
def the_question_behind_a_failure_is_not_awaited(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.work.query.wants_count", lambda *_: False)


@mutation
def a_read_that_is_lost_runs_again_whatever_it_calls(patch: pytest.MonkeyPatch) -> None:
    def is_read(request: Any) -> bool:
        return request.statement is not None and bool(request.statement.sql.startswith(b"SELECT"))

    patch.setattr("poold.core.work.query._is_plain_read", is_read)


@mutation
def a_message_that_is_lost_runs_again_whatever_it_does(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.work.transaction._only_reads", lambda *_: True)


# Company.


def _is_short_if(patch: pytest.MonkeyPatch, is_company: Any) -> None:
    def record(original: Any, self: Statement, *rest: Any) -> None:
        original(self, *rest)
        is_fast = self.expected < statements.SHORT_SECONDS and self.runs >= statements.TRUSTED_AFTER
        self.is_short = is_fast and self.state is statements.StatementState.PREPARED and is_company(self)

    wrap(patch, Statement, "record", record)


@mutation
def an_unproven_statement_shares_a_backend(patch: pytest.MonkeyPatch) -> None:
    _is_short_if(patch, lambda _: True)


@mutation
def a_write_shares_a_backend(patch: pytest.MonkeyPatch) -> None:
    _is_short_if(patch, lambda statement: statement.is_harmless)


@mutation
def who_waits_for_a_lock_before_others_waits_on(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Runs, "_step_aside", lambda *_: None)


@mutation
def what_writes_is_cancelled_where_it_keeps_others_waiting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("poold.core.pools.watch._is_read", lambda each: each.verb is Verb.QUERY and each.lease is None)


@mutation
def nobody_looks_again_after_one_that_waited_for_a_lock(patch: pytest.MonkeyPatch) -> None:
    def has_company(_: Any, self: Watch) -> bool:
        return any(len(each.running) > 1 for each in self.pool.active.values())

    wrap(patch, Watch, "has_company", has_company)
    _all_are_short(patch)


def _all_are_short(patch: pytest.MonkeyPatch) -> None:
    """One that had to wait is not taken to be short for a while, which hides mistakes."""
    patch.setattr(statements, "SHORT_SECONDS", 60.0)
    patch.setattr("poold.core.pools.routing.AHEAD_SECONDS", 60.0)


@mutation
def who_waited_for_a_lock_before_others_does_so_again(patch: pytest.MonkeyPatch) -> None:
    def again(original: Any, self: Waiting, request: Any, *rest: Any) -> None:
        request.is_alone = False
        original(self, request, *rest)

    wrap(patch, Waiting, "again", again)
    _all_are_short(patch)
