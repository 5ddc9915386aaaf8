"""PostgreSQL's rows as they come: where they end. The twin of `poold.postgres.answers.rows_end`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from client.lane.octets cimport get32

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES  # the checksum of the sources that this was built of


def rows_end(bytes data not None, Py_ssize_t at, char wanted=68):
    """Return the byte behind the whole messages of a kind that follow one another from byte at, and their number."""
    cdef const char *start = PyBytes_AS_STRING(data)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(data), length
    cdef long count = 0
    while at + 5 <= end and start[at] == wanted:
        length = get32(start + at + 1)
        if length < 4 or at + length >= end:
            break
        at += 1 + length
        count += 1
    return at, count
