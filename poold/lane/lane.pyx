"""The lane: what most requests need and no more, from a client's bytes to a backend's and back.

A request is the lane's if it is like others that went well (a flow), its client's connection holds nothing else, and a
backend is lent to the lane or all are busy. Whatever else happens is a surprise and is handed over: a message to the
client's peer, a backend to its owner with all that it runs and what it has said, a request that waits for too long to
the core. So nothing here fails, repeats, cancels or times out.

The decisions are the core's, made again for the plain case: `core.settling` for who is given a backend,
`core.pools.routing` for who may share one, `core.clients.accounts` and `core.requests.runs` for what is counted. The
records are the core's own (`core.records.flow`). No descriptor is watched here: the poller asks `wait` what is ready.
"""

from time import monotonic

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc

from client.lane.octets cimport HEAD, LONG, SHORT_HEAD, get64
from poold.lane.messages cimport MOST_STEPS, Message, are_values, read_message
from poold.lane.pipelines cimport Pipelines
from poold.lane.lines cimport Limits, Line
from poold.lane.records cimport Fleet, Flight, Lent, Way
from poold.lane.sockets cimport MSG_DONTWAIT, epoll_event, epoll_wait, is_nothing_yet, lane_clock, recv

from poold.core.records.flow import MAX_MESSAGE_BYTES, TICK_SECONDS
from poold.lane import queue

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES  # the checksum of the sources that this was built of
Queue = queue.Queue

cdef enum:
    AT_ONCE = 256  # events taken in one go
    ROOM = 16384  # bytes received at once from a client, so that the others have their turn

cdef double TICK = TICK_SECONDS  # so often what runs or waits for too long is looked for, and a tick ahead
cdef double KEPT = 1.0  # how long backends are kept that nobody uses
cdef double STAY = 0.003  # how long events are waited for in a row, while there is nothing else to do
cdef long LONGEST_MESSAGE = MAX_MESSAGE_BYTES
cdef int MOST_WAYS = 1000  # of programs that make ever new transactions the core teaches the used ones again


