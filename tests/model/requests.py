"""What clients ask for: statements that carry a value of their own, and transaction messages made of them."""

from __future__ import annotations

from collections.abc import Sequence

from client.protocol import Reference, Step
from client.rules import END_SAVEPOINT, SAVEPOINT
from model.books import PLACES, Job
from model.marks import MARK
from model.postgres import INT4

TEMPLATES = (
    b"UPDATE a SET x = y WHERE id = \0 RETURNING id",
    b"SELECT id FROM b WHERE id = \0",
    b"SELECT id FROM c WHERE id = \0",
)
# Statements that change their session.
CONTROLS = (b"BEGIN /* \0 */", b"DISCARD ALL /* \0 */", b"DEALLOCATE ALL /* \0 */")
# One after which statements may mean something else.
SCHEMA = b"ALTER TABLE a /* \0 */"
LEASE_CONTROLS = (b"COMMIT /* \0 */", b"ROLLBACK /* \0 */", b"DEALLOCATE ALL /* \0 */")
# How code begins, which a group that is read-only takes in transaction blocks only.
CODE = (b"DO ", b"CALL ")
# What the steps of a message may be; a number is a template's.
STEPS = (0, 0, 1, 1, 2, "one row", "reference", "reference", "savepoint", "end")

_NULL = b"\xff\xff\xff\xff"


def packed(value: int) -> bytes:
    text = b"%d" % value
    return len(text).to_bytes(4, "big") + text


def settings_for(job: Job, moves_names: bool) -> bytes:
    """Settings that travel with the request, one of them known to be its own."""
    job.mark = job.number * PLACES
    return MARK + b"\0%d\0" % job.mark + (b"search_path\0x\0" if moves_names else b"")


def steps_of(job: Job, kinds: Sequence[int | str | bytes], prepare: bool) -> list[Step | int]:
    """The steps of a message; job keeps what PostgreSQL should see of them."""
    steps: list[Step | int] = []
    depth = 0

    def statement(template: bytes, value: int, refers_to: int | None = None, low: int = 0) -> None:
        references = () if refers_to is None else (Reference(0, refers_to, 0, "id"),)
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
