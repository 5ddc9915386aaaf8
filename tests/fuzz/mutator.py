"""Hostile inputs from sound ones: bytes flipped, cut, doubled, spliced, lengths set to extremes, nesting made deep.

Everything follows from the random numbers that are handed in, so a seed gives the same inputs again. `Population` keeps
what made a decoder do something that no input before did, and goes on from there: a poor man's coverage, told by the
decoder's own words instead of its branches.
"""

import re
from collections.abc import Callable, Sequence
from random import Random

# Where a decoder counts, these are the places to err: powers of two and their neighbours, -1, the largest.
EXTREMES = (
    0,
    1,
    2,
    3,
    4,
    5,
    127,
    128,
    255,
    256,
    4096,
    32767,
    32768,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
)
# An input grows to so many bytes, unless it was larger to begin with.
MAX_BYTES = 4096
MAX_CHANGES = 8
# Inputs kept by a Population; beyond it one of them goes.
POPULATION = 2000
_NUMBERS = re.compile(r"\d+")

# So many are changed as what they mean, where that is known.
RESHAPED = 0.7

Reshape = Callable[[Random, bytes], bytes]
Change = Callable[[Random, bytes, bytes], bytes]


def _flip(dice: Random, data: bytes, other: bytes) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << dice.randrange(8),)) + data[at + 1 :]


def _set(dice: Random, data: bytes, other: bytes) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + bytes((dice.randrange(256),)) + data[at + 1 :]


def _number(dice: Random, data: bytes, other: bytes) -> bytes:
    """An extreme number in place of some bytes."""
    size = dice.choice((1, 2, 4, 8))
    at = dice.randrange(len(data))
    number = (dice.choice(EXTREMES) + dice.choice((0, 0, 0, -1, 1))) % 256**size
    return data[:at] + number.to_bytes(size, "big") + data[at + size :]


def _nudge(dice: Random, data: bytes, other: bytes) -> bytes:
    """A length that is a little wrong."""
    at = dice.randrange(len(data))
    return data[:at] + bytes(((data[at] + dice.choice((-2, -1, 1, 2, 4))) % 256,)) + data[at + 1 :]


def _cut(dice: Random, data: bytes, other: bytes) -> bytes:
    begin, end = sorted(dice.randrange(len(data) + 1) for _ in range(2))
    return data[:begin] + data[end:]


def _end(dice: Random, data: bytes, other: bytes) -> bytes:
    return data[: dice.randrange(len(data))]


def _repeat(dice: Random, data: bytes, other: bytes) -> bytes:
    begin, end = sorted(dice.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[begin:end] * dice.choice((1, 1, 1, 2, 5, 50, 500)) + data[end:]


def _byte_many_times(dice: Random, data: bytes, other: bytes) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + data[at : at + dice.choice((1, 1, 2, 3))] * dice.choice((10, 100, 1000)) + data[at:]


def _insert(dice: Random, data: bytes, other: bytes) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.randbytes(dice.randrange(1, 9)) + data[at:]


def _swap(dice: Random, data: bytes, other: bytes) -> bytes:
    a, b, c = sorted(dice.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _splice(dice: Random, data: bytes, other: bytes) -> bytes:
    """This one's beginning and the other's end."""
    return data[: dice.randrange(len(data) + 1)] + other[dice.randrange(len(other) + 1) :]


def _graft(dice: Random, data: bytes, other: bytes) -> bytes:
    """A piece of the other one in the middle of this."""
    begin, end = sorted(dice.randrange(len(other) + 1) for _ in range(2))
    at = dice.randrange(len(data) + 1)
    return data[:at] + other[begin:end] + data[at:]


CHANGES: tuple[Change, ...] = (
    _flip, _set, _number, _number, _nudge, _nudge, _cut, _end, _repeat, _byte_many_times, _insert, _swap,
    _splice, _graft,
)  # fmt: skip


def mutated(
    dice: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes] = (), most: int = MAX_BYTES
) -> bytes:
    """data with some changes; words are what this decoder may look for, others what it is crossed with."""
    longest = max(most, len(data))
    for _ in range(dice.randrange(1, MAX_CHANGES)):
        if words and dice.random() < 0.3:
            at = dice.randrange(len(data) + 1)
            data = data[:at] + dice.choice(words) + data[at + dice.choice((0, 0, 1, 4)) :]
        elif data:
            data = dice.choice(CHANGES)(dice, data, dice.choice(others))
        else:
            data = dice.randbytes(dice.randrange(1, 20))
    return data[:longest]


class Population:
    """Inputs to go on from: the seeds, and those that showed something new."""

    def __init__(
        self, seeds: Sequence[bytes], dice: Random, words: Sequence[bytes] = (), reshape: Reshape | None = None
    ) -> None:
        """words are what the decoder looks for; reshape changes an input as what it means."""
        self.inputs = list(seeds)
        self._reshape = reshape
        self._dice = dice
        self._words = words
        self._seen: set[str] = set()

    def next(self) -> bytes:
        """Another input."""
        dice = self._dice
        if self._reshape is not None and dice.random() < RESHAPED:
            return self._reshape(dice, dice.choice(self.inputs))
        return mutated(dice, dice.choice(self.inputs), self.inputs, self._words)

    def grown(self, most: int) -> bytes:
        """An input of up to so many bytes more: a piece of one again and again."""
        dice = self._dice
        data = dice.choice(self.inputs)
        begin, end = sorted(dice.randrange(len(data) + 1) for _ in range(2))
        piece = data[begin:end] or data
        return data[:end] + piece * (dice.randrange(most) // max(len(piece), 1)) + data[end:]

    def learn(self, data: bytes, behaviour: str) -> None:
        """What the decoder did with it, in words; numbers in them do not count."""
        told = _NUMBERS.sub("0", behaviour)[:200]
        if told in self._seen:
            return
        self._seen.add(told)
        if len(self.inputs) < POPULATION:
            self.inputs.append(data)
        else:
            self.inputs[self._dice.randrange(POPULATION)] = data
