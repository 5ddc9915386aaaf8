"""What clients ask for: statements that carry a value of their own, and transaction messages made of them."""

from __future__ import annotations

from collections.abc import Sequence

from client.wire.limits import END_SAVEPOINT, SAVEPOINT
from client.wire.messages import Step, StepReference
from model.books import PLACES, Job
from model.kinds import ASK, DRAW, FUNCTION, INTERVAL, MOMENT, READ_B, READ_C, SCHEMA, UPDATE
from model.leftovers import LEAVINGS, UNSEEN
from model.marks import MARK
from model.postgres import INT4

# Most of what clients ask: short, and harmless.
TEMPLATES = (UPDATE, READ_B, READ_C)
# The rest of what looks the same.
OTHERS = (DRAW, DRAW, ASK, FUNCTION, INTERVAL, MOMENT, *UNSEEN)
# Statements that change their session.
CONTROLS = (b"BEGIN /* \0 */", b"DISCARD ALL /* \0 */", b"DEALLOCATE ALL /* \0 */")
LEASE_CONTROLS = (b"COMMIT /* \0 */", b"ROLLBACK /* \0 */", b"DEALLOCATE ALL /* \0 */")
# Statements that may commit by themselves, as code, and leave something.
UTILITIES = tuple(template for template in LEAVINGS if template.startswith((b"DO ", b"CALL ")))
# How code begins, which a group that is read-only takes in transaction blocks only.
CODE = (b"DO ", b"CALL ")
# What the steps of a message may be; a number is a template's.
STEPS = (0, 0, 1, 1, 2, DRAW, "one row", "reference", "reference", "savepoint", "end")

# Each so many of what may be a batch is one.
BATCHED = 3

_NULL = b"\xff\xff\xff\xff"


def packed(value: int) -> bytes:
    text = b"%d" % value
    return len(text).to_bytes(4, "big") + text


def batch_of(job: Job, template: bytes, prepare: bool) -> list[Step]:
    """The steps of a batch of one statement; job keeps what PostgreSQL should see of them."""
    values = range(job.number * PLACES, job.number * PLACES + 3)
    job.steps = [(template, value) for value in values]
    return [Step(template, INT4, packed(value), prepare, (), 0, None) for value in values]


def settings_for(job: Job, tenant: int) -> bytes:
    """Settings that travel with the request: the tenant's."""
    job.mark = tenant
    return MARK + b"\0%d\0" % tenant + (b"search_path\0x\0" if tenant % 2 else b"")


def steps_of(job: Job, kinds: Sequence[int | str | bytes], prepare: bool) -> list[Step | int]:
    """The steps of a message; job keeps what PostgreSQL should see of them."""
    steps: list[Step | int] = []
    depth = 0

    def statement(template: bytes, value: int, refers_to: int | None = None, low: int = 0) -> None:
        references = () if refers_to is None else (StepReference(0, refers_to, 0, "id"),)
        values, types = (packed(value), INT4) if refers_to is None else (_NULL, bytes(4))
        steps.append(Step(template, types, values, prepare, references, low, None))
        job.steps.append((template, value))

    def mark(which: int) -> None:
        steps.append(which)
        job.steps.append(None)

    for kind in kinds:
        earlier = [place for place, step in enumerate(job.steps) if step is not None and step[0] in TEMPLATES]
        value = job.number * PLACES + len(steps)
        if kind == "savepoint":
            depth += 1
            mark(SAVEPOINT)
        elif kind == "end" and depth:
            depth -= 1
            mark(END_SAVEPOINT)
        elif kind == "reference" and earlier:
            referred = job.steps[earlier[-1]]
            assert referred is not None
            statement(TEMPLATES[1], referred[1], earlier[-1])
        elif isinstance(kind, bytes):
            statement(kind, value)
        else:
            template = TEMPLATES[kind] if isinstance(kind, int) else SCHEMA if kind == "schema" else TEMPLATES[0]
            statement(template, value, low=1 if kind == "one row" else 0)
    if all(step is None for step in job.steps):
        statement(TEMPLATES[0], job.number * PLACES + len(steps))
    for _ in range(depth):
        mark(END_SAVEPOINT)
    return steps
