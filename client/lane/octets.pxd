"""Numbers as bytes, msgpack's heads, frames' heads, and bytes that are being put together."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

cdef enum:
    HEAD = 9  # bytes of the longest head of a frame
    SHORT_HEAD = 2
    LONG = 2  # the flag of a frame whose length has 8 bytes

# Numbers, big-endian as in msgpack, ZMTP and PostgreSQL's protocol.


cdef inline uint16_t get16(const void *data) noexcept nogil:
    cdef const uint8_t *at = <const uint8_t *>data
    return <uint16_t>(at[0] << 8 | at[1])


cdef inline uint32_t get32(const void *data) noexcept nogil:
    cdef const uint8_t *at = <const uint8_t *>data
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline uint64_t get64(const void *data) noexcept nogil:
    return <uint64_t>get32(data) << 32 | get32(<const uint8_t *>data + 4)


cdef inline void set16(void *data, uint16_t number) noexcept nogil:
    cdef uint8_t *at = <uint8_t *>data
    at[0] = <uint8_t>(number >> 8)
    at[1] = <uint8_t>number


cdef inline void set32(void *data, uint32_t number) noexcept nogil:
    cdef uint8_t *at = <uint8_t *>data
    at[0] = <uint8_t>(number >> 24)
    at[1] = <uint8_t>(number >> 16)
    at[2] = <uint8_t>(number >> 8)
    at[3] = <uint8_t>number


cdef inline void set64(void *data, uint64_t number) noexcept nogil:
    set32(data, <uint32_t>(number >> 32))
    set32(<uint8_t *>data + 4, <uint32_t>number)


# Written where the caller has room. Each returns how many bytes it has written.


cdef inline int write_number(void *data, uint64_t number) noexcept nogil:
    """Write a number as msgpack's Packer does, in the fewest bytes, at most 9."""
    cdef uint8_t *at = <uint8_t *>data
    if number < 0x80:
        at[0] = <uint8_t>number
        return 1
    if number < 0x100:
        at[0], at[1] = 0xCC, <uint8_t>number
        return 2
    if number < 0x10000:
        at[0] = 0xCD
        set16(at + 1, <uint16_t>number)
        return 3
    if number >> 32 == 0:
        at[0] = 0xCE
        set32(at + 1, <uint32_t>number)
        return 5
    at[0] = 0xCF
    set64(at + 1, number)
    return 9


cdef inline int write_bytes_head(void *data, size_t size) noexcept nogil:
    """Write the head of msgpack's bytes, at most 5 bytes."""
    cdef uint8_t *at = <uint8_t *>data
    if size < 0x100:
        at[0], at[1] = 0xC4, <uint8_t>size
        return 2
    if size < 0x10000:
        at[0] = 0xC5
        set16(at + 1, <uint16_t>size)
        return 3
    at[0] = 0xC6
    set32(at + 1, <uint32_t>size)
    return 5


cdef inline int write_array_head(void *data, size_t count) noexcept nogil:
    """Write the head of msgpack's array of at most 65535 items, at most 3 bytes."""
    cdef uint8_t *at = <uint8_t *>data
    if count < 0x10:
        at[0] = <uint8_t>(0x90 | count)
        return 1
    at[0] = 0xDC
    set16(at + 1, <uint16_t>count)
    return 3


cdef inline int write_frame_head(void *data, size_t size) noexcept nogil:
    """Write the head of a frame before its message, which begins at HEAD; return where the frame begins."""
    cdef uint8_t *at = <uint8_t *>data
    if size < 0x100:
        at[HEAD - SHORT_HEAD], at[HEAD - 1] = 0, <uint8_t>size
        return HEAD - SHORT_HEAD
    at[0] = LONG
    set64(at + 1, size)
    return 0


# Bytes that are being put together: in the room that the caller gives, mostly on its stack, and from malloc if they
# outgrow it. Each is begun, and dropped in every case.

cdef struct Octets:
    uint8_t *data
    Py_ssize_t size
    Py_ssize_t room
    uint8_t *given  # the caller's room


cdef inline void begin(Octets *octets, uint8_t *given, Py_ssize_t room) noexcept nogil:
    octets.data = octets.given = given
    octets.size = 0
    octets.room = room


cdef inline void drop(Octets *octets) noexcept nogil:
    if octets.data != octets.given:
        free(octets.data)
    octets.data = octets.given
    octets.size = octets.room = 0


cdef inline uint8_t *more(Octets *octets, Py_ssize_t size) except NULL:
    """Return room for so many bytes behind those that are there; who writes them adds to octets.size."""
    cdef Py_ssize_t room = octets.room
    cdef uint8_t *data
    if size > room - octets.size:
        room = 2 * (octets.size + size)
        if octets.data == octets.given:
            data = <uint8_t *>malloc(room)
            if data != NULL:
                memcpy(data, octets.data, octets.size)
        else:
            data = <uint8_t *>realloc(octets.data, room)
        if data == NULL:
            raise MemoryError
        octets.data, octets.room = data, room
    return octets.data + octets.size


cdef inline int put(Octets *octets, const void *data, Py_ssize_t size) except -1:
    memcpy(more(octets, size), data, size)
    octets.size += size
    return 0


cdef inline int put_number(Octets *octets, uint64_t number) except -1:
    octets.size += write_number(more(octets, 9), number)
    return 0


cdef inline int put_bytes_head(Octets *octets, Py_ssize_t size) except -1:
    octets.size += write_bytes_head(more(octets, 5), size)
    return 0


cdef inline int put_bytes(Octets *octets, const void *data, Py_ssize_t size) except -1:
    """Put msgpack's bytes."""
    put_bytes_head(octets, size)
    return put(octets, data, size)


cdef inline int put_array_head(Octets *octets, Py_ssize_t count) except -1:
    octets.size += write_array_head(more(octets, 3), count)
    return 0