cdef class Lane:
    """Serves clients and backends that it was given, until there is a surprise."""

    cdef object accounts, later
    cdef Limits limits
    cdef Pipelines pipelines
    cdef list owners  # by descriptor: Line or Lent
    cdef dict ways, fleets  # by key; by group
    cdef char *into
    cdef double used  # when a request came last, about
    cdef bint is_ticking

    def __cinit__(self):
        self.into = <char *>malloc(ROOM)
        if self.into == NULL:
            raise MemoryError

    def __init__(self, broker, later):
        """later is the loop's call_later."""
        self.accounts = broker.accounts
        self.limits = Limits(broker)
        self.later = later
        self.owners = []
        self.ways = {}
        self.fleets = {}
        self.pipelines = Pipelines(self.owners)

    def __dealloc__(self):
        free(self.into)

    # What the shell gives and takes.

    def attach(self, owner):
        """Tell owner what is given back, by lent_back, handed_over and queued, and who waits. To be called first."""
        self.pipelines.owner = owner

    def teach(self, flow):
        """Run messages of this flow from here on."""
        fleet = self._fleet(flow.group)
        if flow.key in self.ways:
            self._forget(self.ways[flow.key])
        elif len(self.ways) == MOST_WAYS:
            self._forget(next(iter(self.ways.values())))
        if len(flow.statements) <= MOST_STEPS + 2:
            self.ways[flow.key] = Way(flow, fleet)

    def lend(self, int descriptor, backend, wire, double now):
        """Take a backend that rests; wire knows what is prepared there."""
        cdef Lent lent = Lent(descriptor, backend, wire, self._fleet(backend.group))
        self.pipelines.lent[lent.number] = lent
        self._own(descriptor, lent)
        lent.fleet.count += 1
        for way in lent.fleet.queries:
            (<Way>way).load()  # the core has run one of them
        self._begin_turn(now)
        self._work()
        self.pipelines.rest(lent)
        self.pipelines.flush()

    def recall(self, int number, bint at_once):
        """Give the backend back: at once with all that it runs, or when it rests."""
        cdef Lent lent = self.pipelines.lent.get(number)
        if lent is None:
            return
        lent.is_recalled = True
        if not lent.flights:
            self.pipelines.give_back(lent)
        elif at_once:
            self.pipelines.hand_over(lent, b"")

    def poke(self, group):
        """Give back a backend of the group that rests, if there is one; else the next one that does is given back."""
        cdef Fleet fleet = self.fleets.get(group)
        if fleet is not None and not self.pipelines.give_back_idle(fleet):
            fleet.is_poked = fleet.count > 0

    def enter(self, int descriptor, peer, client):
        """Serve a client from here on."""
        self._own(descriptor, Line(descriptor, peer, client))

    def cool(self, int descriptor):
        """Something about the client's connection is not plain: leave it alone until its peer says otherwise."""
        owner = self._owner(descriptor)
        if type(owner) is Line:
            (<Line>owner).is_hot = False

    def leave(self, int descriptor):
        """The connection is being closed."""
        owner = self._owner(descriptor)
        if type(owner) is Line:
            (<Line>owner).is_hot = False
            (<Line>owner).client.line = None  # each would keep the other, and what the peer holds
            self.owners[descriptor] = None

    def release(self, client):
        """Hand over all that is the client's."""
        mine = [each for each in client.requests.values() if type(each) is Flight]
        waiting = [each for each in mine if (<Flight>each).is_waiting]
        if waiting:
            self.pipelines.hand_over_waiting(waiting)
        for lent in list(self.pipelines.lent.values()):
            if any([each in (<Lent>lent).flights for each in mine]):
                self.pipelines.hand_over(lent, b"")

    def release_all(self):
        """Hand over everything."""
        for lent in list(self.pipelines.lent.values()):
            self.pipelines.hand_over(lent, b"")
        self.pipelines.hand_over_waiting([each for each in self.pipelines.waiting if (<Flight>each).is_waiting])

    def reconfigured(self):
        """Go by the configuration as it is from here on, and forget what is of removed groups."""
        self.limits.load()
        self.fleets = {group: each for group, each in self.fleets.items() if (<Fleet>each).count or not group.is_removed}
        for fleet in self.fleets.values():
            (<Fleet>fleet).load(self.pipelines.lent.values())
        for way in [each for each in self.ways.values() if not (<Way>each).holds()]:
            self._forget(way)
        for line in [each for each in self.owners if type(each) is Line]:
            (<Line>line).fleet = None  # perhaps it may not use that group any more

    cdef Fleet _fleet(self, group):
        if group not in self.fleets:
            self.fleets[group] = Fleet(group)
        return self.fleets[group]

    cdef _own(self, int descriptor, owner):
        self.owners += [None] * (descriptor + 1 - len(self.owners))
        self.owners[descriptor] = owner

    cdef _owner(self, int descriptor):
        """Whose the descriptor is, None if it is not the lane's."""
        return self.owners[descriptor] if descriptor < len(self.owners) else None

    cdef _begin_turn(self, double now):
        self.pipelines.now = now
        self.pipelines.turn += 1

    @property
    def counts(self):
        """What it has done so far."""
        return {
            "requests": self.pipelines.served,
            "handed_over": self.pipelines.handed_over_count,
            "given_back": self.pipelines.given_back_count,
        }

    # Time.

    cdef _work(self):
        """There is work: look from time to time for what takes too long."""
        self.used = self.pipelines.now
        if not self.is_ticking:
            self.is_ticking = True
            self.later(TICK, self.tick)

    def tick(self):
        """Hand over what has become too old, and give back what nobody uses."""
        self.is_ticking = False
        self.check(monotonic())
        if self.pipelines.lent or self.pipelines.waiting:
            self.is_ticking = True
            self.later(TICK, self.tick)

    def check(self, double now):
        """Hand over what will run or wait for too long at the next tick; give back backends that nobody uses."""
        cdef Lent lent
        cdef Flight flight
        self.pipelines.now = now
        for lent in list(self.pipelines.lent.values()):
            if lent.flights:
                flight = lent.flights[0]
                if now - max(flight.began, lent.completed) > lent.fleet.patience - TICK:
                    self.pipelines.hand_over(lent, b"")
            elif now - self.used > KEPT:
                self.pipelines.give_back(lent)
        self.fold(False)
        old = []
        are_even = len({(<Fleet>each).longest_wait for each in self.fleets.values()}) < 2
        for flight in self.pipelines.waiting:
            if flight.is_waiting and now - flight.arrived > flight.way.fleet.longest_wait - TICK:
                old.append(flight)
            elif flight.is_waiting and are_even:
                break
        if old:
            self.pipelines.hand_over_waiting(old)
        while self.pipelines.waiting and not (<Flight>self.pipelines.waiting[0]).is_waiting:
            self.pipelines.waiting.popleft()

    def fold(self, bint is_all=True):
        """Tell the core's records what was counted since the last time; not is_all: what costs little."""
        for lent in self.pipelines.lent.values():
            (<Lent>lent).fold()
        for fleet in self.fleets.values():
            (<Fleet>fleet).fold(is_all)

    # Events.

    def wait(self, int epoll):
        """Serve what is ready, and what becomes ready in the next moment if all of that is the lane's.

        Returns others' descriptors, each with its events.
        """
        cdef epoll_event events[AT_ONCE]
        cdef int ready, place, descriptor, wait_ms = 0
        cdef double until = 0.0
        cdef list others = []
        self.pipelines.has_called = False
        while True:
            if wait_ms:
                with nogil:
                    ready = epoll_wait(epoll, events, AT_ONCE, wait_ms)
            else:
                ready = epoll_wait(epoll, events, AT_ONCE, 0)
            if ready <= 0:
                return others
            self._begin_turn(lane_clock())
            for place in range(ready):
                descriptor = events[place].data.fd
                if not self._serve(self._owner(descriptor)):
                    others.append((descriptor, events[place].events))
            self.pipelines.flush()
            if others or self.pipelines.has_called or not self.pipelines.lent:
                return others
            if not until:
                until = self.pipelines.now + STAY
            elif self.pipelines.now > until:
                return others
            wait_ms = 1

    def readable(self, int descriptor, double now):
        """Serve one descriptor as `wait` does. Returns whether it is the lane's."""
        self._begin_turn(now)
        is_own = self._serve(self._owner(descriptor))
        self.pipelines.flush()
        return is_own

    cdef bint _serve(self, owner) except -1:
        """Serve who is readable; False if that is nobody, or not the lane's at the moment."""
        cdef Line line
        if owner is None:
            return False
        if type(owner) is Lent:
            self.pipelines.take_answers(owner)
            return True
        line = owner
        if not line.is_hot:
            if not line.peer.is_quiet:
                return False
            line.is_hot = True
        self._take_messages(line)
        return True

    # Clients.

    cdef _take_messages(self, Line line):
        """Receive messages and begin them; hand over what is none, from there on all that came."""
        cdef ssize_t got = recv(line.descriptor, self.into, ROOM, MSG_DONTWAIT)
        cdef long at = 0, begin, size
        if got < 0 and is_nothing_yet():
            return
        got = max(got, 0)
        while at < got:
            if got - at < 2:
                break
            if self.into[at] == 0:
                begin = at + SHORT_HEAD
                size = <unsigned char>self.into[at + 1]
            elif self.into[at] == LONG and got - at > HEAD:
                begin = at + HEAD
                if get64(self.into + at + 1) > <uint64_t>LONGEST_MESSAGE:
                    break
                size = <long>get64(self.into + at + 1)
            else:
                break
            if size > got - begin or not self._begin(line, self.into + begin, size):
                break
            at = begin + size
        if at < got or got == 0:
            line.is_hot = False
            self.pipelines.has_called = True
            line.peer.received(PyBytes_FromStringAndSize(self.into + at, got - at))

    cdef bint _begin(self, Line line, const char *data, long size) except -1:
        """Begin the request of this message, or let it wait; False if it is not the lane's."""
        cdef Message found
        cdef Way way
        cdef Fleet fleet
        cdef Lent lent
        cdef Flight flight
        cdef dict requests
        cdef int place
        cdef bint is_queue
        if size > LONGEST_MESSAGE or not read_message(data, size, &found):
            return False
        way = self.ways.get(PyBytes_FromStringAndSize(found.key, found.key_size))
        if way is None or way.is_transaction != found.is_transaction:
            return False
        fleet = way.fleet
        if found.count != way.steps - 2 * way.is_transaction:
            return False
        for place in range(found.count):
            if not are_values(found.values[place].at, found.values[place].size, way.counts[place + way.is_transaction]):
                return False
        if not way.holds():
            self._forget(way)
            return False
        if way.rests_until > self.pipelines.now or not way.suits(line.client) or (found.has_tag and fleet.shows_tags):
            return False
        if line.fleet is not fleet:
            if fleet.group not in line.client.groups:
                return False
            line.fleet = fleet
        requests = line.requests
        number = found.number
        if requests and (number in requests or not self.limits.has_room(line.client)):
            return False
        if self.accounts.bytes + size > self.limits.most_of_all:
            return False
        is_queue = fleet.queue.size > 0
        lent = None if is_queue else self.pipelines.backend_for(fleet, way)
        if lent is None and not is_queue and self.pipelines.unprepared is not None:
            self.pipelines.give_back(self.pipelines.unprepared)
            return False
        if lent is None and (way.is_for_replicas or not self.pipelines.may_wait(fleet, way)):
            return False
        flight = Flight.__new__(Flight)
        flight.client = line.client
        flight.number = number
        flight.message = PyBytes_FromStringAndSize(data, size)
        flight.priority = found.priority
        flight.arrived = self.pipelines.now
        flight.way = way
        flight.line = line
        requests[number] = flight
        line.heard = self.pipelines.now
        fleet.requests += 1
        fleet.transactions += way.is_transaction
        if not self.is_ticking or self.pipelines.now - self.used > TICK:
            self._work()
        if lent is not None:
            self.pipelines.start(lent, flight, &found)
        else:
            flight.is_waiting = True
            fleet.queue.add(flight, line.process, flight.priority)
            self.pipelines.waiting.append(flight)
            if fleet.count < fleet.most:
                self.pipelines.owner.waits(fleet.group)
            if is_queue:
                self.pipelines.serve_queue(fleet)
        return True

    cdef _forget(self, Way way):
        del self.ways[way.flow.key]
        way.end()
