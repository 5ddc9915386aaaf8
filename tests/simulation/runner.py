"""Many worlds one after the other, their seeds drawn from one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from simulation.world import CHECK_EVERY, World

# Until faults cease in a world: long enough for deadlines, short enough for variety.
STEPS = (1000, 3000, 6000)

Trace = Callable[[str], None]


class Broken(AssertionError):
    """A world in which something does not hold; its text says what."""

    def __init__(self, seed: int, steps: int, world: World, error: BaseException, kind: str) -> None:
        super().__init__(f"{type(error).__name__} {error}".rstrip())
        self.seed = seed
        self.steps = steps  # until faults cease
        self.kind = kind
        self.step = world.steps
        self.lines = list(world.lines)

    def first(self) -> Broken:
        """The same world once more, checked whole after every step: this may show it earlier."""
        try:
            run_world(self.seed, self.steps, check_every=1, kind=self.kind)
        except Broken as broken:
            return broken
        return self


@dataclass
class Summary:
    """What has happened in all worlds."""

    worlds: int = 0
    steps: int = 0
    facts: int = 0
    seconds: float = 0.0  # simulated
    unknown: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    tally: Counter[str] = field(default_factory=Counter)
    hashes: list[str] = field(default_factory=list)

    def add(self, world: World) -> None:
        """Another world has come to its end."""
        self.worlds += 1
        self.steps += world.steps
        self.facts += world.facts
        self.seconds += world.now
        self.unknown += len(world.unknown)
        self.outcomes += world.outcomes
        self.tally += world.tally
        self.hashes.append(world.hash)

    @property
    def hash(self) -> str:
        """Of all that has happened."""
        return hashlib.blake2b("".join(self.hashes).encode(), digest_size=16).hexdigest()


def run(seed: int, steps: int, trace: Trace | None = None, summary: Summary | None = None, kind: str = "") -> Summary:
    """Run worlds until so many steps are done; raises Broken. summary keeps what was done until then.

    kind is one of `scenario.KINDS`, "" for any.
    """
    summary = summary or Summary()
    random = Random(seed)
    while summary.steps < steps:
        summary.add(run_world(random.getrandbits(32), random.choice(STEPS), trace, kind=kind))
    return summary


def run_world(
    seed: int, steps: int, trace: Trace | None = None, check_every: int = CHECK_EVERY, kind: str = ""
) -> World:
    """Run one world; raises Broken."""
    world = World(seed, check_every, trace, kind)
    try:
        world.run(steps)
    except Exception as error:
        raise Broken(seed, steps, world, error, kind) from error
    return world
