"""What a broker's process holds: counted before the chaos and after it."""

import os
from dataclasses import dataclass
from pathlib import Path

from brokers import EXIT_TIMEOUT, Broker

from client.channels.channel import Channel
from client.wire.messages import Answer, Ask


@dataclass(frozen=True, slots=True)
class Census:
    """The counts."""

    descriptors: int  # without those of its backends and its clients
    threads: int
    children: int
    memory: int  # resident, in bytes


def census(broker: Broker) -> Census:
    """Count. Who asks stays until all is counted, as one of its clients."""
    channel = Channel(broker.address)
    try:
        answer = channel.call(Ask(channel.next_request(), "stats"), EXIT_TIMEOUT)
        assert isinstance(answer, Answer)
        known = answer.body["clients"] + backends(answer.body)
        process = Path(f"/proc/{broker.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        children = [child for task in (process / "task").iterdir() for child in (task / "children").read_text().split()]
        return Census(
            len(os.listdir(process / "fd")) - known,
            int(status["Threads"]),
            len(children),
            int(status["VmRSS"].split()[0]) * 1024,
        )
    finally:
        channel.close()


def backends(stats: dict[str, object]) -> int:
    """How many the broker has, those that it is opening included."""
    groups: dict[str, dict[str, dict[str, dict[str, int]]]] = stats["groups"]  # type: ignore[assignment]  # JSON
    return sum(pool["size"] for group in groups.values() for pool in group["endpoints"].values())
