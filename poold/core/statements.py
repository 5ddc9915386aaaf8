"""What the broker knows of each statement: how long it takes, and whether it is prepared.

A statement is a template and its parameters' types. psycopg2 binds parameters as literals, and programs rely on what
that means; so a statement begins as literals in place (LITERAL). Seen a few times, it is prepared once, by nobody's
request, outside any transaction (PROBING). Where PostgreSQL accepts that and describes the very columns that the
literals gave, it is from then on prepared at first use on each backend (PREPARED); otherwise it stays with literals for
good (REFUSED). So nobody sees a probe fail, and what can only be told by a difference in the columns is told.

Whether a statement may share a backend's pipeline is decided by its profile: mean and deviation of its run time and the
size of its results, averaged as TCP averages round trips (RFC 6298).
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Collection
from enum import IntEnum

from client.protocol import ProtocolViolation
from poold.core import literals, sessions, sql
from poold.core.effects import Bound, Command, Deallocate, Plain, Prepare, Simple, Unit
from poold.core.facts import Completion
from poold.core.proofs import Proof

# Runs with literals before a statement is probed: a statement that comes once is not worth a name on every backend.
PROBE_AFTER = 3
# Parses that failed on some backend after the probe succeeded, until the statement is left alone.
FAILURES_UNTIL_REFUSED = 3
# Statements known per group, and their text in bytes; the least recently used go.
STATEMENTS_KEPT = 5000
TEXT_KEPT = 16 * 1024 * 1024
# Names on one backend: PostgreSQL keeps parse tree and plan of each, some ten kilobytes.
PREPARED_KEPT = 500
# Runs until the profile is trusted, and for how many seconds after the last of them.
TRUSTED_AFTER = 5
TRUSTED_FOR = 10.0
# What may share a pipeline: a neighbour waits this long at most, as far as the profile can tell, and the broker does
# not read a large result while small ones wait behind it.
SHORT_SECONDS = 0.010
SHORT_BYTES = 16384
# A statement joins a pipeline only where those before it take no longer than this, all together: to keep the server
# busy between two statements takes less, and who comes later waits for all of them, however urgent (scripts/overload).
AHEAD_SECONDS = 0.005
# A statement that takes longer than this, and than its profile lets expect, gets no company any more.
PATIENCE_SECONDS = 0.005
# PostgreSQL's codes for a name that it does not know, or knows already.
FORGOTTEN = ("26000", "42P05")
_CAST = re.compile(rb"\0\s*::")
# The weights of a new observation: RFC 6298's.
_ALPHA, _BETA = 1 / 8, 1 / 4


class StatementState(IntEnum):
    """Whether a statement is prepared."""

    LITERAL = 0  # runs with literals; -> PROBING, REFUSED
    PROBING = 1  # as LITERAL, a probe is on its way; -> PREPARED, REFUSED, LITERAL
    PREPARED = 2  # prepared on each backend at first use; -> REFUSED
    REFUSED = 3  # runs with literals for good; no successor


# As plain globals: to name a member of an Enum costs five times as much, and these are named for every request.
_PREPARED = StatementState.PREPARED
_LITERAL = StatementState.LITERAL


class Statement:
    """One template with the types of its parameters."""

    __slots__ = (
        "begun",
        "columns",
        "count",
        "deviation",
        "expected",
        "failures",
        "has_cast",
        "is_forgotten",
        "is_short",
        "may_commit",
        "mean",
        "name",
        "numbered",
        "patience",
        "proof",
        "recent",
        "runs",
        "sightings",
        "size",
        "sql",
        "state",
        "traits",
        "types",
        "use",
    )

    def __init__(self, number: int, template: bytes, types: bytes) -> None:
        self.sql = template  # with NUL for each parameter
        self.types = types
        self.count = len(types) // 4
        self.name = b"poold_%d" % number
        self.numbered = b""  # with $1, $2, ...; made when it is to be prepared
        self.state = _LITERAL
        self.traits: sql.Traits | None = None  # looked up when first wanted
        self.use = sessions.use_of(template)  # what it may leave in its session
        self.may_commit: bool | None = None  # by itself, see outcomes; None until somebody has looked
        self.proof: Proof | None = None
        # The columns that its literals gave; b"" before the first run.
        self.columns: bytes | None = b""
        self.has_cast = _CAST.search(template) is not None  # of a parameter, by ::
        self.sightings = 0  # runs with literals
        self.is_forgotten = False  # no longer among the known: whoever holds it finds another
        self.failures = 0
        self.runs = 0
        self.begun = 0.0  # when it was begun last
        self.mean = self.deviation = self.recent = 0.0  # seconds
        self.expected = 0.0  # seconds that it rarely exceeds
        self.size = 0.0  # mean bytes of its results
        self.is_short = False
        self.patience = PATIENCE_SECONDS

    def __repr__(self) -> str:
        return f"<Statement {self.name.decode()} {self.state.name.lower()} runs={self.runs}>"

    def examine(self) -> sql.Traits:
        """What its text tells."""
        if self.traits is None:
            self.traits = sql.examine(self.sql, self.types)
        return self.traits

    def record(self, seconds: float, size: int) -> None:
        """It ran."""
        self.runs += 1
        self.recent = seconds
        if self.runs == 1:
            self.mean, self.deviation, self.size = seconds, seconds / 2, float(size)
        else:
            error = seconds - self.mean
            self.deviation += _BETA * ((error if error > 0 else -error) - self.deviation)
            self.mean += _ALPHA * error
            self.size += _ALPHA * (size - self.size)
        self.expected = expected = self.mean + 2 * self.deviation
        self.is_short = (
            expected < SHORT_SECONDS
            and self.size < SHORT_BYTES
            and self.runs >= TRUSTED_AFTER
            and self.state is _PREPARED
            and self.use is sessions.NOTHING
        )
        self.patience = 2 * expected if expected > PATIENCE_SECONDS else 2 * PATIENCE_SECONDS

    def saw_columns(self, columns: bytes | None) -> bool:
        """It ran with literals and gave these columns. Returns whether it should be probed now."""
        if self.state is not _LITERAL:
            return False
        if self.columns == b"":
            self.columns = columns
        elif self.columns != columns:
            self.state = StatementState.REFUSED
            return False
        self.sightings += 1
        if self.sightings < PROBE_AFTER:
            return False
        if self.examine().obstacle:
            self.state = StatementState.REFUSED
            return False
        self.numbered = literals.numbered(self.sql)
        self.state = StatementState.PROBING
        return True

    def probed(self, accepted: bool, columns: bytes | None = None) -> None:
        """The probe is back."""
        is_same = accepted and columns == self.columns
        self.state = _PREPARED if is_same else StatementState.REFUSED

    def unprobed(self) -> None:
        """The probe told nothing: it was cut off. Wait for some more runs."""
        if self.state is StatementState.PROBING:
            self.state = _LITERAL
            self.sightings = 0

    def parse_failed(self) -> None:
        """A backend refused what the probe's accepted."""
        self.failures += 1
        if self.failures >= FAILURES_UNTIL_REFUSED:
            self.state = StatementState.REFUSED

    def runs_prepared(self, values: bytes) -> bool:
        """Whether it means the same with these values prepared and with literals."""
        # With a literal -5::text is -(5::text), which PostgreSQL refuses. Few other values with a cast have a minus.
        return self.state is _PREPARED and not (self.has_cast and b"-" in values)

    def rendered(self, values: bytes) -> bytes:
        """The text with its literals in place; raises ProtocolViolation for values that are none."""
        return literals.render(self.sql, self.types, values) if self.count else self.sql


