"""What the broker knows of each statement: what it is, how long it takes, and whether it is prepared.

A statement is a template, its parameters' types, and the settings that travel with it. psycopg2 binds parameters as
literals, and programs rely on what that means; so a statement first runs with literals (LITERAL). Seen a few times, it
is probed once, by no client's request (PROBING, `poold.core.work.probe`). If PostgreSQL accepts it and describes the
very columns that the literals gave, it is from then on prepared at first use on each backend (PREPARED); otherwise it
keeps running with literals (REFUSED). So no client sees a probe fail, and a difference in meaning that shows in the
columns is found.

The probe brings a proof as well: what PostgreSQL makes of the statement, from its rewritten parse tree. Only a
statement that is proven harmless is taken to leave its session as it was, and only a plain read may share a backend's
pipeline.

A prepared name is parsed anew after five runs on a backend. PostgreSQL plans the first five runs for their values;
later it may use one generic plan, which statements with literals never get. Proven statements whose plan does not
depend on values are exempt.

When names may mean something else than before, as after CREATE or ALTER, all statements begin anew: a generation ends.
They keep their profiles, and are probed again after one run with literals.

Whether a plain read may share a backend's pipeline is decided by its profile: mean and deviation of its run time and
the size of its results, averaged as TCP averages round trips (RFC 6298).
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from enum import IntEnum
from typing import TYPE_CHECKING

from client.wire.cursors import cursor_use
from client.wire.masking import shape
from client.wire.messages import ProtocolViolation
from poold.core.effects import Plain, SimpleQuery
from poold.core.statements import leftovers, literals, sql
from poold.core.statements.leftovers import NOTHING
from poold.core.statements.lexemes import names_moment, sets_relied_on
from poold.core.statements.proofs import UNPROVEN, Proof

if TYPE_CHECKING:
    from poold.core.records.flow import Flow

# Runs with literals before a statement is probed: a rare statement is not worth a name on every backend.
PROBE_AFTER = 3
# Statements kept per group, and the bytes of their text; the least recently used leave.
STATEMENTS_KEPT = 5000
TEXT_KEPT = 16 * 1024 * 1024
# Custom plans that PostgreSQL makes for given values before it may choose a generic one (plancache.c).
CUSTOM_PLANS = 5
# No limit: more runs than any backend ever has.
_UNLIMITED = 1 << 62
# Runs until the profile is trusted, and for how many seconds after the last run began it may refuse a request.
TRUSTED_AFTER = 5
TRUSTED_FOR = 10.0
# Limits for sharing a pipeline: by its profile a statement keeps its neighbours waiting for less than this time, and
# its result is small, so that no large result is read while others wait behind it.
SHORT_SECONDS = 0.010
SHORT_BYTES = 16384
# A statement joins a pipeline only if all those before it together are expected to take less than this. Less is enough
# to keep the server busy between two statements, and whatever comes later waits for all of them (scripts/overload).
AHEAD_SECONDS = 0.005
# A statement that runs for longer than twice this, and than twice its expected time, is not joined by others any more.
PATIENCE_SECONDS = 0.005
_CAST = re.compile(rb"\0\s*::")
# The weights of a new observation: RFC 6298's.
ALPHA, BETA = 1 / 8, 1 / 4


class StatementState(IntEnum):
    """Whether a statement is prepared."""

    LITERAL = 0  # runs with literals; -> PROBING, REFUSED
    PROBING = 1  # as LITERAL, a probe is on its way; -> PREPARED, REFUSED, LITERAL
    PREPARED = 2  # prepared on each backend at first use; -> REFUSED
    REFUSED = 3  # runs with literals as long as its generation lasts; no successor


# Members used for every request, as plain globals: reading a member from an Enum costs five times as much.
LITERAL, PREPARED = StatementState.LITERAL, StatementState.PREPARED


class Statement:
    """One template with the types of its parameters, under settings that travel with it."""

    __slots__ = (
        "begun",
        "columns",
        "count",
        "cursor",
        "deviation",
        "expected",
        "flow",
        "generation",
        "has_cast",
        "is_forbidden",
        "is_forgotten",
        "is_harmless",
        "is_remarkable",
        "is_short",
        "masked_text",
        "may_commit",
        "mean",
        "name",
        "numbered",
        "patience",
        "proof",
        "recent",
        "runs",
        "runs_per_parse",
        "settings",
        "sightings",
        "size",
        "sql",
        "state",
        "traits",
        "types",
        "use",
    )

    def __init__(self, number: int, template: bytes, types: bytes, settings: bytes = b"", generation: int = 0) -> None:
        self.sql = template  # with NUL for each parameter
        self.types = types
        self.settings = settings  # as they travel
        self.generation = generation
        self.count = len(types) // 4
        self.name = b"%d" % number  # on each backend with a prefix that nobody can guess (`poold.postgres.wire`)
        self.numbered = b""  # with $1, $2, ...; made when it is to be prepared
        self.state = LITERAL
        self.traits: sql.Traits | None = None  # looked up when first wanted
        self.use = leftovers.use_of(template)  # what it leaves in its session, by its text
        self.is_forbidden = sets_relied_on(template)  # it changes what all rely on, so nobody may run it
        self.is_remarkable = self.is_forbidden or self.use is not NOTHING  # whether one of these two tells something
        self.cursor = cursor_use(template)  # what it does with a cursor
        self.may_commit: bool | None = None  # whether by itself, see `work.outcomes`; None until first asked
        self.proof = UNPROVEN  # of its prepared form
        self.is_harmless = False  # as in the proof
        self.runs_per_parse = CUSTOM_PLANS  # runs on one backend until it is parsed anew
        # The columns that its literals gave; b"" before the first run.
        self.columns: bytes | None = b""
        self.has_cast = _CAST.search(template) is not None  # whether :: follows a parameter
        self.sightings = 0  # runs with literals
        self.is_forgotten = False  # replaced among the known statements: look it up again
        self.runs = 0
        self.begun = 0.0  # when its last run began
        self.mean = self.deviation = self.recent = 0.0  # seconds
        self.expected = 0.0  # seconds that a run rarely exceeds
        self.size = 0.0  # mean bytes of its results
        self.is_short = False
        self.patience = PATIENCE_SECONDS
        self.masked_text: bytes | None = None  # see `masked`
        self.flow: Flow | None = None  # by which the lane runs it

    def __repr__(self) -> str:
        return f"<Statement {self.name.decode()} {self.state.name.lower()} runs={self.runs}>"

    @property
    def masked(self) -> bytes:
        """Its text without values, by which it is counted. Made when first wanted."""
        if self.masked_text is None:
            self.masked_text = shape(self.sql)
        return self.masked_text

    def examine(self) -> sql.Traits:
        """The traits that its text shows."""
        if self.traits is None:
            self.traits = sql.examine(self.sql, self.types)
        return self.traits

    def record(self, seconds: float, size: int) -> None:
        """Update the profile after one run."""
        self.runs += 1
        self.recent = seconds
        if self.runs == 1:
            self.mean, self.deviation, self.size = seconds, seconds / 2, float(size)
        else:
            error = seconds - self.mean
            self.deviation += BETA * ((error if error > 0 else -error) - self.deviation)
            self.mean += ALPHA * error
            self.size += ALPHA * (size - self.size)
        self.expected = expected = self.mean + 2 * self.deviation
        self.is_short = (
            expected < SHORT_SECONDS
            and self.size < SHORT_BYTES
            and self.runs >= TRUSTED_AFTER
            and self.state is PREPARED
            and self.proof.is_plain_read
        )
        self.patience = 2 * expected if expected > PATIENCE_SECONDS else 2 * PATIENCE_SECONDS

    def saw_columns(self, columns: bytes | None) -> bool:
        """Note the columns of a run with literals. Returns whether the statement should be probed now."""
        if self.state is not LITERAL:
            return False
        if self.columns == b"":
            self.columns = columns
        elif self.columns != columns:
            self.state = StatementState.REFUSED
            return False
        self.sightings += 1
        if self.sightings < PROBE_AFTER:
            return False
        if self.examine().obstacle or names_moment(self.sql):
            self.state = StatementState.REFUSED
            return False
        self.numbered = literals.numbered(self.sql)
        self.state = StatementState.PROBING
        return True

    def probed(self, columns: bytes | None, proof: Proof) -> None:
        """The probe succeeded with these columns: prepare the statement from here on, or refuse if they differ."""
        if columns != self.columns:
            self.refuse(proof)
            return
        self.state = PREPARED
        self.proof = proof
        self.is_harmless = proof.is_harmless
        if proof.may_be_generic:
            self.runs_per_parse = _UNLIMITED

    def unprobed(self) -> None:
        """The probe told nothing, as it was interrupted: probe again after some more runs."""
        if self.state is StatementState.PROBING:
            self.state = LITERAL
            self.sightings = 0

    def refuse(self, proof: Proof = UNPROVEN) -> None:
        """Run with literals from here on, as the statement cannot be prepared or would mean something else."""
        self.state = StatementState.REFUSED
        self.is_harmless = False
        self.is_short = False
        self.proof = proof

    def successor(self, number: int, generation: int) -> Statement:
        """The same statement in another generation: it is probed again, but keeps its profile."""
        made = Statement(number, self.sql, self.types, self.settings, generation)
        made.traits = self.traits
        made.masked_text = self.masked_text
        made.sightings = min(self.sightings, PROBE_AFTER - 1)
        made.runs, made.begun = self.runs, self.begun
        made.mean, made.deviation, made.recent = self.mean, self.deviation, self.recent
        made.expected, made.size, made.patience = self.expected, self.size, self.patience
        return made

    def runs_prepared(self, values: bytes) -> bool:
        """Whether it runs prepared with these values: it is PREPARED and means the same as with literals."""
        # With a literal -5::text is -(5::text), which PostgreSQL refuses.
        return self.state is PREPARED and not (self.has_cast and b"-" in values and self._has_sign(values))

    def _has_sign(self, values: bytes) -> bool:
        """Whether a value that is written without quotes, a number, has a minus."""
        try:
            found = literals.split_values(values, self.count)
        except ProtocolViolation:
            return True  # such values are refused when they are written as literals
        return any(
            value is not None and value[:1] == b"-" and self.types[4 * place : 4 * place + 4] in literals.UNQUOTED
            for place, value in enumerate(found)
        )

    def rendered(self, values: bytes) -> bytes:
        """The text with literals in place; raises ProtocolViolation for values that cannot be literals."""
        return literals.render(self.sql, self.types, values) if self.count else self.sql


class Statements:
    """The statements of one group."""

    def __init__(self, is_prepared: bool = True, plans: str = "custom") -> None:
        """is_prepared: whether the broker's own statements may be prepared. plans: the group's setting."""
        # Counts how often names may have come to mean something else.
        self.generation = 0
        # By template, types and settings, the least recently used first: enter when first asked for, leave when there
        # are too many.
        self._known: OrderedDict[tuple[bytes, bytes, bytes], Statement] = OrderedDict()
        self._text = 0
        self._numbers = itertools.count(1)
        # The broker's own: BEGIN in its forms, COMMIT, savepoints.
        self._own: dict[bytes, Statement] = {}
        self.configure(is_prepared, plans)

    def configure(self, is_prepared: bool, plans: str) -> None:
        """Have these settings from here on; statements that there are have them from their next generation on."""
        self._own_state = PREPARED if is_prepared else StatementState.REFUSED
        self._runs_per_parse = _UNLIMITED if plans == "auto" else CUSTOM_PLANS
        for own in self._own.values():
            own.state = self._own_state

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> itertools.chain[Statement]:
        return itertools.chain(self._known.values())

    def find(self, template: bytes, types: bytes, settings: bytes = b"") -> Statement:
        """The statement, known or new, in the current generation."""
        key = (template, types, settings)
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            if found.generation == self.generation:
                return found
            found.is_forgotten = True
            found.flow = None
            made = self._known[key] = found.successor(next(self._numbers), self.generation)
            made.runs_per_parse = self._runs_per_parse
            return made
        made = self._known[key] = Statement(next(self._numbers), template, types, settings, self.generation)
        made.runs_per_parse = self._runs_per_parse
        self._text += len(template) + len(settings)
        while len(self._known) > STATEMENTS_KEPT or (self._text > TEXT_KEPT and len(self._known) > 1):
            _, old = self._known.popitem(last=False)
            old.flow = None  # it keeps the statement, as long as the lane has it
            self._text -= len(old.sql) + len(old.settings)
        return made

    def current(self, statement: Statement) -> Statement:
        """This statement, or its successor in the current generation."""
        if statement.generation == self.generation and not statement.is_forgotten:
            return statement
        return self.find(statement.sql, statement.types, statement.settings)

    def own(self, template: bytes, types: bytes = b"") -> Statement:
        """A statement of the broker's own. There are few, so all are kept."""
        found = self._own.get(template)
        if found is None:
            found = self._own[template] = Statement(next(self._numbers), template, types)
            found.numbered = literals.numbered(template)
            found.state = self._own_state
            found.use = NOTHING
            found.is_harmless = True
            found.runs_per_parse = _UNLIMITED
        return found

    def is_own(self, name: bytes) -> bool:
        """Whether this is the name of a statement of the broker's own. O(n), but these are few."""
        return any(each.name == name for each in self._own.values())

    def forget(self, statement: Statement) -> None:
        """Forget a statement whose tables have changed.

        Whoever looks it up next gets a new one, with a new name, that begins with literals. Requests that have it
        already run it with literals.
        """
        statement.is_forgotten = True
        statement.flow = None
        statement.refuse()
        key = (statement.sql, statement.types, statement.settings)
        if self._known.get(key) is statement:
            del self._known[key]
            self._text -= len(statement.sql) + len(statement.settings)

    def forget_all(self) -> None:
        """Begin another generation, as names may mean something else. O(1); each statement follows when asked for."""
        self.generation += 1

    def counts(self) -> dict[str, int]:
        """How many statements are in each state, by the state's name, and how many are proven. O(n)."""
        found = dict.fromkeys((state.name.lower() for state in StatementState), 0)
        found |= {"harmless": 0, "plain_reads": 0}
        for statement in self._known.values():
            found[statement.state.name.lower()] += 1
            found["harmless"] += statement.is_harmless
            found["plain_reads"] += statement.proof.is_plain_read
        return found


def literal_command(statement: Statement, values: bytes) -> SimpleQuery:
    """Run the statement with literals, by itself."""
    return SimpleQuery(statement.rendered(values))


def plain_command(statement: Statement, values: bytes) -> Plain:
    """Run the statement with literals, among others of its unit."""
    try:
        return Plain(statement.rendered(values))
    except ProtocolViolation:
        return Plain(b"")  # as `units` does for a simple query with such values
