"""A request sent and what comes first received, on a channel that nobody else uses: system calls, without the GIL.

It is the usual way of `client.channels.channel`, whose rules hold: a channel counts as asked from before a request's
first byte, and an exception of a signal handler leaves it so. Python runs signal handlers in here only where it is said.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport malloc
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from client.lane.records cimport ChannelFields

cdef extern from *:
    """
    #include <errno.h>
    #include <poll.h>
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0 /* Python ignores SIGPIPE */
    #endif

    enum { POOLD_FAILED = -2, POOLD_NOTHING = -1 };

    /* How many bytes the kernel took at once; 0 if none, or if it failed. */
    static Py_ssize_t poold_send(int descriptor, const void *data, Py_ssize_t size) {
        Py_ssize_t sent = send(descriptor, data, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
        return sent < 0 ? 0 : sent;
    }

    /* How many bytes came, 0 at the end; NOTHING if none came in time, or a signal did. */
    static Py_ssize_t poold_receive(int descriptor, void *room, Py_ssize_t size, int wait_ms) {
        struct pollfd wanted = {descriptor, POLLIN, 0};
        int found = poll(&wanted, 1, wait_ms);
        Py_ssize_t came;
        if (found <= 0) return found == 0 || errno == EINTR ? POOLD_NOTHING : POOLD_FAILED;
        if (wanted.revents & POLLERR) return POOLD_FAILED; /* Python's way meets the error, which is told once */
        came = recv(descriptor, room, (size_t)size, MSG_DONTWAIT);
        if (came >= 0) return came;
        return errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK ? POOLD_NOTHING : POOLD_FAILED;
    }

    /* Whether something has come, or has happened. */
    static int poold_is_ready(int descriptor) {
        struct pollfd wanted = {descriptor, POLLIN, 0};
        return poll(&wanted, 1, 0) != 0;
    }
    """
    enum:
        POOLD_NOTHING
        POOLD_FAILED
    Py_ssize_t poold_send(int, const void *, Py_ssize_t) nogil
    Py_ssize_t poold_receive(int, void *, Py_ssize_t, int) nogil
    bint poold_is_ready(int) nogil
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES

cdef enum:
    RECEIVE_BYTES = 65536  # as Python's way receives at once
    # Python's signal handlers are looked for so soon, in milliseconds: poll does not notice a signal that came just
    # before it.
    LOOK_AFTER_MS = 20
    # After so long a silence Python's way goes on, which knows PING.
    SILENCE_MS = 10000


cdef double now() noexcept nogil:
    """The time as time.monotonic has it."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec + time.tv_nsec * 1e-9


cdef bint is_silent(ChannelFields channel) except -1:
    """Whether nothing has come, and the broker is there."""
    cdef int descriptor = channel._descriptor
    cdef bint is_ready
    with nogil:
        is_ready = poold_is_ready(descriptor)
    return not is_ready


cdef Py_ssize_t exchange(
    ChannelFields channel, uint64_t request, const uint8_t *data, Py_ssize_t size, Py_ssize_t *sent
) except -2:
    """Send a request; return how many bytes came into channel.room, -1 if there is something that Python must look at.

    sent is how many bytes were sent. Raises what a signal handler raises.
    """
    cdef int descriptor = channel._descriptor, left_ms
    cdef uint8_t *room
    cdef Py_ssize_t came = POOLD_FAILED, taken
    cdef double end
    if channel.room == NULL:
        channel.room = <uint8_t *>malloc(RECEIVE_BYTES)
        if channel.room == NULL:
            raise MemoryError
    room = channel.room
    channel._asked = request
    with nogil:
        taken = poold_send(descriptor, data, size)
        if taken == size:
            came = poold_receive(descriptor, room, RECEIVE_BYTES, LOOK_AFTER_MS)
    sent[0] = taken
    if came == POOLD_NOTHING:
        end = now() + (SILENCE_MS - LOOK_AFTER_MS) / 1000.0
        while came == POOLD_NOTHING:
            PyErr_CheckSignals()
            left_ms = <int>(1000 * (end - now()))
            # A signal handler may have closed the channel; in the child of a fork it is closed.
            if left_ms <= 0 or channel._is_broken or channel._socket.fileno() != descriptor:
                break
            with nogil:
                came = poold_receive(descriptor, room, RECEIVE_BYTES, left_ms)
    return came if came > 0 else -1
