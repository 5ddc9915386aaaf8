"""Values as their types and texts: the conversions of `client.values.bind`, to the very same bytes.

Values are converted as long as psycopg2 has its own adapter for their type. What only the adapter knows to convert is
left to bind, and rare types go through bind's own function for one value.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.datetime cimport (
    date_day, date_month, date_year, datetime_day, datetime_hour, datetime_microsecond, datetime_minute,
    datetime_month, datetime_second, datetime_tzinfo, datetime_year, import_datetime, time_hour, time_microsecond,
    time_minute, time_second, time_tzinfo, timedelta_days, timedelta_microseconds, timedelta_seconds,
)
from cpython.dict cimport PyDict_GetItemWithError
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.mem cimport PyMem_Free
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8String, PyUnicode_GET_LENGTH
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcpy, strlen

from client.lane.octets cimport Octets, more, put, set32

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

from psycopg2 import _psycopg, extensions, extras


cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object)
    const char *PyUnicode_DATA(object)
    char *PyOS_double_to_string(double, char, int, int, int *) except NULL
    const int Py_DTSF_ADD_DOT_0

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES

import_datetime()

cdef enum:
    # In characters, bytes and items; bind copies less often what is longer.
    LONGEST_TEXT = 32768
    LONGEST_LIST = 1000

# OIDs of types.
cdef enum:
    UNKNOWN = 0
    BOOL = 16
    BYTEA = 17
    INT8 = 20
    INT4 = 23
    FLOAT8 = 701
    DATE = 1082
    TIME = 1083
    TIMESTAMP = 1114
    TIMESTAMPTZ = 1184
    INTERVAL = 1186
    NUMERIC = 1700
    UUID_OID = 2950

# The types of values that are converted here: their place in _KEYS and _OWN_ADAPTERS.
cdef enum:
    A_NONE, A_BOOL, AN_INT, A_FLOAT, A_DECIMAL, A_STR, SOME_BYTES, A_DATE, A_TIME, A_DATETIME, A_TIMEDELTA, A_UUID

# By place: the type's key among psycopg2's adapters, and the adapter that psycopg2 itself has for it.
cdef tuple _KEYS, _OWN_ADAPTERS
_KEYS, _OWN_ADAPTERS = zip(*(
    ((kind, extensions.ISQLQuote), adapter)
    for kind, adapter in (
        (type(None), extensions.NoneAdapter),
        (bool, extensions.Boolean),
        (int, extensions.Int),
        (float, extensions.Float),
        (Decimal, _psycopg.Decimal),
        (str, extensions.QuotedString),
        (bytes, extensions.Binary),
        (date, extensions.DateFromPy),
        (time, extensions.TimeFromPy),
        (datetime, extensions.TimestampFromPy),
        (timedelta, extensions.IntervalFromPy),
        (UUID, extras.UUID_adapter),
    )
))
cdef object _adapters = extensions.adapters
# Of equal keys those that are there: the very objects are found without a comparison.
cdef dict _there = {key: key for key in _adapters}
_KEYS = tuple([_there.get(key, key) for key in _KEYS])
cdef object _date = date, _time = time, _datetime = datetime, _timedelta = timedelta, _decimal = Decimal, _uuid = UUID

# bind's function: a value's type and text, None if it has to be a literal.
cdef object _cell_of = None


def use(cell_of):
    """Take bind's function that returns a value's type and text, or None."""
    global _cell_of
    _cell_of = cell_of


cdef bint put_value(object value, Octets *types, Octets *values, uint32_t *checked) except -1:
    """Put a value's type and text; false if bind has to do it. checked has the bits of the adapters seen already."""
    cdef object kind = type(value)
    if kind is int:
        return _is_own(AN_INT, checked) and _put_int(value, types, values)
    if kind is str:
        return _is_own(A_STR, checked) and _put_str(value, types, values)
    if value is None:
        return _is_own(A_NONE, checked) and _put_cell(UNKNOWN, NULL, -1, types, values)
    if kind is bool:
        return _is_own(A_BOOL, checked) and _put_text(BOOL, "true" if value else "false", types, values)
    if kind is float:
        return _is_own(A_FLOAT, checked) and _put_float(value, types, values)
    if kind is _decimal:
        return _is_own(A_DECIMAL, checked) and _put_decimal(str(value), types, values)
    if kind is _datetime:
        return _is_own(A_DATETIME, checked) and _put_datetime(value, types, values)
    if kind is _date:
        return _is_own(A_DATE, checked) and _put_date(value, types, values)
    if kind is _time and time_tzinfo(value) is None:
        return _is_own(A_TIME, checked) and _put_time(value, types, values)
    if kind is _timedelta:
        return _is_own(A_TIMEDELTA, checked) and _put_timedelta(value, types, values)
    if kind is bytes:
        return _is_own(SOME_BYTES, checked) and _put_bytes(value, types, values)
    if kind is _uuid:
        return _is_own(A_UUID, checked) and _put_text(UUID_OID, str(value), types, values)
    if kind is list and len(<list>value) > LONGEST_LIST:
        return False
    cell = _cell_of(value)
    if cell is None:
        return False
    oid, text = cell
    put(types, PyBytes_AS_STRING(oid), PyBytes_GET_SIZE(oid))
    put(values, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return True


cdef bint _is_own(int place, uint32_t *checked) except -1:
    """Whether psycopg2 would convert values of this type by its own adapter."""
    cdef PyObject *found
    if not checked[0] & 1 << place:
        found = PyDict_GetItemWithError(_adapters, <object>_KEYS[place])
        if found == NULL or <object>found is not <object>_OWN_ADAPTERS[place]:
            return False
        checked[0] |= 1 << place
    return True


cdef bint _put_cell(uint32_t oid, const void *text, Py_ssize_t size, Octets *types, Octets *values) except -1:
    """Put a type and a text, or NULL if size is -1; return true."""
    cdef uint8_t *at = more(types, 4)
    set32(at, oid)
    types.size += 4
    at = more(values, 4 + size)
    set32(at, <uint32_t>size)
    values.size += 4
    if size > 0:
        memcpy(at + 4, text, size)
        values.size += size
    return True


cdef bint _put_text(uint32_t oid, str text, Octets *types, Octets *values) except -1:
    """Put a type and a text that is ASCII; return true."""
    return _put_cell(oid, PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text), types, values)


