"""What `replies` has for the other compiled modules."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from client.lane.parameters cimport Template
from client.lane.records cimport ResultFields


cdef struct Reader:
    const uint8_t *at
    const uint8_t *end


cdef bint open_message(const uint8_t *data, Py_ssize_t size, Reader *reader) noexcept
cdef bint read_array(Reader *reader, Py_ssize_t count) noexcept
cdef bint read_number(Reader *reader, int64_t *number) noexcept
cdef bint read_nil(Reader *reader) noexcept
cdef ResultFields read_result(Reader *reader, Template template)
cdef ResultFields result_in(const uint8_t *data, Py_ssize_t size, uint64_t request, Template template)
