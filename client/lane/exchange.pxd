"""What `exchange` has for the other compiled modules."""

from libc.stdint cimport uint8_t, uint64_t

from client.lane.records cimport ChannelFields


cdef double now() noexcept nogil
cdef bint is_silent(ChannelFields channel) except -1
cdef Py_ssize_t exchange(
    ChannelFields channel, uint64_t request, const uint8_t *data, Py_ssize_t size, Py_ssize_t *sent
) except -2