cdef bint _put_str(str value, Octets *types, Octets *values) except -1:
    cdef const char *text
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(value)
    cdef bytes encoded
    if size > LONGEST_TEXT:
        return False
    if PyUnicode_IS_ASCII(value):
        text = PyUnicode_DATA(value)
    else:
        try:
            encoded = PyUnicode_AsUTF8String(value)
        except UnicodeEncodeError:
            return False
        text, size = PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded)
    if memchr(text, 0, size) != NULL:
        return False
    return _put_cell(UNKNOWN, text, size, types, values)


cdef bint _put_int(object value, Octets *types, Octets *values) except -1:
    cdef int overflow = 0
    cdef int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow)
    cdef uint64_t rest
    cdef uint8_t text[24]
    cdef int at = sizeof(text)
    if overflow:
        return False
    rest = <uint64_t>number if number >= 0 else 0 - <uint64_t>number
    while True:
        at -= 1
        text[at] = <uint8_t>(48 + rest % 10)
        rest //= 10
        if rest == 0:
            break
    if number < 0:
        at -= 1
        text[at] = 45  # "-"
    return _put_cell(_int_type(number), text + at, sizeof(text) - at, types, values)


cdef uint32_t _int_type(int64_t number) noexcept:
    return INT4 if -2147483648 <= number <= 2147483647 else INT8


