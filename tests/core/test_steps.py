"""Event scripts of what steps of a transaction message have to do with each other: blocks, counts, references."""

from collections.abc import Mapping
from typing import Any

import pytest
from units import (
    DELETE,
    INSERT,
    READ,
    UNTRACKED,
    UPDATE,
    WRITTEN,
    answer,
    begin,
    committed,
    failed,
    oids,
    packed,
    promote,
    sent,
    step,
    table,
)
from world import OK, World, failure

from client.wire.limits import END_SAVEPOINT, SAVEPOINT
from client.wire.messages import FAILED, Failure, StepReference
from poold.core.facts import StatementResult

ROLLBACK = [b"ROLLBACK"]


def words(world: World) -> list[bytes]:
    """The units so far, each as the first words of its commands."""
    return [b" ".join(text.split()[0] for text in unit) for unit in sent(world)]


def savepoints(world: World) -> list[tuple[bytes, bytes]]:
    """Every savepoint command so far in order: its verb and the name of its savepoint."""
    texts = [text for unit in sent(world) for text in unit if b"SAVEPOINT" in text]
    return [(text.split()[0], text.split()[-1]) for text in texts]


def is_undone(world: World, which: int) -> bool:
    """Whether the savepoint that was set as this one, from 0, was rolled back to; as PostgreSQL looks up names."""
    open_now: list[tuple[bytes, int]] = []
    count, undone = 0, set()
    for verb, name in savepoints(world):
        if verb == b"SAVEPOINT":
            open_now.append((name, count))
            count += 1
            continue
        at = max(place for place, each in enumerate(open_now) if each[0] == name)
        if verb == b"ROLLBACK":
            undone |= {number for _, number in open_now[at:]}
            del open_now[at + 1 :]
        else:
            del open_now[at:]
    assert not open_now, "every savepoint is released before the end"
    return which in undone


# Savepoint blocks.


def test_an_error_in_a_savepoint_block_undoes_the_block_and_not_the_rest() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, SAVEPOINT, UPDATE, DELETE, END_SAVEPOINT, READ)
    answer(world, backend, fails=b"DELETE 1", error=failure("23505"))
    answer(world, backend)
    assert words(world) == [b"BEGIN INSERT SAVEPOINT UPDATE DELETE", b"ROLLBACK RELEASE SELECT COMMIT"]
    insert, mark, update, delete, end, read = committed(world, request).results
    assert (insert[2], read[2]) == ("INSERT 0 1", "SELECT 1")
    assert (mark, update, end) == (None, None, None), "what the block did is undone"
    assert Failure(*delete).sqlstate == "23505"
    assert is_undone(world, 0)


def test_an_error_in_an_inner_block_leaves_the_outer_one() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, SAVEPOINT, INSERT, SAVEPOINT, UPDATE, END_SAVEPOINT, DELETE, END_SAVEPOINT)
    answer(world, backend, fails=b"UPDATE 1")
    answer(world, backend)
    answer(world, backend)
    results = committed(world, request).results
    assert [place for place, entry in enumerate(results) if entry is not None] == [1, 3, 5]
    assert (results[1][2], results[5][2]) == ("INSERT 0 1", "DELETE 1")
    assert not is_undone(world, 0)
    assert is_undone(world, 1)


def test_an_error_in_an_outer_block_undoes_the_inner_one_that_succeeded() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, SAVEPOINT, SAVEPOINT, INSERT, END_SAVEPOINT, UPDATE, END_SAVEPOINT, READ)
    answer(world, backend)
    answer(world, backend, fails=b"UPDATE 1")
    answer(world, backend)
    results = committed(world, request).results
    assert [place for place, entry in enumerate(results) if entry is not None] == [4, 6]
    assert is_undone(world, 0)


def test_a_contained_error_of_an_inner_block_goes_with_the_outer_one() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, SAVEPOINT, SAVEPOINT, INSERT, END_SAVEPOINT, UPDATE, END_SAVEPOINT, READ)
    answer(world, backend, fails=b"INSERT 1")
    answer(world, backend, fails=b"UPDATE 1")
    answer(world, backend)
    results = committed(world, request).results
    assert [place for place, entry in enumerate(results) if entry is not None] == [4, 6]


