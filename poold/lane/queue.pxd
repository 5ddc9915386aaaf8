"""The queue of `poold.core.shared.queue`, compiled: the same order, for requests of the core's and of the lane's."""


cdef class Node:
    cdef Node before, behind


cdef class Chain(Node):
    cdef Node first, last

    cdef append(self, Node node)
    cdef remove(self, Node node)


cdef class Place(Node):
    cdef object request
    cdef Turn turn  # None if it is to run again


cdef class Turn(Chain):
    cdef object process
    cdef Row row


cdef class Row(Chain):
    cdef double stride, passed
    cdef readonly long size
    cdef dict turns  # by process

    cdef push(self, Place place, process)
    cdef leave(self, Place place)
    cdef to_end(self, Turn turn)


cdef class Queue:
    cdef readonly long size
    cdef tuple _rows
    cdef double _paid
    cdef dict _places  # by request
    cdef list _returned  # places of those to run again, the next one last

    cpdef first(self, int priorities)
    cpdef pop(self, int priorities)
    cpdef long count(self, int priority)
    cdef add(self, request, process, int priority)
    cdef Row _next_row(self, int priorities)
