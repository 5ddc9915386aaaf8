"""The queue of `poold.core.shared.queue`, compiled: the same order, for requests of the core's and of the lane's.

Its docstring tells what the order is. A row is a priority's line, in it processes take turns, and each turn holds the
requests of its process in the order of their arrival; all of these are linked lists.
"""

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES  # the checksum of the sources that this was built of


cdef class Node:
    """What may be in a chain."""


cdef class Chain(Node):
    """A linked list."""

    cdef append(self, Node node):
        """Put the node, which is in no chain, at the end."""
        node.before = self.last
        if self.last is None:
            self.first = node
        else:
            self.last.behind = node
        self.last = node

    cdef remove(self, Node node):
        """Take the node out, which is in this chain."""
        if node.before is None:
            self.first = node.behind
        else:
            node.before.behind = node.behind
        if node.behind is None:
            self.last = node.before
        else:
            node.behind.before = node.before
        node.before = node.behind = None


cdef class Place(Node):
    """Where a request waits."""


cdef class Turn(Chain):
    """The waiting requests of one process in a row: their places."""


cdef class Row(Chain):
    """The waiting requests of one priority: the turns of their processes."""

    def __init__(self, weight):
        self.stride = 1.0 / weight
        self.turns = {}

    cdef push(self, Place place, process):
        cdef Turn turn = self.turns.get(process)
        if turn is None:
            turn = self.turns[process] = Turn()
            turn.process = process
            turn.row = self
            self.append(turn)
        place.turn = turn
        turn.append(place)
        self.size += 1

    cdef leave(self, Place place):
        """Take the request out; its turn goes with the last one."""
        cdef Turn turn = place.turn
        turn.remove(place)
        place.turn = None
        self.size -= 1
        if turn.first is None:
            self.remove(turn)
            del self.turns[turn.process]

    cdef to_end(self, Turn turn):
        """The turn of this process comes again after those of the others."""
        if self.last is not turn:
            self.remove(turn)
            self.append(turn)


cdef class Queue:
    """Waiting requests; see `poold.core.shared.queue.Queue`."""

    def __init__(self, weights):
        self._rows = tuple([Row(weight) for weight in weights])
        self._places = {}
        self._returned = []

    def __len__(self):
        return self.size

    def reweigh(self, weights):
        """Let the priorities have these weights from here on."""
        for row, weight in zip(self._rows, weights):
            (<Row>row).stride = 1.0 / weight

    def __iter__(self):
        """All of them, in no useful order."""
        return iter(list(self._places))

    def push(self, request):
        """Add the request behind the waiting requests of its process and priority."""
        self.add(request, request.client.process, request.priority)

    cdef add(self, request, process, int priority):
        """Add a request of this process and priority, as push does."""
        cdef Row row = self._rows[priority]
        cdef Place place = Place.__new__(Place)
        place.request = request
        if not self.size:
            self._paid = max([(<Row>each).passed for each in self._rows])  # nobody waits: all begin anew
        if row.first is None and row.passed < self._paid:
            row.passed = self._paid  # while it was empty it saved nothing up
        row.push(place, process)
        self._places[request] = place
        self.size += 1

    def push_front(self, request):
        """Add a request that had its turn before."""
        cdef Place place = Place.__new__(Place)
        place.request = request
        self._places[request] = place
        self._returned.append(place)
        self.size += 1

    cpdef first(self, int priorities):
        """The request whose turn it is among the first so many priorities, and those to run again; None without any."""
        cdef Row row
        if self._returned:
            return (<Place>self._returned[len(self._returned) - 1]).request
        row = self._next_row(priorities)
        return None if row is None else (<Place>(<Turn>row.first).first).request

    cpdef pop(self, int priorities):
        """Take out the request that `first` returns. There must be one."""
        cdef Row row, held
        cdef Turn turn
        cdef Place place
        cdef int number
        self.size -= 1
        if self._returned:
            place = self._returned.pop()
            del self._places[place.request]
            return place.request
        row = self._next_row(priorities)
        self._paid = max(self._paid, row.passed)
        for number in range(priorities, len(self._rows)):
            held = self._rows[number]
            held.passed = max(held.passed, row.passed)  # nor does a row that may not be served save up
        turn = <Turn>row.first
        place = <Place>turn.first
        row.leave(place)
        if turn.first is not None:
            row.to_end(turn)
        row.passed += row.stride
        del self._places[place.request]
        return place.request

    def replace(self, flight, request):
        """Put the request in the place of a flight, which waits here."""
        cdef Place place = self._places.pop(flight)
        place.request = request
        self._places[request] = place

    def discard(self, request):
        """Take this request out, if it is here."""
        cdef Place place = self._places.pop(request, None)
        if place is None:
            return
        self.size -= 1
        if place.turn is None:
            self._returned.remove(place)
        else:
            place.turn.row.leave(place)

    def oldest(self):
        """The request that has waited longest, None if nobody waits. O(processes that wait)."""
        cdef Row row
        cdef Turn turn
        oldest = min([(<Place>place).request for place in reversed(self._returned)], key=_arrived, default=None)
        cdef double arrived, since = float("inf") if oldest is None else oldest.arrived
        for row in self._rows:
            turn = <Turn>row.first
            while turn is not None:
                arrived = (<Place>turn.first).request.arrived
                if arrived < since:
                    since = arrived
                    oldest = (<Place>turn.first).request
                turn = <Turn>turn.behind
        return oldest

    cpdef long count(self, int priority):
        """How many requests of this priority wait, not counting those that had their turn before."""
        return (<Row>self._rows[priority]).size

    cdef Row _next_row(self, int priorities):
        cdef Row row, chosen = None
        cdef int number
        for number in range(min(priorities, <int>len(self._rows))):
            row = self._rows[number]
            if row.first is not None and (chosen is None or row.passed < chosen.passed):
                chosen = row
        return chosen


def _arrived(request):
    return request.arrived
