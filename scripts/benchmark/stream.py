"""A client process with many requests in flight: on a schedule, whatever becomes of them, or so many at any time.

    PYTHONPATH=scripts:. .venv/bin/python scripts/benchmark/stream.py SOCKET

It takes orders from its standard input, a line of JSON each, and answers each with a line; `Stream` is its owner's
side. A closed loop cannot overload anything, as who waits for replies sends nothing; on a schedule the load stays.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark.broker import STATEMENTS
from benchmark.crew import Window
from benchmark.hostility import Connection
from client.wire.codec import decode_reply, encode
from client.wire.limits import NORMAL
from client.wire.messages import Failure, Query, ResultMessage

# After the end of an order, for what is not answered yet.
PATIENCE = 10.0
# Longest wait for a reply where nothing else is due.
WAIT = 0.05


@dataclass(frozen=True, slots=True)
class Order:
    """What to send: `rate` requests a second, or, where that is 0, as many as keep `unanswered` of them waiting."""

    statement: str
    rate: float = 0.0
    unanswered: int = 1
    timeout: float | None = None
    priority: int = NORMAL


@dataclass(slots=True)
class Report:
    """What became of the requests that were sent in the measured time; served counts the results that came in it."""

    sent: int = 0
    served: int = 0
    latencies: list[float] = field(default_factory=list)  # of those with a result, in seconds
    failures: Counter[str] = field(default_factory=Counter)  # of the others, by kind

    def __add__(self, other: "Report") -> "Report":
        return Report(
            self.sent + other.sent,
            self.served + other.served,
            self.latencies + other.latencies,
            self.failures + other.failures,
        )


class Stream:
    """Such a process, from start to stop."""

    def __init__(self, address: str) -> None:
        self._path = address.removeprefix("ipc://")
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """It connects when its first order comes."""
        scripts = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, self._path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(scripts), str(scripts.parent)))},
        )

    def stop(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def tell(self, order: Order, window: Window) -> None:
        """Let it send from the window's start to its stop; requests sent from begin to end are measured."""
        self._write({"order": asdict(order), "window": asdict(window)})

    def report(self) -> Report:
        """What became of it."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that sends the requests has ended")
        told = json.loads(line)
        return Report(told["sent"], told["served"], told["latencies"], Counter(told["failures"]))

    def _write(self, what: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()


class Sender:
    """One order being carried out."""

    def __init__(self, connection: Connection, order: Order, window: Window) -> None:
        self._connection = connection
        self._order = order
        self._window = window
        self._sent: dict[int, float] = {}  # when, by number; of those that wait
        self._report = Report()
        self._due = window.start

    def run(self) -> Report:
        """From the window's start until all is answered."""
        time.sleep(max(0.0, self._window.start - time.perf_counter()))
        while (now := time.perf_counter()) < self._window.stop:
            self._send(now)
            self._receive(min(WAIT, max(0.0, self._due - time.perf_counter())) if self._order.rate else WAIT)
        while self._sent and time.perf_counter() < self._window.stop + PATIENCE:
            self._receive(WAIT)
        if self._sent:
            raise RuntimeError(f"{len(self._sent)} requests have no reply {PATIENCE:g} s after the end")
        return self._report

    def _send(self, now: float) -> None:
        """What is due, or wanting."""
        order, count = self._order, 0
        if order.rate:
            while self._due <= now:
                self._due += 1 / order.rate
                count += 1
        else:
            count = order.unanswered - len(self._sent)
        messages = []
        for _ in range(count):
            number = next(self._connection.numbers)
            self._sent[number] = now
            sql, rest = order.statement.encode(), (b"", b"", True, order.timeout, "", order.priority)
            messages.append(encode(Query(number, STATEMENTS, 0, False, sql, *rest)))
        if messages:
            self._connection.send(*messages)
            if self._window.begin <= now < self._window.end:
                self._report.sent += count

    def _receive(self, patience: float) -> None:
        """Take what came, and wait for it if nothing has."""
        connection, report, window = self._connection, self._report, self._window
        if not select.select([connection.socket], [], [], patience)[0]:
            return
        connection.receive()
        inbox = connection.zmtp.inbox
        now = time.perf_counter()
        while inbox:
            reply = decode_reply(inbox.popleft() or b"")
            assert isinstance(reply, (ResultMessage, Failure)), reply
            began = self._sent.pop(reply.request)
            is_result = type(reply) is ResultMessage
            report.served += is_result and window.begin <= now < window.end
            if not window.begin <= began < window.end:
                continue
            if isinstance(reply, Failure):
                report.failures[reply.sqlstate or reply.kind] += 1
            else:
                report.latencies.append(now - began)


def main() -> None:
    """Carry out orders until the owner is gone."""
    connection = Connection(sys.argv[1]).greet()
    for line in sys.stdin:
        told = json.loads(line)
        report = Sender(connection, Order(**told["order"]), Window(**told["window"])).run()
        # Not asdict: it cannot copy a Counter.
        told = {name: getattr(report, name) for name in Report.__slots__}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
