"""What is told of a statement that fetches from a cursor: the query that the cursor reads."""

from __future__ import annotations

from typing import Any

import pytest
from world import World

from client.wire.cursors import MOST_KEPT, Cursors, CursorUse, cursor_use, described
from client.wire.messages import TX_ACTIVE, Commit
from poold.core import effects

NO_USE = CursorUse("", b"", b"")
QUERY = b"SELECT id FROM t WHERE name = 'secret' AND kind = \0"


@pytest.mark.parametrize(
    ("statement", "use"),
    [
        (b"DECLARE poold_stream_0 NO SCROLL CURSOR FOR\nSELECT 1", ("declares", b"poold_stream_0", b"SELECT 1")),
        (b'declare "C x" binary insensitive cursor with hold for select 2', ("declares", b"C x", b"select 2")),
        (b"DECLARE c CURSOR FOR SELECT 1 FOR UPDATE", ("declares", b"c", b"SELECT 1 FOR UPDATE")),
        (b"FETCH 2000 FROM poold_stream_0", ("fetches", b"poold_stream_0", b"")),
        (b"  fetch forward all in C;", ("fetches", b"c", b"")),
        (b"FETCH -5 FROM c /*tag='x'*/", ("fetches", b"c", b"")),
        (b'MOVE BACKWARD 3 FROM "C x"', ("fetches", b"C x", b"")),
        (b"FETCH c", ("fetches", b"c", b"")),
        (b"CLOSE c", ("closes", b"c", b"")),
        (b"SELECT 1", None),
        (b"FETCHED", None),
    ],
)
def test_what_a_statement_does_with_a_cursor(statement: bytes, use: tuple[str, bytes, bytes] | None) -> None:
    assert cursor_use(statement) == use


def test_so_many_cursors_are_remembered() -> None:
    known = Cursors()
    for number in range(2 * MOST_KEPT):
        known.take(cursor_use(b"DECLARE c%d CURSOR FOR SELECT %d" % (number, number)) or NO_USE)
    found = [known.take(cursor_use(b"FETCH 1 FROM c%d" % number) or NO_USE) for number in range(2 * MOST_KEPT)]
    assert found[:MOST_KEPT] == [None] * MOST_KEPT
    assert described(b"FETCH 1 FROM c", found[-1]) == "FETCH ? FROM c: SELECT ?"
    known.take(cursor_use(b"CLOSE c199") or NO_USE)
    assert known.take(cursor_use(b"FETCH 1 FROM c199") or NO_USE) is None


def streamed(world: World, lease: int, number: int, seconds: float = 0.0) -> None:
    """Read a stream of QUERY in a lease of its own; each FETCH takes so long."""
    name = b"poold_stream_%d" % number

    def run(statement: bytes, **options: Any) -> int:
        return world.query(1, "tx", statement=statement, lease=lease, **options)

    first = run(
        b"DECLARE " + name + b" NO SCROLL CURSOR FOR\n" + QUERY, begin=True, types=b"\0\0\0\x17", values=b"\0\0\0\x011"
    )
    world.connect_all()
    world.finish(first, TX_ACTIVE)
    for _ in range(2):
        block = run(b"FETCH 2000 FROM " + name)
        world.now += seconds
        world.finish(block, TX_ACTIVE)
    world.finish(world.end(Commit, lease), command="COMMIT")


def test_streams_of_one_statement_are_one_in_the_figures_and_name_it() -> None:
    world = World(max_size=1)
    world.client()
    for number in range(8):
        streamed(world, 5 + number, number)
    shape = b"SELECT id FROM t WHERE name = ? AND kind = ?"
    assert {each.text: each.calls for each in world.broker.groups["tx"].tallies} == {
        b"DECLARE poold_stream_? NO SCROLL CURSOR FOR " + shape: 8,
        b"FETCH ? FROM poold_stream_?: " + shape: 16,
        b"COMMIT": 8,
    }


def test_a_slow_fetch_names_the_query_that_it_fetches_from() -> None:
    world = World(max_size=1, log_slow=1.0)
    world.client()
    streamed(world, 5, 0, seconds=1.5)
    notes = [each for each in world.taken(effects.Note) if each.event == "slow request"]
    assert [each.fields["statement"] for each in notes] == [
        "FETCH ? FROM poold_stream_0: SELECT id FROM t WHERE name = ? AND kind = $1"
    ] * 2
