"""What the lane keeps of flows, requests, clients and backends, beside the core's own records."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc, realloc

from collections import Counter

from poold.lane.messages cimport Message, read_message

from client.wire.codec import decode_request
from poold.core.effects import Bind
from poold.core.pools.group import SHARING
from poold.core.pools.routing import whose_turn
from poold.core.requests.flows import is_watched_closely
from poold.core.statements import statement as statements
from poold.core import tallies
from poold.core.stats import BOUNDS, Use

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES  # the checksum of the sources that this was built of

# A flow that surprises so often in so many runs is left to the core for REST seconds.
cdef int MOST_SURPRISES = 3
cdef int RUNS_COUNTED = 100
cdef double REST = 10.0
# How long a request waits here at most. It has to be less than any timeout that a message of the lane's may have; but
# long enough that the lane goes on where the group has more to do than it can: the core would be slower.
cdef double LONGEST_WAIT = 0.5
cdef int FOLDS_PER_TALLY = 1000  # each tick of the lane's is one, so tallies are told every few seconds
# What runs for longer is the core's.
cdef double PATIENCE = 0.020
# More runs than a name ever has: such names are not parsed anew.
_UNLIMITED = 1 << 32

# As in `poold.core.statements.statement`.
cdef object PREPARED = statements.PREPARED
cdef double ALPHA = statements.ALPHA
cdef double BETA = statements.BETA
cdef double SHORT_SECONDS = statements.SHORT_SECONDS
cdef double SHORT_BYTES = statements.SHORT_BYTES
cdef long TRUSTED_AFTER = statements.TRUSTED_AFTER
cdef double PATIENCE_SECONDS = statements.PATIENCE_SECONDS

cdef double bounds[BUCKETS - 1]
assert len(BOUNDS) == BUCKETS - 1
for _place, _bound in enumerate(BOUNDS):
    bounds[_place] = _bound
assert tallies.BUCKETS == PAIRS


cdef int bucket_of(double seconds) noexcept:
    """The bucket of `poold.core.stats.Times` that counts this time."""
    cdef int low = 0, high = BUCKETS - 1, middle
    while low < high:
        middle = (low + high) // 2
        if bounds[middle] < seconds:
            low = middle + 1
        else:
            high = middle
    return low


cdef class Way:
    """How messages of a flow are run."""

    def __init__(self, flow, Fleet fleet):
        self.flow = flow
        self.fleet = fleet
        self.generation = flow.generation
        self.rests_until = flow.rests_until
        self.names = tuple([each.name for each in flow.statements])
        self.steps = len(self.names)
        self.is_transaction = flow.plan is not None
        for place, each in enumerate(flow.statements):
            self.counts[place] = each.count
        self.limited = list(Counter([each.name for each in flow.statements if each.runs_per_parse < _UNLIMITED]).items())
        self.uses_sequences = any([each.proof.uses_sequences for each in flow.statements])
        # Those of a transaction are between BEGIN and COMMIT.
        self.clients = flow.statements[1 : self.steps - 1] if self.is_transaction else flow.statements
        self.writes = not all([each.proof.is_plain_read for each in self.clients])
        self.is_for_replicas = flow.group.main is not None
        fleet.ways.append(self)
        if not self.is_transaction:
            self.statement = flow.statements[0]
            self.may_be_short = self.statement.proof.is_plain_read
            self.load()
            fleet.queries.append(self)

    cdef end(self):
        """No more messages are run by it."""
        self.flow.is_taught = False
        self.tally()
        self.fleet.ways.remove(self)
        if self.statement is not None:
            self.fold()
            self.fleet.queries.remove(self)

    cdef bint holds(self) except -1:
        """Whether it is as it was taught: names mean what they did, and its statements are to be prepared."""
        if self.generation != self.fleet.statements.generation or self.fleet.is_watched_closely:
            return False
        for statement in self.clients:
            if statement.state is not PREPARED:  # nor is one that was forgotten
                return False
        return True

    cdef bint suits(self, client) except -1:
        """Whether the client may run it now: on replicas only if they have what its process has written."""
        return not self.is_for_replicas or self.fleet.group.is_current(client)

    cdef went_well(self):
        """One more run has ended well."""
        self.counted += 1
        if self.counted == RUNS_COUNTED:
            self.counted = self.surprises = 0

    cdef surprised(self, double now):
        """A run did not go as usual: if that happens too often the flow is left to the core for a while."""
        self.surprises += 1
        if self.surprises == MOST_SURPRISES:
            self.counted = self.surprises = 0
            self.flow.rests_until = self.rests_until = now + REST

    cdef load(self):
        """Take the profile of a query's statement, if somebody else has run it."""
        statement = self.statement
        if statement.runs != self.known_runs:
            self.mean = statement.mean
            self.deviation = statement.deviation
            self.recent = statement.recent
            self.expected = statement.expected
            self.size = statement.size
            self.patience = statement.patience
            self.begun = statement.begun
            self.is_short = statement.is_short
            statement.runs += self.runs
            self.known_runs = statement.runs
            self.runs = 0

    cdef record(self, double seconds, long size):
        """Update the profile after one run; as `Statement.record`."""
        cdef double error = seconds - self.mean
        self.runs += 1
        self.recent = seconds
        self.deviation += BETA * ((error if error > 0 else -error) - self.deviation)
        self.mean += ALPHA * error
        self.size += ALPHA * (size - self.size)
        self.expected = self.mean + 2 * self.deviation
        self.is_short = (
            self.may_be_short
            and self.expected < SHORT_SECONDS
            and self.size < SHORT_BYTES
            and self.known_runs + self.runs >= TRUSTED_AFTER
        )
        self.patience = 2 * self.expected if self.expected > PATIENCE_SECONDS else 2 * PATIENCE_SECONDS

    cdef fold(self):
        """Tell a query's statement its profile."""
        statement = self.statement
        if not self.runs:
            return
        statement.runs += self.runs
        statement.mean = self.mean
        statement.deviation = self.deviation
        statement.recent = self.recent
        statement.expected = self.expected
        statement.size = self.size
        statement.patience = self.patience
        statement.begun = self.begun
        statement.is_short = self.is_short and statement.state is PREPARED
        self.known_runs = statement.runs
        self.runs = 0

    cdef tally(self):
        """Tell the statement's tally what was counted."""
        if not self.calls:
            return
        if self.is_transaction:
            found = self.fleet.group.tallies.find(tallies.TRANSACTION, self.flow.plan.masked)
        else:
            found = self.fleet.group.tallies.find(tallies.STATEMENT, self.statement.masked)
        counts = [(place, self.buckets[place]) for place in range(PAIRS) if self.buckets[place]]
        found.add(self.calls, self.rows, self.seconds, counts)
        found.lane += self.calls
        found.is_prepared = True
        self.calls = self.rows = self.seconds = 0
        for place in range(PAIRS):
            self.buckets[place] = 0


