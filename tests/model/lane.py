"""The lane in plain Python: what the compiled one decides, between requests and lines instead of bytes and sockets.

Its decisions are written down once more, by ARCHITECTURE.md ("The lane") and by the core's rules; nothing of
`poold.lane` is used. It knows what it was lent, works on the core's records, and gives back at the first surprise.
What it does is carried out, and looked at, by the shell it belongs to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from client.wire.codec import encode, packed
from client.wire.limits import BATCH
from client.wire.messages import TX_NONE, Query, ResultMessage, TransactionMessage, TransactionResult
from model.lent import Fleet, Flight, Half, Lent, Message, Way
from poold.core.broker import Broker
from poold.core.facts import Completion
from poold.core.pools.group import SHARING, Group
from poold.core.records.backend import Backend
from poold.core.records.client import Client
from poold.core.records.flow import MAX_MESSAGE_BYTES, Flow
from poold.core.records.request import Request
from poold.core.statements.statement import AHEAD_SECONDS

# What is older than PATIENCE is the core's. That is looked for every TICK, and begins a tick ahead.
PATIENCE, TICK = 0.020, 0.005
LONGEST_WAIT = 0.5
# How long backends are kept that nobody uses: as short, against the compiled lane's, as all durations in a world are.
KEPT = 0.2
MOST_WAYS = 6  # as few, too
# A shorter timeout wants a closer look.
LEAST_TIMEOUT = 1.0
MAX_ANSWER_BYTES = 64 * 1024


def longest_wait(flight: Any) -> float:
    """How long the request may wait in the lane, in seconds."""
    return min(LONGEST_WAIT, float(flight.flow.group.config.queue_timeout) / 2)


class LaneShell(Protocol):
    """What the lane needs of its shell."""

    broker: Broker

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call then."""

    def starts(self, lent: Lent, flight: Flight) -> bool:
        """Send the flight's unit to its backend; False if the connection does not take it now."""

    def answers(self, flight: Flight, body: ResultMessage | TransactionResult) -> None:
        """Reply to the flight's client."""

    def tells(self, text: str, call: Callable[..., Any], *args: Any) -> None:
        """Tell the core of this."""


