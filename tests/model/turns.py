"""Whether the processes that wait in one priority take turns.

While a process waits no other of its priority is served twice from the queue, and what it asked for comes in its order.
That holds without any slack: who comes, or comes back, is the last in line, and who was served goes there. It does not
hold for requests that had their turn before and lost their backend, which come before all others, nor for those that
leave unexecuted, which take no turn.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from poold.core.records.client import Client
from poold.core.records.flow import Flight
from poold.core.records.request import Request
from poold.core.shared.queue import Queue


class WatchedQueue(Queue):
    """The core's queue, which tells who came, who was served and who left."""

    def __init__(self, weights: Sequence[int]) -> None:
        super().__init__(weights)
        self._turns = tuple(_Turns() for _ in weights)
        # Those that had their turn before: enter by push_front, leave when they are taken out.
        self._is_again: set[Request] = set()
        self._popped: set[Request] = set()  # in their turn, and not seen to be begun

    def fact(self) -> None:
        """The core is about to be told something."""
        for turns in self._turns:
            turns.fact()

    def push(self, request: Request) -> None:
        super().push(request)
        self._turns[request.priority].came(request)

    def push_front(self, request: Request) -> None:
        super().push_front(request)
        self._is_again.add(request)

    def pop(self, priorities: int) -> Request:
        request = super().pop(priorities)
        if request in self._is_again:
            self._is_again.discard(request)
        else:
            self._popped.add(request)
            self._turns[request.priority].served(request)
        return request

    def discard(self, request: Request) -> None:
        super().discard(request)
        self._is_again.discard(request)
        self._turns[request.priority].left(request)

    def replace(self, flight: Flight, request: Request) -> None:
        super().replace(flight, request)
        self._turns[request.priority].replace(flight, request)

    def is_begun_in_turn(self, request: Request | Flight) -> bool:
        """Whether it is given to a backend as it was its turn, after it had waited."""
        is_in_turn = request in self._popped
        self._popped.discard(request)  # type: ignore[arg-type]  # where it stands flights do
        return is_in_turn

    def check_nobody_waits(self, request: Request | Flight) -> None:
        """It is given to a backend without having waited: nobody of its priority waits."""
        self._turns[request.priority].check_nobody_waits(request)


class _Turns:
    """Who of one priority waits since when, and was served when; time is counted in what has happened here."""

    def __init__(self) -> None:
        self._now = self._before = 0  # and when the core was told something last
        self._waiting: dict[Hashable, dict[Request, None]] = {}  # by process, in their order
        # Since when those that wait were not served, the longest first.
        self._since: dict[Hashable, int] = {}
        self._served: dict[Hashable, int] = {}

    def fact(self) -> None:
        self._before = self._now

    def came(self, request: Request) -> None:
        process = _process(request.client)
        if process not in self._waiting:
            self._waiting[process] = {}
            self._now += 1
            self._since[process] = self._now
        self._waiting[process][request] = None

    def served(self, request: Request) -> None:
        process = _process(request.client)
        first = next(iter(self._since))
        is_its_turn = first == process or self._since[first] > self._served.get(process, 0)
        assert is_its_turn, f"process {process} is served twice while {first} waits"
        assert next(iter(self._waiting[process])) is request, f"{request} is served before others of its process"
        self._now += 1
        self._served[process] = self._now
        self.left(request)
        if self._since.pop(process, None) is not None:
            self._since[process] = self._now

    def left(self, request: Request) -> None:
        process = _process(request.client)
        requests = self._waiting.get(process, {})
        requests.pop(request, None)
        if not requests and self._waiting.pop(process, None) is not None:
            del self._since[process]

    def replace(self, flight: Flight, request: Request) -> None:
        """The request stands for the flight, in its place."""
        requests = self._waiting[_process(request.client)]
        before = list(requests)
        requests.clear()
        requests.update((request if each is flight else each, None) for each in before)

    def check_nobody_waits(self, request: Request | Flight) -> None:
        for process, since in self._since.items():
            assert since > self._before, f"{request} is begun before {process}, which waits"
            break


def _process(client: Client) -> Hashable:
    return client.key if client.uid is None else (client.pid, client.uid)
