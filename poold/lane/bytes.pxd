"""msgpack as far as the lane reads it: fields of a client's message, header and all."""

from libc.stdint cimport uint64_t

from client.lane.octets cimport get16, get32, get64

# Readers return where the field ends, NULL if it is another field or not whole.

cdef inline const char *skip_text(const char *at, const char *end) noexcept nogil:
    """A text of at most 255 bytes."""
    cdef unsigned char kind
    cdef long size
    if at == NULL or at >= end:
        return NULL
    kind = <unsigned char>at[0]
    if kind & 0xe0 == 0xa0:
        size = kind & 31
        at += 1
    elif kind == 0xd9 and end - at > 1:
        size = <unsigned char>at[1]
        at += 2
    else:
        return NULL
    return at + size if size <= end - at else NULL


cdef inline const char *read_bytes(const char *at, const char *end, const char **data, long *size) noexcept nogil:
    """Bytes, at most 65,535."""
    cdef unsigned char kind
    if at == NULL or end - at < 2:
        return NULL
    kind = <unsigned char>at[0]
    if kind == 0xc4:
        size[0] = <unsigned char>at[1]
        at += 2
    elif kind == 0xc5 and end - at > 2:
        size[0] = get16(at + 1)
        at += 3
    else:
        return NULL
    if size[0] > end - at:
        return NULL
    data[0] = at
    return at + size[0]


cdef inline const char *read_number(const char *at, const char *end, uint64_t *value) noexcept nogil:
    """A number that is not negative."""
    cdef unsigned char kind
    if at == NULL or at >= end:
        return NULL
    kind = <unsigned char>at[0]
    if kind < 0x80:
        value[0] = kind
        return at + 1
    if kind == 0xcc and end - at > 1:
        value[0] = <unsigned char>at[1]
        return at + 2
    if kind == 0xcd and end - at > 2:
        value[0] = get16(at + 1)
        return at + 3
    if kind == 0xce and end - at > 4:
        value[0] = get32(at + 1)
        return at + 5
    if kind == 0xcf and end - at > 8:
        value[0] = get64(at + 1)
        return at + 9
    return NULL
