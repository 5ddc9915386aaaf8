"""The backends that are the lane's, and what they run.

Who is given a backend is decided as in `core.settling.Settling.dispatch` and `core.pools.routing`; what is counted, as
in `core.clients.accounts` and `core.requests.runs`.
"""

from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from poold.lane.answers cimport NOT_WHOLE, StatementAnswer, read_answer
from client.lane.octets cimport HEAD, set32, write_frame_head
from poold.lane.messages cimport MOST_STEPS, Message, read_message
from poold.lane.replies cimport REPLY_HEAD, RESULT_HEAD, write_reply
from poold.lane.lines cimport Line
from poold.lane.records cimport Fleet, Flight, Lent, Way, leave_out
from poold.lane.sockets cimport MSG_DONTWAIT, MSG_NOSIGNAL, is_nothing_yet, recv, send

from client.wire import limits
from poold.core.statements.statement import AHEAD_SECONDS

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES  # the checksum of the sources that this was built of

cdef enum:
    ROOM = 65536  # bytes received at once, and the longest answer

cdef int BATCH = limits.BATCH
cdef double AHEAD = AHEAD_SECONDS
# Behind the values: all results as text; Execute of the unnamed portal without a limit of rows. Then the unit's end.
cdef bytes _END_OF_BIND = b"\0\0E\0\0\0\x09\0\0\0\0\0"
cdef bytes _SYNC = b"S\0\0\0\4"