cdef bint _put_float(double value, Octets *types, Octets *values) except -1:
    """Put what repr writes; not -0.0, and by PostgreSQL's words what is no number."""
    cdef char *text
    if value != value:
        return _put_cell(FLOAT8, b"NaN", 3, types, values)
    if value - value != 0:
        return _put_text(FLOAT8, "Infinity" if value > 0 else "-Infinity", types, values)
    text = PyOS_double_to_string(value, b"r", 0, Py_DTSF_ADD_DOT_0, NULL)
    try:
        if value == 0 and text[0] == c"-":
            return False
        return _put_cell(NUMERIC, text, strlen(text), types, values)
    finally:
        PyMem_Free(text)


cdef bint _put_decimal(str text, Octets *types, Octets *values) except -1:
    """Put a Decimal's text: of an integer type if it is a whole number, as its literal would be."""
    cdef const char *at = PyUnicode_DATA(text)
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text), place
    cdef bint is_zero = True, is_whole = True
    cdef char letter
    for place in range(size):
        letter = at[place]
        if c"0" <= letter <= c"9":
            is_zero = is_zero and (letter == c"0")
        elif letter == c"E":
            is_whole = False
            break  # what follows is no part of the digits
        elif letter == c".":
            is_whole = False
        elif letter != c"-":
            return False  # NaN or Infinity
    if is_zero and at[0] == c"-":
        return False
    if not is_whole or size > 20:
        return _put_cell(NUMERIC, at, size, types, values)
    number = int(text)
    if -(2**63) <= number < 2**63:
        return _put_cell(_int_type(number), at, size, types, values)
    return _put_cell(NUMERIC, at, size, types, values)


cdef bint _put_bytes(bytes value, Octets *types, Octets *values) except -1:
    """Put a bytea in hexadecimal digits."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value), place
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(value)
    cdef const char *digits = b"0123456789abcdef"
    cdef uint8_t *at
    if size > LONGEST_TEXT:
        return False
    at = more(values, 6 + 2 * size)
    put(types, b"\0\0\0\x11", 4)
    set32(at, <uint32_t>(2 + 2 * size))
    at[4], at[5] = c"\\", c"x"
    for place in range(size):
        at[6 + 2 * place] = digits[data[place] >> 4]
        at[7 + 2 * place] = digits[data[place] & 15]
    values.size += 6 + 2 * size
    return True


cdef bint _put_date(object value, Octets *types, Octets *values) except -1:
    cdef char text[16]
    cdef int size = snprintf(text, sizeof(text), b"%04d-%02d-%02d", date_year(value), date_month(value),
                             date_day(value))
    return _put_cell(DATE, text, size, types, values)


cdef bint _put_time(object value, Octets *types, Octets *values) except -1:
    """Put a time without a zone, as its isoformat."""
    cdef char text[24]
    cdef int size = _time_of_day(text, time_hour(value), time_minute(value), time_second(value),
                                 time_microsecond(value))
    return _put_cell(TIME, text, size, types, values)


cdef bint _put_datetime(object value, Octets *types, Octets *values) except -1:
    cdef char text[40]
    cdef int size
    if datetime_tzinfo(value) is not None:
        return _put_text(TIMESTAMPTZ, value.isoformat(), types, values)
    size = snprintf(text, sizeof(text), b"%04d-%02d-%02dT", datetime_year(value), datetime_month(value),
                    datetime_day(value))
    size += _time_of_day(text + size, datetime_hour(value), datetime_minute(value), datetime_second(value),
                         datetime_microsecond(value))
    return _put_cell(TIMESTAMP, text, size, types, values)


cdef int _time_of_day(char *text, int hour, int minute, int second, int microsecond) noexcept:
    """Write a time in at most 16 bytes, as isoformat does; return its size."""
    if microsecond:
        return snprintf(text, 24, b"%02d:%02d:%02d.%06d", hour, minute, second, microsecond)
    return snprintf(text, 24, b"%02d:%02d:%02d", hour, minute, second)


cdef bint _put_timedelta(object value, Octets *types, Octets *values) except -1:
    cdef char text[64]
    cdef int size = snprintf(text, sizeof(text), b"%d days %d.%06d seconds", timedelta_days(value),
                             timedelta_seconds(value), timedelta_microseconds(value))
    return _put_cell(INTERVAL, text, size, types, values)
