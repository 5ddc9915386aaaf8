"""What a broker's process holds: counted before the chaos and after it."""

import os
from dataclasses import dataclass
from pathlib import Path

from brokers import Broker


@dataclass(frozen=True, slots=True)
class Census:
    """The counts of a broker whose clients have all gone."""

    descriptors: int  # without those of its backends
    threads: int
    children: int
    memory: int  # resident, in bytes


def census(broker: Broker) -> Census:
    """Count. The asking itself is not counted: it is over, or it is not, so this is asked until it settles."""
    stats = broker.stats()
    backends = sum(pool["size"] for group in stats["groups"].values() for pool in group["endpoints"].values())
    process = Path(f"/proc/{broker.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    children = [child for task in (process / "task").iterdir() for child in (task / "children").read_text().split()]
    return Census(
        len(os.listdir(process / "fd")) - backends,
        int(status["Threads"]),
        len(children),
        int(status["VmRSS"].split()[0]) * 1024,
    )
