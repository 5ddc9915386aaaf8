"""Many worlds one after the other, their seeds drawn from one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from simulation.world import World

# A world is long enough for deadlines and short enough for variety.
STEPS = (1000, 3000, 6000)


class Broken(AssertionError):
    """A world in which something does not hold; its text says where."""

    def __init__(self, seed: int, steps: int, world: World, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__} {error}".rstrip())
        self.seed = seed
        self.steps = steps
        self.step = world.steps
        self.lines = list(world.lines)


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
    hash: str = ""


def run(seed: int, steps: int, trace: Callable[[str], None] | None = None) -> Summary:
    """Run worlds until so many steps are done; raises Broken."""
    summary, digest = Summary(), hashlib.blake2b(digest_size=16)
    random = Random(seed)
    while summary.steps < steps:
        world = run_world(random.getrandbits(32), random.choice(STEPS), trace)
        summary.worlds += 1
        summary.steps += world.steps
        summary.facts += world.facts
        summary.seconds += world.now
        summary.unknown += len(world.unknown)
        summary.outcomes += world.outcomes
        summary.tally += world.tally
        digest.update(world.hash.encode())
    summary.hash = digest.hexdigest()
    return summary


def run_world(seed: int, steps: int, trace: Callable[[str], None] | None = None, check_every: int = 0) -> World:
    """Run one world; raises Broken."""
    world = World(seed, check_every, trace) if check_every else World(seed, trace=trace)
    try:
        world.run(steps)
    except Exception as error:
        raise Broken(seed, steps, world, error) from error
    return world
