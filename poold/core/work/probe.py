"""The probe of a statement: whether it can be prepared, and what PostgreSQL makes of it.

On an idle backend, by no client's request, the statement is parsed under a name while PostgreSQL reports its rewritten
parse tree as a notice: with views, rules, policies and defaults applied, before anything is folded or pruned. Then the
catalogs are asked about what the tree names (`poold.core.statements.proofs`). The name stays prepared on that backend.

The tree goes to the server's log as well, as all messages of this level do. `proofs = false` in a group does without
the tree, and without all that a proof allows.

https://www.postgresql.org/docs/current/runtime-config-logging.html#GUC-DEBUG-PRINT-PARSE
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from client.wire.sqlstates import LOCK_NOT_AVAILABLE, QUERY_CANCELED
from poold.core.effects import Command, Plain, Unit, in_order
from poold.core.facts import Completion, Loss
from poold.core.records.backend import Backend
from poold.core.records.request import Request
from poold.core.statements.catalog import COUNTS
from poold.core.statements.generations import Generations
from poold.core.statements.leftovers import UNSEEN
from poold.core.statements.lexemes import holds_structure
from poold.core.statements.prepared import Prepared
from poold.core.statements.proof_query import FIRST_CATALOG, INTERVALS, Question
from poold.core.statements.proofs import UNPROVEN, Proof
from poold.core.statements.statement import Statement, Statements
from poold.core.work import settings
from poold.core.work.decision import Decision, Next
from poold.core.work.references import only_cell

# A probe waits for a lock no longer than this, as its backend serves nobody meanwhile.
LOCK_TIMEOUT_MS = 100
# Questions to the catalogs for one statement.
MAX_QUESTIONS = 8

# To parse a constant may run code: the checks of domains. Here that code cannot write, and the session is reset behind
# the probe unless the statement is proven harmless.
_QUIET = (
    b"SELECT pg_catalog.set_config('lock_timeout', '%d', true), "
    b"pg_catalog.set_config('transaction_read_only', 'on', true)"
) % LOCK_TIMEOUT_MS
# The setting that reports trees comes last, so the tree of this statement is not reported.
_TELLING = (
    _QUIET + b", "
    b"pg_catalog.set_config('debug_pretty_print', 'off', true), "
    b"pg_catalog.set_config('client_min_messages', 'log', true), "
    b"pg_catalog.set_config('debug_print_rewritten', 'on', true)"
)
# The questions to the catalogs are prepared for all trees: plan them once, and quickly.
_CALM = (
    b"SELECT pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true), "
    b"pg_catalog.set_config('jit', 'off', true), pg_catalog.set_config('join_collapse_limit', '1', true), "
    b"pg_catalog.set_config('from_collapse_limit', '1', true)"
)
# Precedes the tree in the notice's text.
_TITLE = "rewritten parse tree:\nDETAIL:  "
# Codes of a probe that was cancelled or waited for a lock: it tells nothing about the statement.
_INCONCLUSIVE = (QUERY_CANCELED, LOCK_NOT_AVAILABLE)


class Examiner(Protocol):
    """The part of `poold.core.statements.proofs.Examination` that a probe uses."""

    @property
    def proof(self) -> Proof:
        """The proof, valid once `question` returns None."""

    @property
    def holds_interval(self) -> bool:
        """Whether a parameter's type is interval or contains it."""

    @property
    def has_domain(self) -> bool:
        """Whether the type of a parameter or a constant is a domain or contains one."""

    def question(self) -> Question | None:
        """The next question to the catalogs, None if there is none."""

    def answered(self, rows: bytes) -> None:
        """Take the answer to `question`, its DataRow messages."""


Examine = Callable[[str, Sequence[int]], Examiner]


