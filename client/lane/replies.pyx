"""Replies as they came, read as far as they are usual: results without notices, in one frame that is there as a whole.

It is what `client.wire.zmtp` and `client.wire.codec` make of the same bytes. What is read here may be cut off at any
byte and hold anything: each function says whether it has found what it wants, and never reads behind the end.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from client.lane.octets cimport HEAD, LONG, SHORT_HEAD, get16, get32, get64
from client.lane.parameters cimport Template
from client.lane.records cimport ResultFields, poold_new

cdef extern from *:
    object PyUnicode_FromStringAndSize(const char *, Py_ssize_t)
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES

cdef enum:
    RESULT_CODE = 65
    RESULT_FIELDS = 7
    LONGEST_COMMAND = 64

# The classes of results and of rows, and the iterator of no rows: client.values.result's.
cdef object _result_class = None, _row_class = None, _no_rows = None


def use(result_class, row_class, no_rows):
    """Take the classes of results and of rows, and the iterator of no rows."""
    global _result_class, _row_class, _no_rows
    if not issubclass(result_class, ResultFields):
        raise TypeError(f"{result_class!r} has not the fields of a result")
    _result_class, _row_class, _no_rows = result_class, row_class, no_rows


def result_of(bytes frame not None, uint64_t request):
    """Return the Result in a frame that answers this request; None if it is not usual."""
    return result_in(<const uint8_t *>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), request, None)


cdef ResultFields result_in(const uint8_t *data, Py_ssize_t size, uint64_t request, Template template):
    """Return the result in these bytes, if they are exactly the usual answer to this request; else None."""
    cdef Reader reader
    if not open_message(data, size, &reader) or not read_array(&reader, 1 + RESULT_FIELDS):
        return None
    if reader.at >= reader.end or reader.at[0] != RESULT_CODE:
        return None
    reader.at += 1
    if not _is_number(&reader, request):
        return None
    found = _read_fields(&reader, template)
    return found if reader.at == reader.end else None


cdef ResultFields read_result(Reader *reader, Template template):
    """Return the result whose fields come next as an array; None if it is not usual."""
    cdef int64_t request
    if not read_array(reader, RESULT_FIELDS) or not read_number(reader, &request):
        return None
    return _read_fields(reader, template)


cdef ResultFields _read_fields(Reader *reader, Template template):
    """Return the result whose fields behind the request's number come next."""
    cdef const uint8_t *state
    cdef const uint8_t *command
    cdef const uint8_t *columns = NULL
    cdef const uint8_t *rows
    cdef Py_ssize_t state_size, command_size, columns_size = 0, rows_size, place
    cdef int64_t rowcount
    cdef ResultFields made
    if not _read_text(reader, &state, &state_size) or state_size != 4 or memcmp(state, b"none", 4) != 0:
        return None
    if not _read_text(reader, &command, &command_size) or command_size > LONGEST_COMMAND:
        return None
    for place in range(command_size):
        if command[place] > 127:
            return None
    if not read_number(reader, &rowcount):
        return None
    if not read_nil(reader) and not _read_bytes(reader, &columns, &columns_size):
        return None
    if not _read_bytes(reader, &rows, &rows_size) or not read_array(reader, 0):
        return None
    made = <ResultFields>poold_new(_result_class, ())
    made.rowcount = made._count = rowcount
    made.statusmessage = PyUnicode_FromStringAndSize(<const char *>command, command_size)
    made.notices = ()
    made.arraysize = 1
    made._columns = None if columns == NULL else _columns_of(template, columns, columns_size)
    made._rows = PyBytes_FromStringAndSize(<const char *>rows, rows_size)
    made._ahead = _no_rows
    made._at = 0
    made._row = _row_class
    return made


cdef bytes _columns_of(Template template, const uint8_t *columns, Py_ssize_t size):
    """Return the columns; the object of the statement's last result, if they are the same."""
    cdef bytes last = None if template is None else template.columns
    if last is not None and len(last) == size and memcmp(PyBytes_AS_STRING(last), columns, size) == 0:
        return last
    last = PyBytes_FromStringAndSize(<const char *>columns, size)
    if template is not None:
        template.columns = last
    return last


