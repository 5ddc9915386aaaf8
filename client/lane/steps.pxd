"""What `steps` has for the other compiled modules."""

from libc.stdint cimport uint8_t

from client.lane.octets cimport Octets


cdef class Node:
    cdef dict children
    cdef Node before
    cdef bytes types
    cdef bytes packed
    cdef tuple templates


cdef class Collector:
    cdef Node node
    cdef Octets values
    cdef list ends
    cdef readonly list pending
    cdef bint _is_prepared, _dicts
    cdef object _lane, _calls
    cdef tuple _form
    cdef uint8_t _room[1024]
    cdef begin(self, lane, calls, tuple form, bint is_prepared, bint dicts)
    cdef add(self, statement, params)
    cdef send(self)
    cdef bytes packed_steps(self)