class Lane:
    """Serves clients on the backends that it was lent, until there is a surprise."""

    def __init__(self, shell: LaneShell, now: Callable[[], float]) -> None:
        self._shell = shell
        self._broker = shell.broker
        self._now = now
        self.ways: dict[bytes, Way] = {}
        self.fleets: dict[Group, Fleet] = {}
        self.lent: dict[int, Lent] = {}
        self.waiting: deque[Flight] = deque()  # in the order of their arrival; some of them wait no more
        self.due: float | None = None  # when it looks at what takes too long
        self._used = 0.0  # when a request came last

    # What the core has decided.

    def teach(self, flow: Flow) -> None:
        """Run messages of this flow from here on."""
        fleet = self.fleets.setdefault(flow.group, Fleet(flow.group))
        if flow.key in self.ways:
            self._forget(self.ways[flow.key].flow)
        elif len(self.ways) == MOST_WAYS:
            self._forget(next(iter(self.ways.values())).flow)
        self.ways[flow.key] = Way(flow, fleet)

    def lend(self, backend: Backend) -> None:
        """Take a backend that rests."""
        fleet = self.fleets.setdefault(backend.group, Fleet(backend.group))
        lent = self.lent[backend.number] = Lent(backend, fleet, completed=backend.completed)
        backend.flights = lent.flights
        self._work()
        self._rests(lent)

    def recall(self, number: int, at_once: bool) -> None:
        """Give the backend back: at once with all that it runs, or when it rests."""
        lent = self.lent.get(number)
        if lent is None:
            return
        lent.is_recalled = True
        if not lent.flights:
            self._give_back(lent)
        elif at_once:
            self.hand_over(number)

    def poke(self, group: Group) -> None:
        """Give back a backend of the group that rests, or the next one that does."""
        fleet = self.fleets.get(group)
        if fleet is None:
            return
        idle = next((each for each in reversed(fleet.lents) if not each.flights), None)
        if idle is not None:
            self._give_back(idle)
        else:
            fleet.is_poked = bool(fleet.lents)

    # Clients.

    def takes(self, client: Client, message: object) -> bool:
        """Whether the message is the lane's; then its request runs, or waits for a backend of the lane's."""
        if client.is_stalled or not isinstance(message, (Query, TransactionMessage)) or not _is_plain(message):
            return False
        encoded = encode(message)
        way = self.ways.get(_key_of(message))
        if way is None or len(encoded) > MAX_MESSAGE_BYTES or not self._may_run(way):
            return False
        fleet, requests = way.fleet, client.requests
        is_for_replicas = fleet.group.main is not None
        if is_for_replicas and not fleet.group.is_current(client):
            return False
        if fleet.group not in client.groups or message.request in requests or not self._has_room(client, len(encoded)):
            return False
        lent = None
        if _nobody_waits(fleet.group):
            lent, unprepared = self._backend_for(way)
            if unprepared is not None:
                self._give_back(unprepared)
                return False
        if lent is None and (is_for_replicas or not self._may_wait(way)):
            return False
        flight = Flight(client, message, encoded, way, self._now())
        self._open(flight, requests)
        if lent is not None:
            self._start(lent, flight)
        else:
            flight.is_waiting = True
            fleet.group.queue.push(flight)  # type: ignore[arg-type]  # stands where the core's requests do
            self.waiting.append(flight)
            self._broker.waits(fleet.group, self._now())
            self._serve_queue(fleet)
        return True

    def _open(self, flight: Flight, requests: dict[int, Any]) -> None:
        """A reply is owed to it from here on."""
        requests[flight.number] = flight
        self._hears(flight.client)
        flight.way.fleet.requests += 1
        flight.way.fleet.transactions += flight.flow.plan is not None
        self._used = self._now()
        self._work()

    def _hears(self, client: Client) -> None:
        if client.line is None:
            client.line = Half(0.0)
        client.line.heard = self._now()

    def _forget(self, flow: Flow) -> None:
        del self.ways[flow.key]
        flow.is_taught = False

    def _may_run(self, way: Way) -> bool:
        """Whether a message of the flow is the lane's at the moment."""
        flow = way.flow
        if not way.holds():
            self._forget(flow)
            return False
        return flow.rests_until <= self._now()

    def _has_room(self, client: Client, size: int) -> bool:
        """Whether the client may have one request more."""
        admission, config, count = self._broker.admission, self._broker.config.broker, len(client.requests)
        if self._broker.accounts.bytes + size > admission.most_bytes:
            return False
        if count and 0 < config.max_client_requests <= count:
            return False
        return not (count and 0 < config.max_client_bytes < client.bytes + MAX_MESSAGE_BYTES * (count + 1))

    def _may_wait(self, way: Way) -> bool:
        """Whether a request that got no backend waits as the lane's: the core has none for it, nor may it open one."""
        group = way.fleet.group
        config = group.config
        if len(way.fleet.lents) < config.max_size:
            is_short = way.flow.plan is None and way.flow.statements[0].is_short
            if group.size < config.max_size or (is_short and not group.queue.size):
                return False
            if any(pool.idle for pool in group.pools):
                return False
        return not 0 < config.max_waiting <= group.queue.size

    # Who is given a backend.

    def _backend_for(self, way: Way) -> tuple[Lent | None, Lent | None]:
        """The backend for a request that nobody waits before; or an idle one that has not prepared its statements."""
        fleet, config, now = way.fleet, way.fleet.group.config, self._now()
        may_join = way.flow.plan is None and way.flow.statements[0].is_short and not fleet.is_poked
        lent = fleet.sharing
        if may_join and lent is not None and fleet.sharing_at == now and lent in fleet.lents and lent.flights:
            is_room = len(lent.flights) < min(SHARING, config.pipeline_depth)
            if is_room and self._is_company(lent) and lent.has_prepared(way.flow):
                return lent, None
        lent = fleet.idle()
        if lent is not None:
            if not lent.has_prepared(way.flow):
                return None, lent
            if may_join:
                fleet.sharing, fleet.sharing_at = lent, now
            return lent, None
        if not may_join or fleet.group.size > len(fleet.lents) < config.max_size:
            return None, None  # the core may have one, or open one
        found = [each for each in fleet.lents if self._is_company(each) and each.has_prepared(way.flow)]
        found = [each for each in found if len(each.flights) < config.pipeline_depth]
        return min(found, key=lambda each: len(each.flights), default=None), None

    def _is_company(self, lent: Lent) -> bool:
        """Whether a short statement may run behind those of this backend."""
        head, expires, now = lent.flights[0], lent.backend.expires, self._now()
        statement = head.flow.statements[0]
        if not head.is_short or lent.is_recalled or (expires is not None and now >= expires):
            return False
        is_near = len(lent.flights) * statement.mean < AHEAD_SECONDS
        return is_near and now - lent.age_from <= statement.patience

    def _start(self, lent: Lent, flight: Flight) -> None:
        """Give the request to the backend, which is idle or runs what it may join."""
        flow = flight.flow
        flight.is_waiting = False
        flight.client.has_begun(flight.number)
        flight.began = self._now()
        lent.joined += bool(lent.flights)
        lent.requests += 1
        lent.flights.append(flight)
        if len(lent.flights) == 1:
            lent.fleet.wait_times.record(flight.began - flight.arrived)
        lent.note_runs(flow)
        if flow.plan is None:
            flow.statements[0].begun = flight.began
        if not self._shell.starts(lent, flight):
            self.hand_over(lent.backend.number)

    def _serve_queue(self, fleet: Fleet) -> None:
        """Begin requests that wait, as long as the first is the lane's and there is a backend for it."""
        queue = fleet.group.queue
        while queue.size:
            priorities = fleet.group.priorities()
            first: Request | Flight | None = queue.first(priorities)
            if not isinstance(first, Flight):
                idle = fleet.idle()
                if first is not None and idle is not None:
                    self._give_back(idle)  # it is for the core's request
                return
            if not _may_begin(first):
                self._gives_up([first])
                continue
            lent, unprepared = self._backend_for(first.way)
            if unprepared is not None:
                self._gives_up([first])
                self._give_back(unprepared)
            if lent is None:
                return
            queue.pop(priorities)
            self._start(lent, first)

    def _rests(self, lent: Lent) -> None:
        """The backend runs nothing: give it what waits, or give it back if it is wanted."""
        fleet = lent.fleet
        if lent in fleet.lents:
            fleet.lents.remove(lent)
        fleet.lents.append(lent)
        if lent.is_recalled or fleet.is_poked:
            self._give_back(lent)
        else:
            self._serve_queue(fleet)

    # Answers.

    def is_surprised(self, number: int, done: Completion) -> bool:
        """Whether the answer to the backend's first request is another than expected, and so the core's to take."""
        lent = self.lent[number]
        way = lent.flights[0].way
        results = done.results
        is_plain = done.failure is None and not done.is_changed and done.transaction == TX_NONE
        is_plain = is_plain and len(results) == len(way.flow.statements) and results[-1].rows is not None
        is_plain = is_plain and all(each.rows is not None and not each.notices for each in results)
        is_plain = is_plain and sum(len(each.rows or b"") for each in results) < MAX_ANSWER_BYTES
        if not is_plain or (way.flow.plan is not None and results[-1].command != "COMMIT"):
            way.surprised(self._now())
            return True
        return False

    def ended(self, number: int, done: Completion) -> None:
        """The backend's first request has ended well: reply to it."""
        lent, now = self.lent[number], self._now()
        flight = lent.flights[0]
        seconds = now - flight.began
        body: ResultMessage | TransactionResult
        if flight.flow.plan is None:
            seconds = now - lent.age_from
            flight.flow.statements[0].record(seconds, len(done.results[0].rows or b""))
            body = ResultMessage(flight.number, TX_NONE, *done.results[0])
        else:
            entries = tuple((0, TX_NONE, *each) for each in done.results[1:-1])
            body = TransactionResult(flight.number, 1, entries, None, -1)
        del lent.flights[0]
        lent.completed = now
        if lent.flights:
            lent.fleet.wait_times.record(now - lent.flights[0].arrived)
        lent.fleet.run_times.record(seconds)
        own = done.results if flight.flow.plan is None else done.results[1:-1]
        lent.fleet.calls.append((flight.flow, seconds, sum(max(0, each.rowcount) for each in own)))
        flight.way.went_well()
        self._hears(flight.client)
        del flight.client.requests[flight.number]
        self._shell.answers(flight, body)
        if not lent.flights:
            self._rests(lent)
        else:
            self._serve_queue(lent.fleet)

    # Time.

    def _work(self) -> None:
        """There is work: look soon for what takes too long."""
        if self.due is None:
            self.due = self._now() + TICK
            self._shell.later(TICK, self.tick)

    def tick(self) -> None:
        """Hand over what will be too old at the next tick, and give back what nobody uses."""
        self.due, now = None, self._now()
        for lent in list(self.lent.values()):
            if lent.flights and now - lent.age_from > PATIENCE - TICK:
                lent.flights[0].way.surprised(now)
                self.hand_over(lent.backend.number)
            elif not lent.flights and now - self._used > KEPT:
                self._give_back(lent)
        self.fold()
        self.waiting = deque(each for each in self.waiting if each.is_waiting)
        self._gives_up([each for each in self.waiting if now - each.arrived > longest_wait(each) - TICK])
        if self.lent or any(each.is_waiting for each in self.waiting):
            self._work()

    def fold(self) -> None:
        """Tell the core's records what was counted since the last time."""
        for each in (*self.lent.values(), *self.fleets.values()):
            each.fold()

    # Back to the core.

    def release(self, client: Client) -> None:
        """Hand over all that is the client's, as it wants no more of it or is gone."""
        mine = [each for each in client.requests.values() if isinstance(each, Flight)]
        self._gives_up([each for each in mine if each.is_waiting])
        for number, lent in list(self.lent.items()):
            if any(each in lent.flights for each in mine):
                self.hand_over(number)

    def release_all(self) -> None:
        """Hand over everything."""
        for number in list(self.lent):
            self.hand_over(number)
        self._gives_up([each for each in self.waiting if each.is_waiting])

    def hand_over(self, number: int) -> None:
        """Give back a backend with all that it runs."""
        lent = self._remove(self.lent[number])
        self._shell.tells("hands over", self._broker.handed_over, lent.backend.number, self._now())

    def _give_back(self, lent: Lent) -> None:
        """Give back a backend that runs nothing."""
        self._remove(lent)
        self._shell.tells("gives back", self._broker.lent_back, lent.backend.number, self._now())

    def _gives_up(self, flights: Iterable[Flight]) -> None:
        """Give requests that wait to the core."""
        if found := list(flights):
            self._shell.tells("gives up", self._broker.queued, found, self._now())

    def _remove(self, lent: Lent) -> Lent:
        lent.backend.completed = lent.completed
        self.fold()
        lent.fleet.is_poked = False
        lent.fleet.lents.remove(lent)
        del self.lent[lent.backend.number]
        return lent


def _may_begin(flight: Flight) -> bool:
    """Whether what has waited in the queue is the lane's still."""
    return not flight.client.is_stalled and flight.way.holds()


def _nobody_waits(group: Group) -> bool:
    """Whether whoever comes now overtakes nobody."""
    return not group.queue.size


def _is_plain(message: Message) -> bool:
    """Whether nothing about the message wants a closer look."""
    if message.priority == BATCH or message.settings:
        return False
    if isinstance(message, Query) and (message.lease or message.session or not message.prepare):
        return False
    return message.timeout is None or message.timeout >= LEAST_TIMEOUT


def _key_of(message: Message) -> bytes:
    """Its fields from group to types, or to steps."""
    return packed(*message[1:6] if isinstance(message, Query) else message[1:7])
