"""What `rows` has for the other compiled modules."""

from libc.stdint cimport uint8_t

from client.lane.records cimport ResultFields


cdef class Reader:
    cdef readonly bint is_own
    cdef object _row_class, _cursor
    cdef readonly tuple names
    cdef tuple _oids, _casters
    cdef list _found
    cdef Py_ssize_t _width
    cdef int *_kinds
    cpdef bint is_current(self) except -1
    cpdef row(self, bytes rows, Py_ssize_t at)
    cpdef tuple read(self, bytes rows, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t most)
    cdef object _row(self, const uint8_t *row, Py_ssize_t size)
    cdef dict _as_dict(self, values)
    cdef object _cast(self, Py_ssize_t place, const uint8_t *text, Py_ssize_t size)


cpdef reader_of(ResultFields result)
cpdef all_rows(ResultFields result)
cpdef first_row(ResultFields result)
