"""The plan of a transaction message: what follows from its steps alone, found out once for all its values.

A program sends the same few transactions again and again. The steps travel packed, apart from the values, and their
bytes are the plan's key: they are decoded and checked, and their statements read, only when they are first seen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from client.wire.codec import decode_steps
from client.wire.limits import END_SAVEPOINT, SAVEPOINT
from client.wire.masking import MOST_COUNTED
from client.wire.messages import Step, StepReference, TransactionMessage
from poold.core.records.flow import Flow
from poold.core.statements.leftovers import is_pointless
from poold.core.statements.sql import AMBIGUOUS, MAX_TOKENS
from poold.core.statements.statement import Statement, Statements
from poold.core.work import failures

# Plans kept per group, and the bytes of their packed steps; the least recently used leave.
PLANS_KEPT = 2000
BYTES_KEPT = 16 * 1024 * 1024
# Tokens of all statements of a message together: to read so many takes 0.1 s at most.
MESSAGE_TOKENS = 10 * MAX_TOKENS
# Bytes of one statement's text, parameters not counted.
MAX_TEXT = 1024 * 1024


class Plan:
    """The steps, and what follows from them alone."""

    def __init__(self, packed: bytes, statements: Statements, comment: bytes = b"") -> None:
        """comment is added to the statements' texts. Raises ProtocolViolation if packed does not hold valid steps."""
        found = decode_steps(packed)
        self.steps: list[Step | int] = [step if isinstance(step, int) else _step(step, comment) for step in found]
        # By step: the index of its values in the message's, -1 for a savepoint mark.
        self.places: list[int] = []
        # By step: the savepoint mark that it is directly inside of, None if outside. By mark: the end of its block.
        self.block, self.block_end = _blocks(self.steps)
        self.count = 0  # of statements
        for step in self.steps:
            self.places.append(-1 if isinstance(step, int) else self.count)
            self.count += self.places[-1] >= 0
        # Whether it is one unit from BEGIN to COMMIT, as the broker need not look at any result before COMMIT.
        self.is_whole = all(
            isinstance(step, Step) and not step.references and step.low == 0 and step.high is None
            for step in self.steps
        )
        self._statements = statements
        self._found: list[Statement | None] = [None] * len(self.steps)
        # Why the message cannot be run, "" if it can; whether it may write.
        self.obstacle = ""
        # By which the lane runs it, by the messages' fields from group to steps.
        self.flows: dict[tuple[object, ...], Flow] = {}
        self._masked: bytes | None = None
        self.writes = False
        self.begins_with_set = False
        self._read()

    def statement(self, place: int) -> Statement:
        """The statement of this step. Its types are those of the message: references may change them later."""
        found = self._found[place]
        if found is None or found.is_forgotten or found.generation != self._statements.generation:
            step = self.steps[place]
            assert isinstance(step, Step)
            found = self._found[place] = self._statements.find(step.statement, step.types)
        return found

    @property
    def masked(self) -> bytes:
        """The texts of its statements without values, by which it is counted. Made when first wanted."""
        if self._masked is None:
            words = {SAVEPOINT: b"SAVEPOINT", END_SAVEPOINT: b"RELEASE"}
            self._masked = joined(
                words[step] if isinstance(step, int) else self.statement(place).masked
                for place, step in enumerate(self.steps)
            )
        return self._masked

    def _read(self) -> None:
        """Read the statements: what they do, and whether one of them cannot be run."""
        tokens = 0
        read: set[Statement] = set()  # each is read once, however often it occurs
        for place, step in enumerate(self.steps):
            if isinstance(step, int) or self.obstacle:
                continue
            reason = ""
            if len(step.statement) > MAX_TEXT:
                reason = f"has {len(step.statement)} bytes of text; at most {MAX_TEXT} are taken, use parameters"
            else:
                statement = self.statement(place)
                traits = statement.examine()
                tokens += 0 if statement in read else traits.tokens
                read.add(statement)
                # SET TRANSACTION must come before any query, and the one for the transaction's id would come before it.
                self.begins_with_set = self.begins_with_set or (place == 0 and traits.verb == "SET")
                self.writes = self.writes or traits.writes
                if not traits.is_read or tokens > MESSAGE_TOKENS:
                    limit = MESSAGE_TOKENS if traits.is_read else MAX_TOKENS
                    reason = f"is too long to be read: more than {limit} words and signs so far, use parameters"
                elif traits.is_copy:
                    reason = "is a COPY; its data passes in messages of its own, so use copy_in() or copy_out()"
                elif traits.is_several:
                    reason = "holds several statements; give each its own query()"
                elif traits.controls_transaction:
                    reason = "begins or ends a transaction; the block does that"
                elif traits.verb in ("DEALLOCATE", "DISCARD"):
                    reason = "drops what all clients of a backend have prepared; run it with query()"
                elif traits.is_empty:
                    reason = "is empty"
                elif self.statement(place).is_forbidden:
                    reason = f"is refused: {failures.relied_on().message}"
                elif self.statement(place).use.wants_no_transaction:
                    reason = f"leaves {self.statement(place).use.leaves}, so it wants a session; use db.session()"
            if reason:
                self.obstacle = f"statement {self.places[place] + 1} of the transaction {reason}"
        if not self.obstacle and is_pointless([each.use for each in read]):
            alone = failures.wants_session(next(iter(read)).use.leaves)
            self.obstacle = f"nothing else in the transaction goes with this: {alone.message}"