def test_an_empty_block_costs_no_unit() -> None:
    world = World(**UNTRACKED)
    begin(world, SAVEPOINT, END_SAVEPOINT, INSERT)
    assert words(world) == [b"BEGIN SAVEPOINT RELEASE INSERT COMMIT"]


# Expected row counts.


@pytest.mark.parametrize(
    ("low", "high", "count", "is_met"),
    [(1, 1, 1, True), (1, 1, 0, False), (1, 1, 2, False), (2, None, 2, True), (2, None, 1, False), (0, 0, 0, True),
     (0, 5, 6, False), (1, None, -1, False), (0, 3, -1, True)],
)  # fmt: skip
def test_a_row_count_that_is_not_expected_rolls_back(low: int, high: int | None, count: int, is_met: bool) -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, step(b"UPDATE 1", low=low, high=high))
    answer(world, backend, {b"UPDATE 1": StatementResult(f"UPDATE {count}", count, None, b"", ())})
    if sent(world)[-1] == ROLLBACK or not world.is_answered(request):
        answer(world, backend)
    if is_met:
        committed(world, request)
        return
    assert sent(world)[-1] == ROLLBACK
    answered, place = failed(world, request)
    assert (answered.kind, answered.outcome, place) == ("expectation", FAILED, 1)
    assert f"got {max(count, 0)}" in answered.message


def test_the_first_row_count_that_is_not_expected_is_the_one_reported() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, step(b"UPDATE 1", low=2), step(b"DELETE 1", low=9))
    answer(world, backend, {b"DELETE 1": StatementResult("DELETE 0", 0, None, b"", ())})
    answer(world, backend)
    assert failed(world, request)[1] == 0


def test_a_row_count_that_is_not_expected_in_a_savepoint_block_undoes_the_block() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, SAVEPOINT, step(b"UPDATE 1", low=2), END_SAVEPOINT, READ)
    answer(world, backend)
    answer(world, backend)
    results = committed(world, request).results
    assert Failure(*results[2]).kind == "expectation"
    assert is_undone(world, 0)


def test_a_row_count_that_is_not_expected_before_an_inner_block_undoes_the_outer_one() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(
        world, SAVEPOINT, step(b"UPDATE 1", low=2), SAVEPOINT, INSERT, END_SAVEPOINT, END_SAVEPOINT, READ
    )
    while not world.is_answered(request):
        answer(world, backend)
    assert Failure(*committed(world, request).results[1]).kind == "expectation"
    assert is_undone(world, 0), "UPDATE is reported as undone"


# References.


RETURNED: dict[bytes, StatementResult] = {
    b"SELECT ids": table({"id": 23, "name": 25, "at": 1114}, [b"7", b"it's", None], [b"8", None, b"2026-01-01"])
}


def refer(*references: StepReference, steps: tuple[Any, ...] = (), **over: Any) -> tuple[World, int, int]:
    """A message whose last step refers to `SELECT ids`, after that has been answered."""
    world = World(**UNTRACKED)
    parameters = b",".join([b"\0"] * len(references))
    request, backend = begin(world, step(b"SELECT ids"), *steps, step(b"UPDATE " + parameters, *references, **over))
    answer(world, backend, RETURNED)
    return world, request, backend


@pytest.mark.parametrize(
    ("row", "column", "literal"),
    [
        (0, "id", b"7"),
        (1, 0, b"8"),
        (0, "name", b"'it''s'"),
        (0, "at", b"NULL"),
        (1, "at", b"'2026-01-01'::timestamp"),
        (None, "id", b"ARRAY[7,8]"),
        (None, "name", b"ARRAY['it''s',NULL]"),
    ],
)
def test_a_cell_of_an_earlier_result_becomes_a_parameter(row: int | None, column: str | int, literal: bytes) -> None:
    world, request, backend = refer(StepReference(0, 0, row, column))
    assert sent(world)[-1] == [b"UPDATE " + literal, b"COMMIT"]
    answer(world, backend)
    committed(world, request)


def test_references_and_values_stand_side_by_side() -> None:
    both = StepReference(1, 0, 0, "id"), StepReference(0, 0, 1, "id")
    world, _, _ = refer(*both, types=oids(0, 0), values=packed(None, None))
    assert sent(world)[-1][0] == b"UPDATE 8,7"
    world = World(**UNTRACKED)
    mixed = step(b"UPDATE \0, \0", StepReference(1, 0, 0, "id"), types=oids(25, 0), values=packed(b"x", None))
    _, backend = begin(world, step(b"SELECT ids"), mixed)
    answer(world, backend, RETURNED)
    assert sent(world)[-1][0] == b"UPDATE 'x', 7"


