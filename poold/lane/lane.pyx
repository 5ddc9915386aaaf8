"""The lane: what most requests need and no more, from a client's bytes to a backend's and back."""

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        unsigned events
        epoll_data_t data
    int epoll_wait(int, epoll_event *, int, int)

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES  # the checksum of the sources that this was built of

cdef enum:
    AT_ONCE = 256  # events taken in one go


cdef class Lane:
    """Serves the descriptors that it was given; tells of all others."""

    def wait(self, int epoll):
        """Return (descriptor, events) of what is ready and not the lane's, without waiting."""
        cdef epoll_event events[AT_ONCE]
        cdef int ready = epoll_wait(epoll, events, AT_ONCE, 0)
        return [(events[place].data.fd, events[place].events) for place in range(ready)]
