"""Numbers in network order, and msgpack as far as the lane reads and writes it: fields of messages, header and all."""

from libc.string cimport memcpy
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #define swap16 __builtin_bswap16
    #define swap32 __builtin_bswap32
    #define swap64 __builtin_bswap64
    """
    uint16_t swap16(uint16_t) nogil
    uint32_t swap32(uint32_t) nogil
    uint64_t swap64(uint64_t) nogil


cdef inline unsigned get16(const char *at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return swap16(value)


cdef inline unsigned get32(const char *at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return swap32(value)


cdef inline uint64_t get64(const char *at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return swap64(value)


cdef inline void put16(char *at, unsigned value) noexcept nogil:
    cdef uint16_t swapped = swap16(<uint16_t>value)
    memcpy(at, &swapped, 2)


cdef inline void put32(char *at, unsigned value) noexcept nogil:
    cdef uint32_t swapped = swap32(value)
    memcpy(at, &swapped, 4)


cdef inline void put64(char *at, uint64_t value) noexcept nogil:
    cdef uint64_t swapped = swap64(value)
    memcpy(at, &swapped, 8)


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


# Writers return where the field ends; the caller sees to the room.

cdef inline char *write_number(char *at, uint64_t value) noexcept nogil:
    if value < 0x80:
        at[0] = <char>value
        return at + 1
    if value < 0x100:
        at[0] = <char>0xcc
        at[1] = <char>value
        return at + 2
    if value < 0x10000:
        at[0] = <char>0xcd
        put16(at + 1, <unsigned>value)
        return at + 3
    if value >> 32 == 0:
        at[0] = <char>0xce
        put32(at + 1, <unsigned>value)
        return at + 5
    at[0] = <char>0xcf
    put64(at + 1, value)
    return at + 9


cdef inline char *write_count(char *at, long long value) noexcept nogil:
    """A number that is -1 or not negative."""
    if value < 0:
        at[0] = <char>0xff
        return at + 1
    return write_number(at, <uint64_t>value)


cdef inline char *write_bytes(char *at, const char *data, size_t size) noexcept nogil:
    if size < 0x100:
        at[0] = <char>0xc4
        at[1] = <char>size
        at += 2
    elif size < 0x10000:
        at[0] = <char>0xc5
        put16(at + 1, <unsigned>size)
        at += 3
    else:
        at[0] = <char>0xc6
        put32(at + 1, <unsigned>size)
        at += 5
    memcpy(at, data, size)
    return at + size


cdef inline char *write_text(char *at, const char *data, size_t size) noexcept nogil:
    """A text of at most 255 bytes of ASCII."""
    if size < 32:
        at[0] = <char>(0xa0 | size)
        at += 1
    else:
        at[0] = <char>0xd9
        at[1] = <char>size
        at += 2
    memcpy(at, data, size)
    return at + size


cdef inline char *write_array(char *at, size_t count) noexcept nogil:
    """The head of an array of less than 65,536 fields."""
    if count < 16:
        at[0] = <char>(0x90 | count)
        return at + 1
    at[0] = <char>0xdc
    put16(at + 1, <unsigned>count)
    return at + 3