# Pieces of a message. Each function takes its piece if that is what comes next.


cdef bint open_message(const uint8_t *data, Py_ssize_t size, Reader *reader) noexcept:
    """Begin with the message in these bytes, if they are exactly one frame of one message."""
    cdef Py_ssize_t head
    if size < 2:
        return False
    if data[0] == 0:
        head = SHORT_HEAD
        if size - head != data[1]:
            return False
    elif data[0] == LONG and size >= HEAD:
        head = HEAD
        if <uint64_t>(size - head) != get64(data + 1):
            return False
    else:
        return False
    reader.at, reader.end = data + head, data + size
    return True


cdef bint read_array(Reader *reader, Py_ssize_t count) noexcept:
    """Take the head of an array of so many items."""
    cdef const uint8_t *at = reader.at
    if count < 16:
        if at >= reader.end or at[0] != (0x90 | count):
            return False
        reader.at += 1
        return True
    if reader.end - at < 3 or at[0] != 0xDC or get16(at + 1) != count:
        return False
    reader.at += 3
    return True


cdef bint read_nil(Reader *reader) noexcept:
    """Take nil."""
    if reader.at >= reader.end or reader.at[0] != 0xC0:
        return False
    reader.at += 1
    return True


cdef bint read_number(Reader *reader, int64_t *number) noexcept:
    """Take a number, as msgpack packs one from -32 on."""
    cdef const uint8_t *at = reader.at
    cdef Py_ssize_t left = reader.end - at, size
    cdef uint8_t head
    if left < 1:
        return False
    head = at[0]
    size = 1
    if head < 0x80:
        number[0] = head
    elif head >= 0xE0:
        number[0] = <int64_t>head - 256
    elif head == 0xCC and left >= 2:
        number[0], size = at[1], 2
    elif head == 0xCD and left >= 3:
        number[0], size = get16(at + 1), 3
    elif head == 0xCE and left >= 5:
        number[0], size = get32(at + 1), 5
    elif head == 0xCF and left >= 9 and at[1] < 0x80:
        number[0], size = <int64_t>get64(at + 1), 9
    else:
        return False
    reader.at += size
    return True


cdef bint _is_number(Reader *reader, uint64_t wanted) noexcept:
    cdef int64_t number
    return read_number(reader, &number) and number >= 0 and <uint64_t>number == wanted


cdef bint _read_text(Reader *reader, const uint8_t **data, Py_ssize_t *size) noexcept:
    """Take a text of at most 255 bytes."""
    cdef const uint8_t *at = reader.at
    cdef Py_ssize_t left = reader.end - at, head, length
    if left < 1:
        return False
    if at[0] & 0xE0 == 0xA0:
        head, length = 1, at[0] & 0x1F
    elif at[0] == 0xD9 and left >= 2:
        head, length = 2, at[1]
    else:
        return False
    return _take(reader, head, length, data, size)


cdef bint _read_bytes(Reader *reader, const uint8_t **data, Py_ssize_t *size) noexcept:
    """Take bytes."""
    cdef const uint8_t *at = reader.at
    cdef Py_ssize_t left = reader.end - at, head, length
    if left < 2:
        return False
    if at[0] == 0xC4:
        head, length = 2, at[1]
    elif at[0] == 0xC5 and left >= 3:
        head, length = 3, get16(at + 1)
    elif at[0] == 0xC6 and left >= 5:
        head, length = 5, get32(at + 1)
    else:
        return False
    return _take(reader, head, length, data, size)


cdef bint _take(
    Reader *reader, Py_ssize_t head, Py_ssize_t length, const uint8_t **data, Py_ssize_t *size
) noexcept:
    """Take a piece of this length behind its head, if it is there as a whole."""
    if length > reader.end - reader.at - head:
        return False
    data[0], size[0] = reader.at + head, length
    reader.at += head + length
    return True