@pytest.mark.parametrize(
    ("reference", "outcomes", "text"),
    [
        (StepReference(0, 0, 2, "id"), RETURNED, "row 2 of a statement that returned 2 rows"),
        (StepReference(0, 0, 0, "nope"), RETURNED, "'nope' of a statement with columns id, name, at"),
        (StepReference(0, 0, 0, 3), RETURNED, "column 3 of a statement with 3 columns"),
        (
            StepReference(0, 0, 0, "id"),
            {b"SELECT ids": WRITTEN},
            "returns no rows",
        ),
        (
            StepReference(0, 0, 0, "id"),
            {b"SELECT ids": OK._replace(rows=None)},
            "max_result_bytes",
        ),
    ],
)
def test_a_reference_to_what_is_not_there_rolls_back_and_says_what_there_was(
    reference: StepReference, outcomes: Mapping[bytes, StatementResult], text: str
) -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, step(b"SELECT ids"), INSERT, step(b"UPDATE \0", reference))
    answer(world, backend, outcomes)
    while not world.is_answered(request):
        answer(world, backend)
    assert ROLLBACK in sent(world)
    assert not any(b"COMMIT" in unit for unit in sent(world))
    answered, place = failed(world, request)
    assert (answered.kind, answered.outcome, place) == ("expectation", FAILED, 2)
    assert text in answered.message


def test_a_reference_into_an_undone_block_rolls_back() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(
        world, SAVEPOINT, step(b"SELECT ids"), INSERT, END_SAVEPOINT, step(b"UPDATE \0", StepReference(0, 1, 0, "id"))
    )
    answer(world, backend, RETURNED, fails=b"INSERT 1")
    while not world.is_answered(request):
        answer(world, backend)
    answered, place = failed(world, request)
    assert (answered.kind, place) == ("expectation", 4)
    assert "undone" in answered.message


def test_a_reference_to_what_is_not_there_in_a_savepoint_block_undoes_the_block() -> None:
    world = World(**UNTRACKED)
    missing = step(b"UPDATE \0", StepReference(0, 0, 9, "id"))
    request, backend = begin(world, step(b"SELECT ids"), SAVEPOINT, INSERT, missing, END_SAVEPOINT, READ)
    answer(world, backend, RETURNED)
    while not world.is_answered(request):
        answer(world, backend)
    results = committed(world, request).results
    assert Failure(*results[3]).kind == "expectation"
    assert is_undone(world, 0)


def test_a_reference_that_was_not_needed_after_all_does_not_make_a_committed_message_fail() -> None:
    world = World(**UNTRACKED)
    missing = step(b"UPDATE \0", StepReference(0, 1, 9, "id"))
    request, backend = begin(
        world, SAVEPOINT, step(b"SELECT ids"), END_SAVEPOINT, SAVEPOINT, INSERT, missing, END_SAVEPOINT
    )
    answer(world, backend, RETURNED)
    answer(world, backend, fails=b"INSERT 1")
    assert sent(world)[-1][-1] == b"COMMIT", "the block is undone, and the reference with it"
    answer(world, backend)
    committed(world, request)


def test_malformed_values_beside_a_reference_are_refused_where_the_statement_is_prepared() -> None:
    world = World(prepare="auto", **UNTRACKED)
    world.client()
    promote(world, b"UPDATE \0, \0", oids(0, 0))
    broken = step(b"UPDATE \0, \0", StepReference(1, 0, 0, "id"), values=b"\0\0\0\x09")
    request = world.transaction(step(b"SELECT ids"), broken)
    world.connect_all()
    if not world.is_answered(request):
        answer(world, world.running(request), RETURNED)
    assert isinstance(world.reply_to(request), Failure)


def test_malformed_values_are_refused_where_the_statement_is_prepared_for_others() -> None:
    world = World(prepare="auto", **UNTRACKED)
    world.client()
    promote(world, b"UPDATE \0", oids(23))
    request = world.transaction(step(b"UPDATE \0", types=oids(23), values=packed(b"; DROP"), prepare=False))
    world.connect_all()
    assert isinstance(world.reply_to(request), Failure)
