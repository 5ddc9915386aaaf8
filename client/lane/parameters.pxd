"""What `parameters` has for the other compiled modules."""

from client.lane.octets cimport Octets


cdef class Template:
    cdef readonly bytes joined
    cdef bytes packed
    cdef tuple names
    cdef Py_ssize_t count
    cdef bytes columns


cdef Template template_of(object statement, object params)
cdef bint put_parameters(Template template, object params, Octets *types, Octets *values) except -1
