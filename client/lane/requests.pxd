"""What `requests` has for the other compiled modules."""

from client.lane.octets cimport Octets
from client.lane.parameters cimport Template
from client.lane.records cimport ChannelFields
from client.lane.steps cimport Collector


cdef class Lane:
    cdef str _address, _group
    cdef public bint dicts
    cdef bytes _query_before, _query_behind
    cdef tuple _block_form
    cdef unsigned long _thread
    cdef object _settings, _free, _origin
    cdef bint _is_always, _is_curious  # whether to ask for each request's origin: always, or if there may be traces
    cdef bytes _origin_now(self)
    cpdef query(self, calls, statement, params)
    cpdef transaction(self, calls, Collector collector, tuple form)
    cdef _free_channels(self)
    cdef ChannelFields _taken(self, free, bint wants_autocommit)
    cdef _asked(self, calls, ChannelFields channel, free, Octets *frame, Template template, Collector collector)
