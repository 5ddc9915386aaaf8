"""Replies, as `client.wire.codec` writes `ResultMessage` and `TransactionResult` of `client.wire.messages`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from client.lane.octets cimport write_array_head, write_bytes_head, write_number
from poold.lane.answers cimport StatementAnswer

cdef enum:
    # Bytes that a reply has at most before its results, a frame's head included; and a result beside columns and rows.
    REPLY_HEAD = 64
    RESULT_HEAD = 128


cdef inline long write_reply(
    char *start, uint64_t number, bint is_transaction, list heads, int steps, StatementAnswer *answers
) except -1:
    """Write the reply to a statement, or to a transaction, whose BEGIN and COMMIT are no results; return its size.

    heads holds for each step the head of its Bind, which is not needed here, and its columns.
    """
    cdef char *at = start
    cdef int place
    cdef StatementAnswer *answer
    at[0] = <char>(0x96 if is_transaction else 0x98)
    at[1] = 68 if is_transaction else 65
    at += 2
    at += write_number(at, number)
    if is_transaction:
        at += write_number(at, 1)  # one try
        at += write_array_head(at, steps - 2)
    for place in range(is_transaction, steps - is_transaction):
        answer = &answers[place]
        columns = (<tuple>heads[place])[1]
        if is_transaction:
            at[0] = <char>0x97
            at[1] = 0
            at += 2
        at = _write_text(at, b"none", 4)
        at = _write_text(at, answer.tag, answer.tag_size)
        if columns is None:
            at = _write_count(at, answer.told)
            at[0] = <char>0xc0
            at += 1
        else:
            at = _write_count(at, answer.count)
            at = _write_bytes(at, PyBytes_AS_STRING(columns), PyBytes_GET_SIZE(columns))
        at = _write_bytes(at, answer.rows, answer.rows_size)
        at += write_array_head(at, 0)
    if is_transaction:
        at[0] = <char>0xc0  # no failure, in no step
        at[1] = <char>0xff
        at += 2
    return at - start


# Fields; each returns where it ends.


cdef inline char *_write_count(char *at, long long value) noexcept nogil:
    """A number that is -1 or not negative."""
    if value < 0:
        at[0] = <char>0xff
        return at + 1
    return at + write_number(at, <uint64_t>value)


cdef inline char *_write_bytes(char *at, const char *data, size_t size) noexcept nogil:
    at += write_bytes_head(at, size)
    memcpy(at, data, size)
    return at + size


cdef inline char *_write_text(char *at, const char *data, size_t size) noexcept nogil:
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