cdef class Flight:
    """A request of the lane's; see `poold.core.records.flow.Flight`."""

    is_in_lane = True
    lease = None

    @property
    def flow(self):
        """What it runs."""
        return self.way.flow

    @property
    def tag(self):
        """The client's name for it."""
        return decode_request(self.message).tag

    def unit(self):
        """The unit that was sent for it."""
        cdef Message found
        cdef Way way = self.way
        cdef int place, at
        read_message(PyBytes_AS_STRING(self.message), PyBytes_GET_SIZE(self.message), &found)
        commands = []
        for place in range(way.steps):
            at = place - way.is_transaction
            values = b""
            if 0 <= at < found.count:
                values = PyBytes_FromStringAndSize(found.values[at].at, found.values[at].size)
            commands.append(Bind(way.names[place], way.counts[place], values))
        return tuple(commands)


cdef class Lent:
    """A backend that is the lane's."""

    def __cinit__(self):
        self.out_room = 4096
        self.out = <char *>malloc(self.out_room)
        if self.out == NULL:
            raise MemoryError

    def __init__(self, int descriptor, backend, wire, Fleet fleet):
        self.descriptor = descriptor
        self.number = backend.number
        self.backend = backend
        self.flights = backend.flights = []
        self.pool = backend.pool
        self.wire = wire
        self.place = fleet.pools.index(backend.pool)
        self.fleet = fleet
        self.ready = {}
        self.completed = backend.completed
        self.expires = float("inf") if backend.expires is None else backend.expires
        self.is_here = True

    def __dealloc__(self):
        free(self.out)

    cdef char *room(self, long size) except NULL:
        """Return where so many bytes can be added to out; the caller adds them to out_size."""
        cdef long wanted = self.out_size + size
        cdef char *moved
        if wanted > self.out_room:
            moved = <char *>realloc(self.out, 2 * wanted)
            if moved == NULL:
                raise MemoryError
            self.out = moved
            self.out_room = 2 * wanted
        return self.out + self.out_size

    cdef ended(self, Flight flight):
        """The first of its requests has ended, and is to be counted."""
        del self.flights[0]
        if self.first is None:
            self.first = flight
        elif self.more is None:
            self.more = [flight]
        else:
            self.more.append(flight)

    cdef count(self, double now):
        """Count the requests whose ends were read together: they share the time since the first of them began.

        Whoever is behind another one begins with its end, and has waited until then.
        """
        cdef Flight flight = self.first
        cdef double begun, seconds
        if flight is None:
            return
        begun = max(flight.began, self.completed)
        seconds = now - begun
        if self.more is None:
            self.fleet.ran(flight, seconds)
        else:
            seconds /= 1 + len(self.more)
            self.fleet.ran(flight, seconds)
            for flight in self.more:
                begun += seconds
                self.fleet.waited(begun - flight.arrived)
                self.fleet.ran(flight, seconds)
            self.more = None
        self.first = None
        self.completed = now
        if self.flights:
            flight = self.flights[0]
            self.fleet.waited(now - flight.arrived)

    cdef fold(self):
        """Tell the backend's records what happened on it."""
        if self.requests:
            self.backend.completed = self.completed
            self.pool.stats.requests += self.requests
            self.pool.stats.joined += self.joined
            self.requests = self.joined = 0


