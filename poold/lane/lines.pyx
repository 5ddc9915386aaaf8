"""The connections of clients, and what limits hold for them."""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer

from poold.core.records.flow import MAX_MESSAGE_BYTES

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES  # the checksum of the sources that this was built of


cdef class Line:
    """The connection of one client. It is hot while nothing but whole messages comes and all replies are taken."""

    def __init__(self, int descriptor, peer, client):
        self.descriptor = descriptor
        self.peer = peer
        self.client = client
        self.process = client.process
        self.requests = client.requests
        self.heard = client.heard
        cdef Py_buffer memory
        if PyObject_CheckBuffer(client.begun):
            # No buffer is kept: Python crashes if it collects a memoryview before one that was taken of it is released.
            PyObject_GetBuffer(client.begun, &memory, PyBUF_WRITABLE)
            self._memory = client.begun
            self.begun = <unsigned long long *>memory.buf
            PyBuffer_Release(&memory)
        else:
            self.begun = &self._nowhere
        client.line = self


cdef class Limits:
    """What all clients together, and each of them, may have in the core and in the lane, as configured."""

    def __init__(self, broker):
        self.broker = broker
        self.load()

    cdef load(self):
        """Take them from the configuration."""
        config = self.broker.config.broker
        self.most_requests = config.max_client_requests
        self.most_bytes = config.max_client_bytes
        self.most_of_all = self.broker.admission.most_bytes

    cdef bint has_room(self, client) except -1:
        """Whether a client that waits for replies may have one request more."""
        cdef Py_ssize_t count = len(client.requests)
        bytes_then = client.bytes + MAX_MESSAGE_BYTES * (count + 1)
        return not (0 < self.most_requests <= count or 0 < self.most_bytes < bytes_then)
