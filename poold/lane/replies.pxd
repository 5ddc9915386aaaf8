"""Replies, as `client.wire.codec` writes `ResultMessage` and `TransactionResult` of `client.wire.messages`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from poold.lane.answers cimport StatementAnswer
from poold.lane.bytes cimport write_array, write_bytes, write_count, write_number, write_text

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
    at = write_number(at + 2, number)
    if is_transaction:
        at = write_array(write_number(at, 1), steps - 2)  # one try
    for place in range(is_transaction, steps - is_transaction):
        answer = &answers[place]
        columns = (<tuple>heads[place])[1]
        if is_transaction:
            at[0] = <char>0x97
            at[1] = 0
            at += 2
        at = write_text(at, b"none", 4)
        at = write_text(at, answer.tag, answer.tag_size)
        if columns is None:
            at = write_count(at, answer.told)
            at[0] = <char>0xc0
            at += 1
        else:
            at = write_count(at, answer.count)
            at = write_bytes(at, PyBytes_AS_STRING(columns), PyBytes_GET_SIZE(columns))
        at = write_array(write_bytes(at, answer.rows, answer.rows_size), 0)
    if is_transaction:
        at[0] = <char>0xc0  # no failure, in no step
        at[1] = <char>0xff
        at += 2
    return at - start
