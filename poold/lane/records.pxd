"""What the lane keeps of flows, requests, clients and backends, beside the core's own records.

What is counted here is told to the core's records by `fold`, from time to time and before somebody looks.
"""

from poold.lane.lines cimport Line
from poold.lane.messages cimport MOST_STEPS
from poold.lane.queue cimport Queue

cdef enum:
    BUCKETS = 102  # of `poold.core.stats.Times`
    PAIRS = 51  # of these, as `poold.core.tallies` has them


cdef class Way:
    cdef readonly object flow
    cdef object statement  # the one of a query
    cdef tuple clients  # its statements but for the broker's own
    cdef tuple names  # of prepared statements
    cdef long counts[MOST_STEPS + 2]  # of parameters
    cdef int steps
    cdef bint is_transaction, writes, is_for_replicas
    cdef list limited  # those of names that are parsed anew after some runs, each with its runs in one request
    cdef bint uses_sequences
    cdef long generation
    cdef double rests_until
    cdef Fleet fleet
    cdef int surprises, counted
    # The profile of the statement of a query, as `poold.core.statements.statement.Statement` has it.
    cdef bint may_be_short, is_short
    cdef double mean, deviation, recent, expected, size, patience, begun
    cdef long runs, known_runs  # since the last fold; those of the statement at that time
    # Since the last tally: what `poold.core.tallies` counts.
    cdef long calls
    cdef long long rows
    cdef double seconds
    cdef long buckets[PAIRS]

    cdef bint holds(self) except -1
    cdef end(self)
    cdef bint suits(self, client) except -1
    cdef went_well(self)
    cdef surprised(self, double now)
    cdef record(self, double seconds, long size)
    cdef load(self)
    cdef fold(self)
    cdef tally(self)


cdef class Flight:
    cdef readonly object client, number
    cdef readonly bytes message
    cdef readonly int priority
    cdef readonly double arrived, began
    cdef public bint is_waiting
    cdef Way way
    cdef Line line
    cdef long size  # of its rows, when it has ended
    cdef long long rows  # how many it has returned or changed


cdef class Lent:
    cdef int descriptor
    cdef readonly int number
    cdef object backend, pool, wire
    cdef int place  # of its pool in the group
    cdef Fleet fleet
    cdef list flights
    cdef dict ready  # by way: for each step the head of its Bind and its columns
    cdef bytes partial  # of an answer
    cdef char *out
    cdef long out_size, out_room
    cdef int unflushed  # requests in out
    cdef double completed  # when its last request ended
    cdef double expires
    cdef bint is_here  # False when it was given back
    cdef bint is_recalled
    cdef long requests, joined  # since the last fold
    # What has ended and is not counted: the first of them, and those behind it, None if there are none.
    cdef Flight first
    cdef list more

    cdef char *room(self, long size) except NULL
    cdef ended(self, Flight flight)
    cdef count(self, double now)
    cdef fold(self)


cdef class Fleet:
    cdef object group, stats, statements
    cdef Queue queue
    cdef list idle, active, pools
    cdef int count  # of backends
    cdef int depth, sharing_depth
    cdef long most, most_waiting
    cdef bint is_watched_closely  # all of its requests are the core's
    cdef bint shows_tags  # whether a request that has a tag is the core's
    cdef double longest_wait, patience  # in seconds; a request that waits for longer is the core's
    cdef bint is_poked  # the next backend that rests is to be given back
    cdef Lent sharing  # the backend that was last given a short statement while idle, and in which turn
    cdef unsigned long sharing_turn
    cdef list ways  # all that there are, and those of them that are no transactions
    cdef list queries
    cdef int folds
    # Since the last fold.
    cdef long requests, transactions, waits, runs, messages
    cdef long wait_times[BUCKETS]
    cdef long run_times[BUCKETS]
    cdef long message_times[BUCKETS]  # of these, transaction messages'
    cdef double wait_seconds, run_seconds, message_seconds

    cdef load(self, lents)
    cdef list idle_by_turn(self)
    cdef waited(self, double seconds)
    cdef ran(self, Flight flight, double seconds)
    cdef fold(self, bint is_all)


cdef inline int leave_out(list some, Lent lent) except -1:
    """Take the backend out of the list, if it is in it; it is likely to be at its end."""
    cdef Py_ssize_t place = len(some) - 1
    while place >= 0:
        if some[place] is lent:
            del some[place]
            return 0
        place -= 1
    return 0


cdef inline tell(times, long *counts, double *seconds):
    """Give the counts by bucket, and their sum, to the core's Times, and begin again."""
    cdef int place
    times.add([counts[place] for place in range(BUCKETS)], seconds[0])
    seconds[0] = 0.0
    for place in range(BUCKETS):
        counts[place] = 0
