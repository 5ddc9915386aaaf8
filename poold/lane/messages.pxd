"""A client's message as far as the lane looks at it: `Query` and `TransactionMessage` of `client.wire.messages`."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from client.lane.octets cimport get16, get32, get64
from poold.lane.bytes cimport read_bytes, read_number, skip_text

cdef enum:
    MOST_STEPS = 64  # of a transaction that the lane runs

cdef struct Values:
    const char *at
    long size

cdef struct Message:
    bint is_transaction
    uint64_t number
    const char *key  # from group to types, or to steps
    long key_size
    int count  # of statements
    Values values[MOST_STEPS]
    bint has_tag
    int priority
    double timeout  # in seconds, 0 for none


cdef inline bint read_message(const char *at, long size, Message *found) noexcept nogil:
    """Read a message; False if it is not one that the lane may run, or not whole."""
    cdef const char *end = at + size
    cdef const char *data
    cdef long length
    cdef uint64_t number
    cdef int place
    if size < 8:
        return False
    found.is_transaction = <unsigned char>at[0] == 0x9e and at[1] == 7
    if not found.is_transaction and not (<unsigned char>at[0] == 0x9f and at[1] == 2):
        return False
    at = read_number(at + 2, end, &found.number)
    found.key = at
    at = skip_text(at, end)  # group
    if at == NULL or end - at < 4:
        return False
    if found.is_transaction:
        if <unsigned char>at[0] == 0xc0:  # isolation
            at += 1
        else:
            at = skip_text(at, end)
            if at == NULL or end - at < 3:
                return False
        at = read_number(at + 2, end, &number)  # read_only and deferrable are of one byte each; retries
    else:
        if at[0] != 0 or <unsigned char>at[1] != 0xc2:  # lease 0, begin false
            return False
        at = read_bytes(at + 2, end, &data, &length)  # statement
    at = read_bytes(at, end, &data, &length)  # types, or steps
    if at == NULL or at >= end:
        return False
    found.key_size = at - found.key
    found.count = 1
    if found.is_transaction:
        if (<unsigned char>at[0]) & 0xf0 == 0x90:
            found.count = at[0] & 15
            at += 1
        elif <unsigned char>at[0] == 0xdc and end - at > 3:
            found.count = get16(at + 1)
            at += 3
        else:
            return False
        if found.count < 1 or found.count > MOST_STEPS:
            return False
    for place in range(found.count):
        at = read_bytes(at, end, &found.values[place].at, &found.values[place].size)
    if at == NULL or at >= end:
        return False
    if not found.is_transaction:
        if <unsigned char>at[0] != 0xc3:  # prepare
            return False
        at += 1
    at = _read_timeout(at, end, &found.timeout)
    found.has_tag = at != NULL and at < end and <unsigned char>at[0] != 0xa0
    at = read_number(skip_text(at, end), end, &number)  # tag, priority
    if at == NULL or number > 1 or end - at < 2 or <unsigned char>at[0] != 0xc4 or at[1] != 0:  # no settings
        return False
    found.priority = <int>number
    at += 2
    if not found.is_transaction:
        if at >= end or at[0] != 0:  # no session
            return False
        at += 1
    at = read_bytes(at, end, &data, &length)  # origin
    if at == NULL or (length and data[length - 1] != 0):  # with a traceparent the reply is not the lane's
        return False
    return at == end


cdef inline const char *_read_timeout(const char *at, const char *end, double *timeout) noexcept nogil:
    """Read nil or a number of seconds; NULL for less than a second, which wants a closer look."""
    cdef uint64_t bits
    cdef unsigned char kind
    if at >= end:
        return NULL
    kind = <unsigned char>at[0]
    if kind == 0xc0:
        timeout[0] = 0.0
        return at + 1
    if kind == 0xcb and end - at > 8:
        bits = get64(at + 1)
        memcpy(timeout, &bits, 8)
        return at + 9 if timeout[0] >= 1.0 else NULL
    if 0 < kind < 0x80:
        timeout[0] = kind
        return at + 1
    return NULL


cdef inline bint are_values(const char *at, long size, int count) noexcept nogil:
    """Whether these are exactly so many values as Bind has them."""
    cdef const char *end = at + size
    cdef int length
    while count:
        if end - at < 4:
            return False
        length = <int>get32(at)
        at += 4
        if length < -1 or (length > 0 and length > end - at):
            return False
        if length > 0:
            at += length
        count -= 1
    return at == end