cdef class Fleet:
    """The backends of one group that are the lane's, by pool: at rest, and running."""

    def __init__(self, group):
        self.group = group
        self.queue = group.queue
        self.stats = group.stats
        self.statements = group.statements
        self.pools = []
        self.ways = []
        self.queries = []
        self.load(())

    cdef load(self, lents):
        """Take what the group's configuration says; lents are all backends of the lane's."""
        config = self.group.config
        self.depth = config.pipeline_depth
        self.sharing_depth = min(SHARING, self.depth)
        self.most = config.max_size
        self.most_waiting = config.max_waiting
        self.longest_wait = min(LONGEST_WAIT, config.queue_timeout / 2)
        self.shows_tags = config.show_tags != "off"
        self.patience = PATIENCE
        self.is_watched_closely = is_watched_closely(self.group)
        # What is to be logged must have become the core's by then.
        if config.log_long_wait:
            self.longest_wait = min(self.longest_wait, config.log_long_wait)
        if config.log_slow:
            self.patience = min(self.patience, config.log_slow)
        if self.pools != list(self.group.pools):
            idle, active = self.idle, self.active
            before = {pool: place for place, pool in enumerate(self.pools)}
            self.pools = list(self.group.pools)
            self.idle = [idle[before[pool]] if pool in before else [] for pool in self.pools]
            self.active = [active[before[pool]] if pool in before else [] for pool in self.pools]
            for lent in lents:
                if (<Lent>lent).fleet is self:
                    (<Lent>lent).place = self.pools.index((<Lent>lent).pool)

    cdef list idle_by_turn(self):
        """Return the backends that rest, of the pool whose turn it is."""
        cdef list found = [pool for place, pool in enumerate(self.pools) if self.idle[place]]
        if not found:
            return None
        return <list>self.idle[self.pools.index(found[0] if len(found) == 1 else whose_turn(found))]

    cdef waited(self, double seconds):
        """Count how long a request has waited for its backend."""
        self.waits += 1
        self.wait_seconds += seconds
        self.wait_times[bucket_of(seconds)] += 1

    cdef ran(self, Flight flight, double seconds):
        """Count a request that has run for so long."""
        cdef Way way = flight.way
        cdef int bucket = bucket_of(seconds)
        self.runs += 1
        self.run_seconds += seconds
        self.run_times[bucket] += 1
        way.calls += 1
        way.rows += flight.rows
        way.seconds += seconds
        way.buckets[bucket // 2] += 1
        if way.is_transaction:
            self.messages += 1
            self.message_seconds += seconds
            self.message_times[bucket] += 1
        else:
            way.record(seconds, flight.size)

    cdef fold(self, bint is_all):
        """Tell the group's records what was counted; the tallies of statements, which take longer, less often."""
        self.folds += 1
        if is_all or self.folds % FOLDS_PER_TALLY == 0:
            for way in self.ways:
                (<Way>way).tally()
        if self.requests:
            self.stats.requests += self.requests
            self.stats.transactions += self.transactions
            self.requests = self.transactions = 0
        if self.waits:
            tell(self.stats.wait_times, self.wait_times, &self.wait_seconds)
            self.waits = 0
        if self.messages:
            tell(self.stats.use_times[Use.MESSAGE], self.message_times, &self.message_seconds)
            self.messages = 0
        if self.runs:
            tell(self.stats.run_times, self.run_times, &self.run_seconds)
            self.runs = 0
            for way in self.queries:
                (<Way>way).fold()
