"""The connections of clients, and what limits hold for them."""


cdef class Line:
    cdef int descriptor
    cdef bint is_hot
    cdef readonly double heard
    cdef readonly object peer, client
    cdef object process  # whose turn it is when a request waits
    cdef dict requests  # its client's
    cdef object _memory  # where begun is
    cdef unsigned long long _nowhere
    cdef unsigned long long *begun  # `core.records.client.Client.begun`, if that is memory
    cdef object fleet  # of the last request; its client may use it and has done so


cdef class Limits:
    cdef object broker
    cdef int most_requests
    cdef long most_bytes
    cdef readonly long most_of_all  # bytes of all clients' requests in the core

    cdef load(self)
    cdef bint has_room(self, client) except -1
