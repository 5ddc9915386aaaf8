"""What `conversions` has for the other compiled modules."""

from libc.stdint cimport uint32_t

from client.lane.octets cimport Octets


cdef bint put_value(object value, Octets *types, Octets *values, uint32_t *checked) except -1
