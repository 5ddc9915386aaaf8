"""Event scripts of literals that mean something else under other settings: another unit than what may have set them."""

from units import UNTRACKED, answer, begin, committed, oids, packed, promote, sent, step
from world import World

from poold.core.statements.proofs import Proof

UNKNOWN = step(b"SELECT f()")


def test_behind_an_unproven_step_a_literal_with_a_backslash_begins_a_unit() -> None:
    world = World(prepare="auto", **UNTRACKED)
    request, backend = begin(world, UNKNOWN, step(b"SELECT \0", types=oids(0), values=packed(b"a\\b")))
    assert sent(world, backend)[-1][-1] == b"SELECT f()"
    answer(world, backend)
    assert sent(world, backend)[-1] == [b"SELECT 'a\\b'", b"COMMIT"]
    answer(world, backend)
    assert len(committed(world, request).results) == 2


def test_so_does_one_that_is_not_ascii_in_its_text_or_values() -> None:
    for sql, values in (("SELECT 'é'".encode(), b""), (b"SELECT \0", packed("é".encode()))):
        world = World(prepare="auto", **UNTRACKED)
        _, backend = begin(world, UNKNOWN, step(sql, types=oids(0) * sql.count(0), values=values))
        assert b"COMMIT" not in sent(world, backend)[-1]


def test_one_that_means_the_same_everywhere_does_not() -> None:
    world = World(prepare="auto", **UNTRACKED)
    _, backend = begin(world, UNKNOWN, step(b"SELECT \0", types=oids(0), values=packed(b"ab")))
    assert sent(world, backend)[-1][-3:] == [b"SELECT f()", b"SELECT 'ab'", b"COMMIT"]


def test_nor_one_behind_what_is_proven() -> None:
    world = World(prepare="auto", **UNTRACKED)
    promote(world, b"SELECT 1", proof=Proof(is_harmless=True))
    _, backend = begin(world, step(b"SELECT 1"), step(b"SELECT \0", types=oids(0), values=packed(b"a\\b")))
    assert sent(world, backend)[-1][-1] == b"COMMIT"