class Statements:
    """The statements of one group."""

    def __init__(self, is_prepared: bool = True) -> None:
        """is_prepared: whether the broker's own statements may be."""
        self._own_state = _PREPARED if is_prepared else StatementState.REFUSED
        # By template and types: enter when first asked for, leave when many others were asked for since.
        self._known: OrderedDict[tuple[bytes, bytes], Statement] = OrderedDict()
        self._text = 0
        self._numbers = itertools.count(1)
        # The broker's own: BEGIN in its forms, COMMIT, savepoints.
        self._own: dict[bytes, Statement] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> itertools.chain[Statement]:
        return itertools.chain(self._known.values())

    def find(self, template: bytes, types: bytes) -> Statement:
        """The statement, known or new."""
        key = (template, types)
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            return found
        made = self._known[key] = Statement(next(self._numbers), template, types)
        self._text += len(template)
        while len(self._known) > STATEMENTS_KEPT or (self._text > TEXT_KEPT and len(self._known) > 1):
            (old, _), _ = self._known.popitem(last=False)
            self._text -= len(old)
        return made

    def own(self, template: bytes, types: bytes = b"") -> Statement:
        """A statement of the broker's; their number is small."""
        found = self._own.get(template)
        if found is None:
            found = self._own[template] = Statement(next(self._numbers), template, types)
            found.numbered = literals.numbered(template)
            found.state = self._own_state
        return found

    def forget(self, statement: Statement) -> None:
        """Its tables have changed: whoever asks next gets a new one, with a new name, that begins with literals."""
        statement.is_forgotten = True
        key = (statement.sql, statement.types)
        if self._known.get(key) is statement:
            del self._known[key]
            self._text -= len(statement.sql)

    def forget_all(self) -> None:
        """As forget, for all but the broker's own."""
        for statement in self._known.values():
            statement.is_forgotten = True
        self._known.clear()
        self._text = 0

    def counts(self) -> dict[str, int]:
        """How many there are in each state, by its name."""
        found = dict.fromkeys((state.name.lower() for state in StatementState), 0)
        for statement in self._known.values():
            found[statement.state.name.lower()] += 1
        return found


