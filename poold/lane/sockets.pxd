"""System calls."""

cdef extern from *:
    """
    #include <time.h>
    static inline double lane_clock(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return now.tv_sec + now.tv_nsec * 1e-9;
    }
    """
    double lane_clock() nogil

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        unsigned events
        epoll_data_t data
    int epoll_wait(int, epoll_event *, int, int)

cdef extern from "<errno.h>" nogil:
    int errno, EAGAIN, EINTR

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT, MSG_NOSIGNAL
    ssize_t recv(int, void *, size_t, int)
    ssize_t send(int, const void *, size_t, int)


cdef inline bint is_nothing_yet() noexcept nogil:
    """Whether the last call failed only for the moment."""
    return errno == EAGAIN or errno == EINTR
