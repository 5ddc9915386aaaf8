"""The backends that are the lane's, and what they run."""

from poold.lane.answers cimport StatementAnswer
from poold.lane.messages cimport Message
from poold.lane.lines cimport Line
from poold.lane.records cimport Fleet, Flight, Lent, Way


cdef class Pipelines:
    cdef object owner  # is told of what is given back
    cdef dict lent  # by number
    cdef list owners  # by descriptor: Line or Lent
    cdef object waiting  # requests in queues, in the order of their arrival; those that have begun may still be here
    cdef Lent unprepared
    cdef double now
    cdef unsigned long turn
    cdef bint has_called  # whether the core was told of something since `wait` began
    cdef long served, handed_over_count, given_back_count
    cdef list _dirty  # backends with bytes to be sent
    cdef char *_into
    cdef char *_reply
    cdef long _reply_room

    cdef Lent backend_for(self, Fleet fleet, Way way)
    cdef bint may_wait(self, Fleet fleet, Way way) except -1
    cdef start(self, Lent lent, Flight flight, Message *message)
    cdef serve_queue(self, Fleet fleet)
    cdef rest(self, Lent lent)
    cdef take_answers(self, Lent lent)
    cdef flush(self)
    cdef give_back(self, Lent lent)
    cdef bint give_back_idle(self, Fleet fleet) except -1
    cdef hand_over(self, Lent lent, bytes unread)
    cdef _hand_over(self, Lent lent, bytes unread, bytes unsent, int untouched)
    cdef hand_over_waiting(self, list flights)
    cdef list _heads(self, Lent lent, Way way)
    cdef bint _is_usable(self, Lent lent, Way way) except -1
    cdef bint _is_company(self, Lent lent) except -1
    cdef _put(self, Lent lent, bytes head, const char *values, long size)
    cdef _remove(self, Lent lent)
    cdef _end(self, Lent lent, Flight flight, StatementAnswer *answers)
    cdef _make_room(self, list heads, int first, int last, StatementAnswer *answers)
