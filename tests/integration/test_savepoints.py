"""Savepoint blocks within transaction blocks: an error undoes its block, all of it, and nothing else."""

import itertools
from collections.abc import Iterator
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from postgres import Postgres

import client
from client import Handler, Savepoint, Transaction

# What a block raises, its end does; so the whole block stands inside.
block_raises = pytest.raises

ADD = "INSERT INTO savepoints_test VALUES (%s)"
FAILS = "SELECT 1 / %s"
READ = "SELECT id FROM savepoints_test ORDER BY id"


@pytest.fixture(params=["literal", "prepared"])
def db(request: pytest.FixtureRequest, broker: Broker, postgres: Postgres) -> Iterator[Handler]:
    """A Handler whose statements are literals, and one whose statements have been prepared."""
    postgres.execute("CREATE TABLE savepoints_test (id int PRIMARY KEY)")
    made = broker.handler("default", prepare=request.param == "prepared")
    if request.param == "prepared":
        for number in range(5):
            made.run([(ADD, (number,)), (FAILS, (1,)), READ])
        postgres.execute("TRUNCATE savepoints_test")
    try:
        yield made
    finally:
        postgres.execute("DROP TABLE savepoints_test")


def ids(db: Handler) -> list[int]:
    """What everybody sees in the table."""
    return [row.id for row in db.query(READ)]


def test_a_block_without_an_error_takes_effect(db: Handler) -> None:
    with db.transaction() as tx:
        tx.query(ADD, (1,))
        with tx.savepoint() as savepoint:
            inner = tx.query(ADD + " RETURNING id", (2,))
        tx.query(ADD, (3,))
    assert savepoint.error is None
    assert inner["id"] == 2
    assert ids(db) == [1, 2, 3]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_error_anywhere_in_a_block_undoes_that_block_alone(db: Handler, place: int) -> None:
    with db.transaction() as tx:
        before = tx.query(ADD, (1,))
        with tx.savepoint() as savepoint:
            inside = [tx.query(FAILS, (0,)) if place == each else tx.query(ADD, (10 + each,)) for each in range(3)]
        after = tx.query(READ)
    assert isinstance(savepoint.error, psycopg2.errors.DivisionByZero)
    assert (savepoint.error.statement_index, savepoint.error.outcome) == (1 + place, "failed")
    assert [row.id for row in after] == [1]
    assert before.rowcount == 1
    for each, result in enumerate(inside):
        expected = psycopg2.errors.DivisionByZero if each == place else client.UsageError
        with pytest.raises(expected):
            result.result()
    assert ids(db) == [1]


def test_blocks_one_after_the_other_stand_for_themselves(db: Handler) -> None:
    with db.transaction() as tx:
        savepoints = []
        for number in range(20):
            with tx.savepoint() as savepoint:
                tx.query(ADD, (number,))
                tx.query(FAILS, (number % 3,))
            savepoints.append(savepoint)
    assert [savepoint.error is None for savepoint in savepoints] == [number % 3 != 0 for number in range(20)]
    assert ids(db) == [number for number in range(20) if number % 3]


@pytest.mark.parametrize("where", ["first outer", "inner", "last outer", "nowhere"])
def test_an_inner_block_is_undone_alone_and_with_the_one_around_it(db: Handler, where: str) -> None:
    def step(name: str, number: int) -> None:
        if name == where:
            tx.query(FAILS, (0,))
        tx.query(ADD, (number,))

    with db.transaction() as tx:
        step("around", 1)
        with tx.savepoint() as outer:
            step("first outer", 2)
            with tx.savepoint() as inner:
                step("inner", 3)
            step("last outer", 4)
        step("after", 5)
    expected = {"inner": [1, 2, 4, 5], "nowhere": [1, 2, 3, 4, 5]}.get(where, [1, 5])
    assert ids(db) == expected
    assert (outer.error is None) == (where in ("inner", "nowhere"))
    assert (inner.error is None) == (where == "nowhere")


@pytest.mark.parametrize("where", ["first outer", "inner", "last outer"])
def test_a_row_count_that_was_not_expected_undoes_the_same_as_an_error(db: Handler, where: str) -> None:
    def step(name: str, number: int) -> None:
        tx.query(ADD, (number,), expect=2 if name == where else 1)

    with db.transaction() as tx:
        step("around", 1)
        with tx.savepoint() as outer:
            step("first outer", 2)
            with tx.savepoint() as inner:
                step("inner", 3)
                with tx.savepoint():
                    step("innermost", 30)
            step("last outer", 4)
        step("after", 5)
    failed = inner.error if where == "inner" else outer.error
    assert isinstance(failed, client.ExpectationFailed)
    assert ids(db) == ([1, 2, 4, 5] if where == "inner" else [1, 5])
    assert "transaction was rolled back" not in str(failed), "only the block was"


# What may stand in a block: a statement that adds its number, one that fails, one with a row count that is not met, a
# reference to an earlier statement, or a block.
LEAVES = st.sampled_from(["add", "fail", "expect", "refer"])
TREES = st.lists(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=5), max_leaves=12), max_size=6)


class Undone(Exception):
    """A block's model failed."""


