"""The answer to a unit of prepared statements, as PostgreSQL gives it if nothing is remarkable."""

from libc.string cimport memcmp

from client.lane.octets cimport get32

cdef enum:
    LONGEST_TAG = 64  # PostgreSQL's own have no more

cdef struct StatementAnswer:
    const char *rows  # DataRow messages
    long rows_size
    long count  # of them
    const char *tag
    long tag_size
    long long told  # how many rows the tag tells of, -1 if it does not

cdef enum:
    NOT_WHOLE = 0
    SURPRISE = -1


cdef inline long read_answer(
    const char *start, const char *end, int steps, bint is_transaction, StatementAnswer *found
) noexcept nogil:
    """Read an answer: BindComplete, rows and CommandComplete for each step, ReadyForQuery outside a transaction.

    Returns its size, NOT_WHOLE if it may be one that is not whole yet, SURPRISE if there is anything else in it.
    """
    cdef const char *at = start
    cdef unsigned length
    cdef int place
    for place in range(steps):
        if end - at < 5:
            return NOT_WHOLE if end == at or at[0] == 50 else SURPRISE  # '2'
        if at[0] != 50 or get32(at + 1) != 4:
            return SURPRISE
        at += 5
        found[place].rows = at
        found[place].count = 0
        while end - at >= 5 and at[0] == 68:  # 'D'
            length = get32(at + 1)
            if length < 6:
                return SURPRISE
            if length >= end - at:
                return NOT_WHOLE
            at += 1 + length
            found[place].count += 1
        found[place].rows_size = at - found[place].rows
        if end - at < 5:
            return NOT_WHOLE if end == at or at[0] == 67 or at[0] == 68 else SURPRISE
        if at[0] != 67:  # 'C'
            return SURPRISE
        length = get32(at + 1)
        if length < 6 or length > 5 + LONGEST_TAG:
            return SURPRISE
        if length >= end - at:
            return NOT_WHOLE
        if not _read_tag(at + 5, length - 5, &found[place]):
            return SURPRISE
        at += 1 + length
    if is_transaction and (found[steps - 1].tag_size != 6 or memcmp(found[steps - 1].tag, b"COMMIT", 6) != 0):
        return SURPRISE
    if end - at < 6:
        return NOT_WHOLE if end == at or at[0] == 90 else SURPRISE  # 'Z'
    if at[0] != 90 or get32(at + 1) != 5 or at[5] != 73:  # 'I'
        return SURPRISE
    return at + 6 - start


cdef inline bint _read_tag(const char *at, long size, StatementAnswer *found) noexcept nogil:
    """Read a command tag, ASCII with a NUL at its end; False if it is another one."""
    cdef long place
    cdef long long unit = 1
    if at[size] != 0:
        return False
    for place in range(size):
        if at[place] <= 0:
            return False
    found.tag = at
    found.tag_size = size
    found.told = -1
    place = size
    while place > 0 and c"0" <= at[place - 1] <= c"9":
        place -= 1
    if place == 0:
        return False
    if place == size or at[place - 1] != 32:
        return True  # its last word is no number
    if size - place > 15:
        return False
    found.told = 0
    while size > place:
        size -= 1
        found.told += (at[size] - c"0") * unit
        unit *= 10
    return True