cdef class Pipelines:
    """The lane's backends."""

    def __cinit__(self):
        self._into = <char *>malloc(2 * ROOM)
        self._reply_room = 4 * ROOM
        self._reply = <char *>malloc(self._reply_room)
        if self._into == NULL or self._reply == NULL:
            raise MemoryError

    def __init__(self, owners):
        """owners is the lane's table of descriptors."""
        self.owners = owners
        self.lent = {}
        self.waiting = deque()
        self._dirty = []

    def __dealloc__(self):
        free(self._into)
        free(self._reply)

    # Who is given a backend.

    cdef Lent backend_for(self, Fleet fleet, Way way):
        """Return the backend for a request that nobody waits before; None if the lane has none that fits.

        If an idle one lacks only what the core has to prepare there, it is in `unprepared`.
        """
        cdef Lent lent, best = None
        cdef list some
        cdef int step, count = len(fleet.pools)
        cdef Py_ssize_t least = fleet.depth
        cdef bint may_join = way.is_short and not fleet.is_poked
        self.unprepared = None
        if may_join:
            lent = fleet.sharing
            if lent is not None and fleet.sharing_turn == self.turn and lent.is_here and len(lent.flights) > 0:
                if len(lent.flights) < fleet.sharing_depth and self._is_company(lent) and self._is_usable(lent, way):
                    return lent
        some = <list>fleet.idle[0] if count == 1 else fleet.idle_by_turn()
        if some:
            lent = some[len(some) - 1]
            if not self._is_usable(lent, way):
                self.unprepared = lent
                return None
            if may_join:
                fleet.sharing = lent
                fleet.sharing_turn = self.turn
            return lent
        if not may_join or (fleet.count < fleet.most and fleet.group.size > fleet.count):
            return None
        for step in range(count):
            some = fleet.active[step]
            for lent in some:
                if len(lent.flights) < least and self._is_company(lent) and self._is_usable(lent, way):
                    best = lent
                    least = len(lent.flights)
        return best

    cdef bint may_wait(self, Fleet fleet, Way way) except -1:
        """Whether a request that got no backend waits for one as the lane's.

        Not if the core may have one for it, open one, or let it join another.
        """
        if fleet.count < fleet.most:
            if fleet.group.size < fleet.most or (way.is_short and not fleet.queue.size):
                return False
            for pool in fleet.pools:
                if pool.idle:
                    return False
        return not 0 < fleet.most_waiting <= fleet.queue.size

    cdef list _heads(self, Lent lent, Way way):
        """Return for each step the head of its Bind and its columns; None if it is not prepared on the backend."""
        cdef list heads = lent.ready.get(way)
        if heads is None:
            held = lent.backend.prepared.held
            heads = []
            for place in range(way.steps):
                name = way.names[place]
                found = lent.wire.prepared(name, way.counts[place]) if name in held else None
                if found is None:
                    return None
                heads.append(found)
            lent.ready[way] = heads
        return heads

    cdef bint _is_usable(self, Lent lent, Way way) except -1:
        """Whether the backend can run the way's names as they are."""
        if self._heads(lent, way) is None:
            return False
        if way.limited:
            held = lent.backend.prepared.held
            for name, count in way.limited:
                if held.get(name, 0) < count:
                    return False
        return True

    cdef bint _is_company(self, Lent lent) except -1:
        """Whether a short statement may run behind those of this backend; as `core.pools.routing.is_company`."""
        cdef Flight head = lent.flights[0]
        cdef Way way = head.way
        if not way.is_short or lent.is_recalled or self.now >= lent.expires:
            return False
        return len(lent.flights) * way.mean < AHEAD and self.now - max(head.began, lent.completed) <= way.patience

    cdef start(self, Lent lent, Flight flight, Message *message):
        """Give the request to the backend, which is idle or runs what it may join. message is the flight's."""
        cdef Way way = flight.way
        cdef Fleet fleet = lent.fleet
        cdef list heads = self._heads(lent, way)
        cdef int place
        cdef unsigned long long number = flight.number
        flight.is_waiting = False
        flight.began = self.now
        if number > flight.line.begun[0]:
            flight.line.begun[0] = number
        if lent.flights:
            lent.joined += 1
        else:
            fleet.waited(self.now - flight.arrived)
            leave_out(fleet.idle[lent.place], lent)
            (<list>fleet.active[lent.place]).append(lent)
        lent.flights.append(flight)
        lent.requests += 1
        if not lent.unflushed:
            self._dirty.append(lent)
        lent.unflushed += 1
        if way.is_transaction:
            self._put(lent, <bytes>heads[0][0], b"", 0)
            for place in range(message.count):
                self._put(lent, <bytes>heads[place + 1][0], message.values[place].at, message.values[place].size)
            self._put(lent, <bytes>heads[way.steps - 1][0], b"", 0)
        else:
            self._put(lent, <bytes>heads[0][0], message.values[0].at, message.values[0].size)
            way.begun = self.now
        memcpy(lent.room(5), PyBytes_AS_STRING(_SYNC), 5)
        lent.out_size += 5
        if way.limited:
            held = lent.backend.prepared.held
            for name, count in way.limited:
                held[name] -= count
        if way.uses_sequences:
            lent.backend.used_sequences = True

    cdef _put(self, Lent lent, bytes head, const char *values, long size):
        """Add Bind and Execute."""
        cdef long head_size = PyBytes_GET_SIZE(head)
        cdef char *at = lent.room(5 + head_size + size + 12)
        at[0] = c"B"
        set32(at + 1, <unsigned>(6 + head_size + size))
        memcpy(at + 5, PyBytes_AS_STRING(head), head_size)
        memcpy(at + 5 + head_size, values, size)
        memcpy(at + 5 + head_size + size, PyBytes_AS_STRING(_END_OF_BIND), 12)
        lent.out_size += 5 + head_size + size + 12

    cdef serve_queue(self, Fleet fleet):
        """Begin requests that wait, as long as those whose turn it is are the lane's and there are backends for them."""
        cdef Flight flight
        cdef Lent lent
        cdef Message message
        cdef int priorities
        while fleet.queue.size:
            # Priority batch may have less than all backends, which only the core can tell.
            priorities = fleet.group.priorities() if fleet.queue.count(BATCH) else BATCH + 1
            first = fleet.queue.first(priorities)
            if type(first) is not Flight:
                if first is not None:
                    self.give_back_idle(fleet)  # it is for the core's request
                return
            flight = first
            if flight.client.is_stalled or not flight.way.holds():
                self.hand_over_waiting([flight])
                continue
            lent = self.backend_for(fleet, flight.way)
            if lent is None:
                if self.unprepared is not None:
                    self.hand_over_waiting([flight])
                    self.give_back(self.unprepared)
                return
            fleet.queue.pop(priorities)
            read_message(PyBytes_AS_STRING(flight.message), PyBytes_GET_SIZE(flight.message), &message)
            self.start(lent, flight, &message)

    cdef rest(self, Lent lent):
        """The backend runs nothing: give it what waits, or give it back if it is wanted."""
        cdef Fleet fleet = lent.fleet
        leave_out(fleet.active[lent.place], lent)
        if lent.is_recalled or fleet.is_poked:
            self.give_back(lent)
            return
        (<list>fleet.idle[lent.place]).append(lent)
        if fleet.queue.size:
            self.serve_queue(fleet)

    # Answers.

    cdef take_answers(self, Lent lent):
        """Receive from the backend, and reply to requests whose answers are whole."""
        cdef StatementAnswer answers[MOST_STEPS + 2]
        cdef Flight flight
        cdef Way way
        cdef long size = 0, at = 0, taken
        cdef ssize_t got
        if lent.partial is not None:
            size = PyBytes_GET_SIZE(lent.partial)
            memcpy(self._into, PyBytes_AS_STRING(lent.partial), size)
        got = recv(lent.descriptor, self._into + size, ROOM, MSG_DONTWAIT)
        if got < 0 and is_nothing_yet():
            return
        lent.partial = None
        if got > 0:
            size += got
        while at < size and lent.flights:
            flight = lent.flights[0]
            way = flight.way
            taken = read_answer(self._into + at, self._into + size, way.steps, way.is_transaction, answers)
            if taken <= 0:
                if taken == NOT_WHOLE and size - at < ROOM and got > 0:
                    lent.partial = PyBytes_FromStringAndSize(self._into + at, size - at)
                    lent.count(self.now)
                    return
                way.surprised(self.now)
                break
            self._end(lent, flight, answers)
            at += taken
        lent.count(self.now)
        if at < size or got <= 0:
            self.hand_over(lent, PyBytes_FromStringAndSize(self._into + at, size - at))
        elif not lent.flights:
            self.rest(lent)
        elif lent.fleet.queue.size:
            self.serve_queue(lent.fleet)

    cdef _end(self, Lent lent, Flight flight, StatementAnswer *answers):
        """The backend's first request has ended well: reply to it. It is to be counted then."""
        cdef Way way = flight.way
        cdef Line line = flight.line
        cdef list heads
        cdef long size, at
        cdef ssize_t sent
        cdef int place
        self.served += 1
        heads = self._heads(lent, way)
        self._make_room(heads, way.is_transaction, way.steps - way.is_transaction, answers)
        size = write_reply(self._reply + HEAD, flight.number, way.is_transaction, heads, way.steps, answers)
        lent.ended(flight)
        flight.size = answers[0].rows_size
        flight.rows = 0
        for place in range(way.is_transaction, way.steps - way.is_transaction):
            if answers[place].told > 0:
                flight.rows += answers[place].told
        way.went_well()
        if way.writes and lent.fleet.group.followed is not None:
            lent.fleet.group.followed.wrote(line.process, False)
        line.heard = self.now
        del line.requests[flight.number]
        if not line.is_hot:
            line.peer.send(PyBytes_FromStringAndSize(self._reply + HEAD, size))
            return
        at = write_frame_head(self._reply, size)
        size += HEAD - at
        sent = send(line.descriptor, self._reply + at, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < size:
            if sent < 0:
                if not is_nothing_yet():
                    return  # the end of the file follows
                sent = 0
            line.is_hot = False
            self.has_called = True
            line.peer.keep(PyBytes_FromStringAndSize(self._reply + at + sent, size - sent))

    cdef _make_room(self, list heads, int first, int last, StatementAnswer *answers):
        """Have room for a reply of these columns and rows, and for a frame's head before it."""
        cdef long needed = REPLY_HEAD
        cdef char *moved
        cdef int place
        for place in range(first, last):
            columns = (<tuple>heads[place])[1]
            needed += RESULT_HEAD + answers[place].rows_size + (0 if columns is None else PyBytes_GET_SIZE(columns))
        if needed > self._reply_room:
            moved = <char *>realloc(self._reply, 2 * needed)
            if moved == NULL:
                raise MemoryError
            self._reply = moved
            self._reply_room = 2 * needed

    cdef flush(self):
        """Send what backends were given."""
        cdef Lent lent
        cdef ssize_t sent
        cdef list dirty = self._dirty
        if not dirty:
            return
        self._dirty = []
        for each in dirty:
            lent = each
            if not lent.unflushed:
                continue
            sent = send(lent.descriptor, lent.out, lent.out_size, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent == lent.out_size:
                lent.out_size = lent.unflushed = 0
            else:
                rest = PyBytes_FromStringAndSize(lent.out + max(sent, 0), lent.out_size - max(sent, 0))
                self._hand_over(lent, b"", rest, lent.unflushed if sent <= 0 else 0)

    # Back to the core.

    cdef give_back(self, Lent lent):
        """Give back a backend that runs nothing."""
        self._remove(lent)
        self.has_called = True
        self.given_back_count += 1
        self.owner.lent_back(lent.number)

    cdef bint give_back_idle(self, Fleet fleet) except -1:
        """Give back a backend that rests; False if there is none."""
        cdef list some
        for some in fleet.idle:
            if some:
                self.give_back(some[len(some) - 1])
                return True
        return False

    cdef hand_over(self, Lent lent, bytes unread):
        """Give back a backend with all that it runs, and what has come and was not read."""
        if not lent.is_here:
            return
        if lent.unflushed:
            self.flush()
            if not lent.is_here:
                return
        self._hand_over(lent, unread, b"", 0)

    cdef _hand_over(self, Lent lent, bytes unread, bytes unsent, int untouched):
        """Give it back with what the socket did not take, in which the last untouched units are wholly."""
        if lent.partial is not None:
            unread = lent.partial + unread
        self._remove(lent)
        self.has_called = True
        self.handed_over_count += 1
        self.owner.handed_over(lent.number, unread, unsent, untouched)

    cdef hand_over_waiting(self, list flights):
        """Give requests that wait to the core."""
        self.has_called = True
        self.owner.queued(flights)

    cdef _remove(self, Lent lent):
        cdef Fleet fleet = lent.fleet
        lent.is_here = False
        lent.backend.completed = lent.completed
        lent.fold()
        fleet.fold(False)
        fleet.is_poked = False
        self.owners[lent.descriptor] = None
        del self.lent[lent.number]
        fleet.count -= 1
        leave_out(fleet.idle[lent.place], lent)
        leave_out(fleet.active[lent.place], lent)