@examples(120)
@given(tree=TREES, chance=st.randoms(use_true_random=False))
def test_any_nesting_of_blocks_has_the_outcome_of_its_model(db: Handler, tree: list[Any], chance: Any) -> None:
    db.query("TRUNCATE savepoints_test")
    numbers, added, known = itertools.count(1), list[Any](), dict[int, bool]()
    checks: list[tuple[Savepoint, bool]] = []

    def build(tx: Transaction, items: list[Any], runs: bool) -> list[int]:
        """Send the block's statements, whether or not the model runs them; what the model added. Raises Undone."""
        done, failed = list[int](), False
        for item in items:
            now = runs and not failed
            if isinstance(item, list):
                is_undone, mark = False, len(checks)
                with tx.savepoint() as savepoint:
                    try:
                        inner = build(tx, item, now)
                    except Undone:
                        is_undone = True
                        del checks[mark:]  # those inside went with it
                if now:
                    checks.append((savepoint, is_undone))
                    done += [] if is_undone else inner
                if is_undone or not now:
                    known.update(dict.fromkeys(range(len(added) - count(item), len(added)), False))
            elif item == "refer" and added:
                place = chance.randrange(len(added))
                tx.query("SELECT %s::int", (added[place]["id"],))
                failed = failed or (now and not known[place])
            elif item == "fail":
                tx.query(FAILS, (0,))
                failed = failed or now
            elif item != "refer":
                number = next(numbers)
                added.append(tx.query(ADD + " RETURNING id", (number,), expect=2 if item == "expect" else None))
                known[len(added) - 1] = now and item == "add"
                failed = failed or (now and item == "expect")
                done += [number] if now and item == "add" else []
        if failed:
            raise Undone
        return done

    try:
        with db.transaction() as tx:
            try:
                expected = build(tx, tree, True)
            except Undone:
                expected = []
                checks.clear()
    except client.DBError:
        assert not checks
    else:
        assert ids(db) == expected
        for savepoint, is_undone in checks:
            assert (savepoint.error is not None) == is_undone
        return
    assert ids(db) == [] == expected


def count(items: list[Any]) -> int:
    """How many statements of a tree are kept for reference."""
    return sum(count(item) if isinstance(item, list) else item in ("add", "expect") for item in items)


def test_an_unmet_expectation_outside_ends_the_transaction_also_where_a_block_follows(db: Handler) -> None:
    with block_raises(client.ExpectationFailed) as caught, db.transaction() as tx:
        tx.query(ADD, (1,), expect=7)
        with tx.savepoint():
            tx.query(FAILS, (0,))
    assert caught.value.statement_index == 0
    assert ids(db) == []


def test_a_reference_leads_into_a_block_out_of_it_and_past_it(db: Handler) -> None:
    with db.transaction() as tx:
        one = tx.query("SELECT 1 AS id")
        with tx.savepoint():
            two = tx.query("SELECT %s + 1 AS id", (one["id"],))
            tx.query(ADD, (two["id"],))
        with tx.savepoint() as undone:
            tx.query(ADD, (two["id"],))
        tx.query(ADD, (one["id"],))
        three = tx.query("SELECT %s + %s AS id", (one["id"], two["id"]))
        tx.query(ADD, (three["id"],))
    assert isinstance(undone.error, psycopg2.errors.UniqueViolation)
    assert ids(db) == [1, 2, 3]


def test_a_reference_within_an_undone_block_is_not_missed(db: Handler) -> None:
    with db.transaction() as tx:
        one = tx.query("SELECT 1 AS id")
        with tx.savepoint() as undone:
            tx.query("SELECT %s + 1", (one["id"],))
            tx.query(FAILS, (0,))
            tx.query("SELECT %s", (one["no such column"],))
        tx.query(ADD, (1,))
    assert isinstance(undone.error, psycopg2.errors.DivisionByZero)
    assert ids(db) == [1]


def test_a_pythons_exception_takes_its_block_out(db: Handler) -> None:
    with db.transaction() as tx:
        tx.query(ADD, (1,))
        try:
            with tx.savepoint() as savepoint:
                tx.query(ADD, (2,))
                raise LookupError("mine")
        except LookupError:
            tx.query(ADD, (3,))
    assert "mine" in str(savepoint.error)
    assert ids(db) == [1, 3]


def test_a_deferred_constraint_is_not_an_error_of_a_block(db: Handler, postgres: Postgres) -> None:
    postgres.execute("ALTER TABLE savepoints_test ADD parent int REFERENCES savepoints_test DEFERRABLE")
    with block_raises(psycopg2.errors.ForeignKeyViolation), db.transaction() as tx:
        tx.query("SET CONSTRAINTS ALL DEFERRED")
        with tx.savepoint():
            tx.query("INSERT INTO savepoints_test (id, parent) VALUES (1, 99)")
    assert ids(db) == []


def test_a_block_that_cannot_be_sent_whole_is_sent_as_it_must_be(db: Handler) -> None:
    statements: list[Any] = []
    with db.transaction() as tx:
        for number in range(100):
            with tx.savepoint():
                last = tx.query(ADD + " RETURNING id", (number,), expect=1)
                statements.append(tx.query("SELECT %s * 2 AS twice", (last["id"],)))
    assert [result["twice"] for result in statements] == [2 * number for number in range(100)]
