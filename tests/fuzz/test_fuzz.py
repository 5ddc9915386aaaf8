"""Every decoder with inputs made from sound ones: some seconds of what scripts/fuzz does for as long as it is told."""

from random import Random

import pytest
from decoders import DECODERS, Decoder, Finding, check
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from mutator import Population

GROWN_BYTES = 10_000


@pytest.mark.parametrize("name", DECODERS)
@given(st.integers(0, 2**64 - 1), st.binary(max_size=200))
@examples(50)
def test_no_input_brings_anything_but_the_protocols_errors(name: str, seed: int, garbage: bytes) -> None:
    decoder = DECODERS[name]
    population = Population(decoder.seeds, Random(seed), decoder.words, decoder.reshape)
    for data in (garbage, population.next(), population.next(), population.grown(GROWN_BYTES)):
        try:
            check(decoder, data)
        except Finding as finding:
            raise Finding(f"{name} does not stand bytes.fromhex('{data.hex()}'): {finding}") from finding


@pytest.mark.parametrize("name", DECODERS)
def test_sound_inputs_are_understood(name: str) -> None:
    decoder = DECODERS[name]
    errors = tuple(error.__name__ for error in decoder.errors)
    told = [check(decoder, seed) for seed in decoder.seeds]
    assert any(not each.startswith(errors or ("-",)) for each in told)


def test_what_a_decoder_must_not_do_is_found() -> None:
    def spoiled(data: bytes) -> str:
        return {b"key": "as it should", b"much": "much"}[data] + str(len([*range(100_000 * data.count(b"much"))]))

    decoder = Decoder(spoiled, [b"key"])
    assert check(decoder, b"key") == "as it should0"
    with pytest.raises(Finding, match="KeyError"):
        check(decoder, b"other")
    with pytest.raises(Finding, match="bytes of memory for 4 of input"):
        check(decoder, b"much")
    assert check(Decoder(spoiled, [], (KeyError,)), b"other") == "KeyError: b'other'"


def test_a_seed_gives_the_same_inputs_again_and_another_seed_others() -> None:
    decoder = DECODERS["core"]

    def inputs(seed: int) -> list[bytes]:
        population = Population(decoder.seeds, Random(seed), decoder.words, decoder.reshape)
        return [population.next() for _ in range(50)]

    assert inputs(1) == inputs(1) != inputs(2)
    assert len(set(inputs(1))) > 40


def test_what_is_new_is_gone_on_from() -> None:
    population = Population([b"sound"], Random(1))
    population.learn(b"first", "took 1")
    population.learn(b"as the first", "took 22")
    population.learn(b"second", "refused")
    assert population.inputs == [b"sound", b"first", b"second"]