class Probe:
    """One probe on its way."""

    def __init__(self, statement: Statement, examine: Examine | None) -> None:
        """examine is None if no tree is wanted."""
        self.statement = statement
        self._examine = examine
        self._examiner: Examiner | None = None
        self.counts = b""  # the catalogs' counts before it was parsed; b"" if it was not
        self._columns: bytes | None = None
        self._questions = 0

    def start(self, prepared: Prepared, statements: Statements) -> Unit:
        """Return the first unit."""
        statement = self.statement
        commands: list[Command] = []
        if statement.settings:
            commands += settings.commands(statements, statement.settings, 0, True, settings.plain)
        # The counts come first: a change after them is noticed, even one before the statement is parsed.
        commands.append(Plain(COUNTS))
        commands.append(Plain(_TELLING if self._examine is not None else _QUIET))
        commands += prepared.prepare(statement)
        return in_order(commands)

    def advance(self, done: Completion, prepared: Prepared, statements: Statements) -> Unit | None:
        """A unit has ended: return the next one, None if the probe is over and the statement knows the result."""
        if self._examiner is None:
            return self._parsed(done, prepared, statements)
        if done.failure is not None:
            if self._must_stay_literal:
                self.statement.refuse()
            else:
                self._conclude(UNPROVEN)
            return None
        self._examiner.answered(done.results[-1].rows or b"")
        return self._next_question(prepared, statements)

    def _parsed(self, done: Completion, prepared: Prepared, statements: Statements) -> Unit | None:
        """The statement was parsed, or failed to: return the next unit, None if the probe is over."""
        statement = self.statement
        if done.failure is not None:
            if done.failure.sqlstate in _INCONCLUSIVE:
                statement.unprobed()
            else:
                statement.refuse()
            return None
        prepared.add(statement)
        self.counts = only_cell(done.results[-2][3] or b"")
        self._columns = done.prepared[0]
        types = done.parameters[0] if done.parameters else ()
        tree = _tree(done) if self._examine is not None else None
        if self._examine is None or tree is None:
            # Only the catalogs tell what types made by users contain, and only the tree tells the type of a constant.
            # The literal of an interval is read by the column's fields, a parameter is not.
            if any(each in INTERVALS or each >= FIRST_CATALOG for each in types) or holds_structure(statement.sql):
                statement.refuse()
            else:
                self._conclude(UNPROVEN)
            return None
        self._examiner = self._examine(tree, types)
        return self._next_question(prepared, statements)

    def _next_question(self, prepared: Prepared, statements: Statements) -> Unit | None:
        assert self._examiner is not None
        question = self._examiner.question()
        if question is not None and self._questions < MAX_QUESTIONS:
            self._questions += 1
            own = statements.own(question.template, bytes(4 * len(question.values)))
            commands = prepared.commands(own, b"".join(map(settings.sized, question.values)))
            return in_order([Plain(_CALM), *commands])
        if self._must_stay_literal:
            self.statement.refuse(self._examiner.proof)
        else:
            self._conclude(self._examiner.proof if question is None else UNPROVEN)
        return None

    @property
    def _must_stay_literal(self) -> bool:
        return self._examiner is None or self._examiner.holds_interval or self._examiner.has_domain

    def _conclude(self, proof: Proof) -> None:
        self.statement.probed(self._columns, proof)


class ProbeWork:
    """Probes. No client waits for one."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    def begin(self, backend: Backend, request: Request, _now: float) -> Unit:
        """Return the unit that parses the statement."""
        assert request.probe is not None
        return request.probe.start(backend.prepared, request.group.statements)

    def ended(self, backend: Backend, request: Request, done: Completion, _now: float) -> Decision:
        """Go on with the next unit, or end the probe. The catalogs' counts in the first unit are compared as well."""
        probe = request.probe
        assert probe is not None
        is_first = not probe.counts
        following = probe.advance(done, backend.prepared, request.group.statements)
        if is_first and probe.counts and backend.pool.watch.have_changed(probe.counts):
            self._generations.begin_anew()
        if following is not None:
            return Next(request, following)
        if not probe.statement.is_harmless:
            backend.left = backend.left.joined(UNSEEN)  # by code that may have run when it was parsed
        return None

    def lost(self, _backend: Backend, request: Request, _loss: Loss, _is_begun: bool, _now: float) -> Decision:
        """The probe told nothing."""
        assert request.statement is not None
        request.statement.unprobed()
        return None


def _tree(done: Completion) -> str | None:
    """The first tree among the notices; None without any."""
    for result in done.results:
        for notice in result.notices:
            _, title, tree = notice.partition(_TITLE)
            if title:
                return tree
    return None
