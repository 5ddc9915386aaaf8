"""Plays the broker's core against simulated clients, network and PostgreSQL servers, with faults at any moment.

Worlds are made from SEED, one after the other, until so many steps are done; without SEED one is drawn. What must hold
is checked after every step, and at the end of each world. The same seed and the same commit give the same steps: the
hash tells. Exit status 1 is something that does not hold; how to see it again is printed then.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from simulation import runner  # noqa: E402  the path comes first
from simulation.scenario import CLUSTER, COPY, KINDS, LANE, OPERATED  # noqa: E402

MILLION = 1_000_000


@click.command(help=__doc__, context_settings={"show_default": True})
@click.argument("seed", type=click.IntRange(0), required=False)
@click.option("--steps", type=click.IntRange(1), default=MILLION, help="How many steps, over all worlds.")
@click.option("--world", is_flag=True, help="SEED is that of one world, which has so many steps until faults cease.")
@click.option("--kind", type=click.Choice([*KINDS, LANE, CLUSTER, COPY, OPERATED]), help="Worlds of one kind only.")
@click.option("--trace", is_flag=True, help="Print every step.")
def main(seed: int | None, steps: int, world: bool, kind: str | None, trace: bool) -> None:
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}", flush=True)
    show = print if trace else None
    summary = runner.Summary()
    try:
        if world:
            summary.add(runner.run_world(seed, steps, show, kind=kind or ""))
        else:
            runner.run(seed, steps, show, summary, kind or "")
    except runner.Broken as broken:
        first = broken.first()
        if not trace:
            print("\n".join(first.lines))
        print(f"\nstep {first.step} of world {first.seed}: {first}")
        of_kind = f" --kind '{kind}'" if kind else ""
        again = f"scripts/simulate {first.seed} --world --steps {first.steps}{of_kind} --trace"
        print(f"after {summary.worlds} worlds that hold. To see it again: {again}")
        sys.exit(1)
    report(summary)


def report(summary: runner.Summary) -> None:
    """What has happened."""
    print(f"{summary.steps} steps in {summary.worlds} worlds, {summary.facts} facts told to the core")
    print(f"{summary.seconds:.0f} simulated seconds, {summary.unknown} requests without a known outcome")
    for kind in sorted({kind for kind, _ in summary.outcomes}):
        of_kind = {outcome: count for (each, outcome), count in summary.outcomes.items() if each == kind}
        print(f"{kind}: {_listed(Counter(of_kind))}")
    print(f"faults and the like: {_listed(summary.tally)}")
    print(f"hash {summary.hash}")


def _listed(counts: Counter[str]) -> str:
    return "; ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])))


if __name__ == "__main__":
    main()