class Plans:
    """The plans of one group."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        # By packed steps and what is added to their texts, the least recently used first: enter when first asked for,
        # leave when there are too many.
        self._known: OrderedDict[tuple[bytes, bytes], Plan] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, packed: bytes, comment: bytes = b"") -> Plan:
        """Return the plan, known or new; raises ProtocolViolation if packed does not hold valid steps."""
        key = packed, comment
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            return found
        made = self._known[key] = Plan(packed, self._statements, comment)
        self._bytes += len(packed)
        while len(self._known) > PLANS_KEPT or (self._bytes > BYTES_KEPT and len(self._known) > 1):
            (packed_steps, _), old = self._known.popitem(last=False)
            old.flows.clear()  # each keeps the plan, as long as the lane has it
            self._bytes -= len(packed_steps)
        return made


def joined(texts: Iterable[bytes]) -> bytes:
    """Statements without values as one text; what comes several times in a row stands there once."""
    found: list[bytes] = []
    size = 0
    for text in texts:
        if found and text == found[-1]:
            found.append(b"...")
        elif len(found) < 2 or found[-1] != b"..." or text != found[-2]:
            found.append(text)
            size += len(text)
        if size > MOST_COUNTED:
            found.append(b"...")
            break
    return b"; ".join(found)


def _step(step: Step, comment: bytes) -> Step:
    references = tuple(StepReference._make(each) for each in step.references)
    return step._replace(statement=step.statement + comment, references=references)


def _blocks(steps: list[Step | int]) -> tuple[list[int | None], dict[int, int]]:
    """For each step the innermost savepoint mark around it; for each mark the step that ends its block."""
    inside: list[int | None] = []
    ends: dict[int, int] = {}
    stack: list[int] = []
    for place, step in enumerate(steps):
        if step == END_SAVEPOINT:
            ends[stack.pop()] = place
        inside.append(stack[-1] if stack else None)
        if step == SAVEPOINT:
            stack.append(place)
    return inside, ends


def is_ambiguous(statement: Statement, values: bytes) -> bool:
    """Whether the statement's literals would mean something else if a setting that literals rely on was changed.

    PostgreSQL reports such changes at the end of a unit; so the statement goes into another unit than a statement that
    may have made one.
    """
    return AMBIGUOUS.search(values) is not None or AMBIGUOUS.search(statement.sql) is not None


def begin_text(message: TransactionMessage) -> bytes:
    """The BEGIN of the message's transaction."""
    words = ["BEGIN"]
    if message.isolation is not None:
        words.append(f"ISOLATION LEVEL {message.isolation.upper()}")
    if message.read_only is not None:
        words.append("READ ONLY" if message.read_only else "READ WRITE")
    if message.deferrable is not None:
        words.append("DEFERRABLE" if message.deferrable else "NOT DEFERRABLE")
    return " ".join(words).encode()