class Prepared:
    """The statements that are prepared on one backend, the least recently used first.

    A function that a client calls can drop them all, and no completion tells of it. Once that has happened the backend
    is doubted: what is to be prepared there is dropped first, which is no error where it is not there.
    """

    __slots__ = ("_held", "_is_doubted")

    def __init__(self) -> None:
        # By name. Enter with their Prepare, leave with Deallocate, when that failed, or all at once.
        self._held: dict[bytes, None] = {}
        self._is_doubted = False

    def __contains__(self, statement: Statement) -> bool:
        return statement.name in self._held

    def __len__(self) -> int:
        return len(self._held)

    def commands(self, statement: Statement, values: bytes, among: Collection[bytes] = ()) -> list[Command]:
        """Run the prepared statement, after preparing it where that has not been done here.

        among: names that the same unit needs as well.
        """
        name = statement.name
        bound = Bound(name, statement.count, values)
        if name in self._held:
            if len(self._held) > PREPARED_KEPT // 2:  # before, nobody is going to leave
                del self._held[name]
                self._held[name] = None
            return [bound]
        found = self.prepare(statement, among)
        self._held[name] = None
        found.append(bound)
        return found

    def prepare(self, statement: Statement, among: Collection[bytes] = ()) -> list[Command]:
        """Prepare the statement here; it is held only when the caller says so."""
        found = self._room(among)
        if self._is_doubted:
            found.append(Deallocate(statement.name))
        found.append(Prepare(statement.name, statement.numbered, statement.types))
        return found

    def _room(self, among: Collection[bytes] = ()) -> list[Command]:
        """Forget what was not used for long, until there is room for another name; but none of those among."""
        found: list[Command] = []
        if len(self._held) >= PREPARED_KEPT:
            excess = len(self._held) - PREPARED_KEPT + 1
            for oldest in list(itertools.islice((name for name in self._held if name not in among), excess)):
                del self._held[oldest]
                found.append(Deallocate(oldest))
        return found

    def add(self, statement: Statement) -> None:
        """It was prepared here by a probe."""
        self._held[statement.name] = None

    def failed(self, unit: Unit, done: Completion) -> Prepare | Bound | None:
        """The unit failed: what it was to prepare after the failure is not.

        Returns the command that failed where it is about a prepared statement.
        """
        found = _culprit(unit, done)
        assert done.failure is not None
        if found is not None and done.failure.sqlstate in FORGOTTEN and found.name in self._held:
            self._held.clear()
            self._is_doubted = True
        prepares = [command.name for command in unit if type(command) is Prepare]
        for name in prepares[len(done.prepared) :]:
            self._held.pop(name, None)
        return found

    def clear(self) -> None:
        """None is any more."""
        self._held.clear()


def _culprit(unit: Unit, done: Completion) -> Prepare | Bound | None:
    """The command that failed, where it is about a prepared statement."""
    runs = prepared = 0
    for command in unit:
        if type(command) is Prepare:
            if prepared == len(done.prepared):
                return command
            prepared += 1
        elif type(command) is Bound or type(command) is Plain:
            if runs == len(done.results):
                return command if type(command) is Bound else None
            runs += 1
    return None


def literal_command(statement: Statement, values: bytes) -> Simple:
    """Run the statement with literals, by itself."""
    return Simple(statement.rendered(values))


def plain_command(statement: Statement, values: bytes) -> Plain:
    """Run the statement with literals, among others of its unit."""
    try:
        return Plain(statement.rendered(values))
    except ProtocolViolation:
        return Plain(b"")  # as literal commands: PostgreSQL refuses it for what it is
