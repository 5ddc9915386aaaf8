"""What workers were told of each transaction, held against what is in the table.

A worker's log has a line before each attempt and one after it, each written at once, so it tells the truth whenever the
worker is killed. An attempt without an end is one of which nobody was told anything.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

Entry = tuple[int, int, int]  # worker, serial, part


class Fate(StrEnum):
    """What a worker was told of a transaction."""

    COMMITTED = "committed"  # all of it is there
    ABSENT = "absent"  # failed, rolled back, not executed: nothing of it is there
    UNKNOWN = "unknown"  # either


@dataclass(slots=True)
class Attempt:
    """One transaction, as far as its worker knows."""

    worker: int
    serial: int
    way: str  # how it was sent
    parts: list[int]  # what is there if it was committed
    # Whether it can have been committed: a lease whose COMMIT was not sent cannot, whatever became of its worker.
    was_sent: bool
    # Parts of a savepoint block, which are all there or, where an error undid the block, none; block_there is what the
    # worker was told of it.
    block: list[int] = field(default_factory=list)
    block_there: bool | None = None
    fate: Fate | None = None  # None: its worker was killed before it was told, or left by an exception
    error: str = ""
    is_stepwise: bool = False  # it commits part by part

    @property
    def wholes(self) -> list[set[int]]:
        """What may be there if it was committed."""
        if self.is_stepwise and self.fate is not Fate.COMMITTED:
            return [{*self.parts[:count]} for count in range(1, len(self.parts) + 1)]
        made = []
        if self.block_there is not False:
            made.append({*self.parts, *self.block})
        if self.block_there is not True:
            made.append({*self.parts})
        return made


@dataclass(slots=True)
class Audit:
    """The figures, and what is wrong."""

    fates: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    unknown_ways: Counter[str] = field(default_factory=Counter)
    unknown_there: int = 0  # of the unknown ones
    untold: int = 0  # of the unknown ones: their worker was killed
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    undead: list[str] = field(default_factory=list)  # there, although reported absent
    strange: list[str] = field(default_factory=list)  # nobody wrote it
    told_wrong: list[str] = field(default_factory=list)  # a worker got what it did not ask for

    @property
    def wrong(self) -> list[str]:
        """Everything that must not be."""
        kinds = ("lost", "doubled", "half", "undead", "strange", "told_wrong")
        return [f"{kind}: {each}" for kind in kinds for each in getattr(self, kind)]

    def lines(self) -> list[str]:
        """A report."""
        counts = {kind: len(getattr(self, kind)) for kind in ("lost", "doubled", "half", "undead", "strange")}
        return [
            f"transactions {self.fates.total()}: "
            + ", ".join(f"{fate} {self.fates[fate]}" for fate in Fate)
            + f" (of these {self.untold} by a worker's end; {self.unknown_there} were committed)",
            "wrong: "
            + ", ".join(f"{kind} {count}" for kind, count in counts.items())
            + f", wrong replies {len(self.told_wrong)}",
            "ways: "
            + ", ".join(
                f"{way} {count} ({self.unknown_ways[way]} unknown)" for way, count in sorted(self.ways.items())
            ),
            "errors: " + ", ".join(f"{error} {count}" for error, count in self.errors.most_common()),
        ]


def read_log(path: Path) -> tuple[list[Attempt], list[str]]:
    """A worker's attempts, and the wrong replies it got; the file's name is its number."""
    attempts: dict[int, Attempt] = {}
    told_wrong = []
    for line in path.read_text().splitlines():
        match json.loads(line):
            case {"begin": serial, "way": way, "parts": parts, "block": block, "is_sent": is_sent, **more}:
                assert serial not in attempts
                attempts[serial] = Attempt(int(path.stem), serial, way, parts, is_sent, block, **more)
            case {"block_there": there, "serial": serial}:
                attempts[serial].block_there = there
            case {"commit": serial}:
                attempts[serial].was_sent = True
            case {"end": serial, "fate": fate, "error": error}:
                attempts[serial].fate, attempts[serial].error = Fate(fate), error
            case {"wrong": text}:
                told_wrong.append(f"worker {path.stem}: {text}")
            case other:
                raise AssertionError(f"{path}: {other!r} is no entry of a log")
    return list(attempts.values()), told_wrong


def audit(attempts: Iterable[Attempt], found: Iterable[Entry], told_wrong: Iterable[str] = ()) -> Audit:
    """Hold what was told against what is there."""
    result = Audit(told_wrong=list(told_wrong))
    there: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for worker, serial, part in found:
        there[worker, serial][part] += 1
    for attempt in attempts:
        _judge(attempt, there.pop((attempt.worker, attempt.serial), Counter()), result)
    result.strange += [f"worker {worker} serial {serial}: {dict(parts)}" for (worker, serial), parts in there.items()]
    return result


def _judge(attempt: Attempt, parts: Counter[int], result: Audit) -> None:
    fate = attempt.fate
    if fate is None:
        fate = Fate.UNKNOWN if attempt.was_sent else Fate.ABSENT
        result.untold += fate is Fate.UNKNOWN
    result.fates[fate] += 1
    result.ways[attempt.way] += 1
    if attempt.error:
        result.errors[attempt.error] += 1
    name = f"{attempt} has {dict(parts)}"
    if any(count > 1 for count in parts.values()):
        result.doubled.append(name)
    elif parts and fate is Fate.ABSENT:
        result.undead.append(name)
    elif not parts and fate is Fate.COMMITTED:
        result.lost.append(name)
    elif parts and set(parts) not in attempt.wholes:
        result.half.append(name)
    if fate is Fate.UNKNOWN:
        result.unknown_ways[attempt.way] += 1
    result.unknown_there += fate is Fate.UNKNOWN and bool(parts)
