"""PostgreSQL's texts as Python's values, as psycopg2's own casters make them.

A text that is not written as PostgreSQL writes nearly all of its kind gives None, and so does one whose meaning needs
thought: infinity, a date before Christ, an array in an array. psycopg2's caster then makes the value, or the error. No
kind here has None for a value.
"""

from cpython.datetime cimport date_new, datetime_new, import_datetime, time_new, timedelta_new, timezone_new
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr, memcpy

from decimal import Decimal

cdef extern from "Python.h":
    object PyUnicode_FromStringAndSize(const char *, Py_ssize_t)

cdef extern from *:
    """
    static double poold_to_double(const char *text, char **end) { return PyOS_string_to_double(text, end, NULL); }
    """
    double poold_to_double(const char *, char **) except? -1.0
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES

import_datetime()

cdef enum:
    DIGITS_AT_MOST = 18  # fit into 64 bits in any case
    LONGEST_FLOAT = 32  # PostgreSQL writes 24 characters at most

cdef object _decimal = Decimal
# The zone of the last timestamp, and its offset in seconds: most have the same.
cdef object _zone = None
cdef int _zone_offset = -1


cdef object value_of(int kind, const uint8_t *text, Py_ssize_t size):
    """Return the value of this text; None if only psycopg2's caster knows it. May raise what the caster would."""
    if kind == WHOLE_NUMBER:
        return _whole_number(text, size)
    if kind == TEXT:
        return PyUnicode_DecodeUTF8(<const char *>text, size, NULL)
    if kind == NUMERIC:
        return _numeric(text, size)
    if kind == FLOAT:
        return _float(text, size)
    if kind == BOOLEAN:
        return _boolean(text, size)
    if kind == DATE:
        return _date(text, size)
    if kind == TIME:
        return _time(text, size)
    if kind == TIMESTAMP:
        return _timestamp(text, size, False)
    if kind == TIMESTAMPTZ:
        return _timestamp(text, size, True)
    if kind > ARRAY:
        return _array(kind - ARRAY, text, size)
    return None


cdef object _whole_number(const uint8_t *text, Py_ssize_t size):
    cdef int64_t number = 0
    cdef Py_ssize_t place = text[0] == c"-" if size else 0
    cdef bint is_negative = place
    if not 0 < size - place <= DIGITS_AT_MOST:
        return None
    if text[place] == c"0" and (size > 1):
        return None  # Python's own notation, by which psycopg2 reads numbers, knows no leading zeros
    while place < size:
        if not c"0" <= text[place] <= c"9":
            return None
        number = 10 * number + (text[place] - c"0")
        place += 1
    return -number if is_negative else number


cdef object _float(const uint8_t *text, Py_ssize_t size):
    cdef char copied[LONGEST_FLOAT + 1]
    cdef char *end
    cdef double value
    if not 0 < size <= LONGEST_FLOAT or not _is_number(text, size):
        return None
    memcpy(copied, text, size)
    copied[size] = 0
    value = poold_to_double(copied, &end)
    return value if end == copied + size else None


cdef object _numeric(const uint8_t *text, Py_ssize_t size):
    if not _is_number(text, size):
        return None
    return _decimal(PyUnicode_FromStringAndSize(<const char *>text, size))


cdef bint _is_number(const uint8_t *text, Py_ssize_t size) noexcept:
    """Whether it consists of a number's characters."""
    cdef Py_ssize_t place
    cdef uint8_t letter
    for place in range(size):
        letter = text[place]
        if not c"0" <= letter <= c"9" and letter not in (c".", c"-", c"e", c"+"):
            return False
    return size > 0


cdef object _boolean(const uint8_t *text, Py_ssize_t size):
    if size != 1:
        return None
    return True if text[0] == c"t" else False if text[0] == c"f" else None


# Dates and times, as DateStyle ISO has them.


cdef int _number(const uint8_t *text, int digits) noexcept:
    """Return the number with so many digits, -1 if it has others."""
    cdef int number = 0, place
    for place in range(digits):
        if not c"0" <= text[place] <= c"9":
            return -1
        number = 10 * number + (text[place] - c"0")
    return number


cdef struct Day:
    int year, month, day


cdef struct Moment:
    int hour, minute, second, microsecond
    Py_ssize_t size  # of its text


cdef bint _read_day(const uint8_t *text, Py_ssize_t size, Day *day) noexcept:
    """Read YYYY-MM-DD, with which the text begins; false if it does not."""
    if size < 10 or text[4] != c"-" or text[7] != c"-":
        return False
    day.year, day.month, day.day = _number(text, 4), _number(text + 5, 2), _number(text + 8, 2)
    return day.year > 0 and 0 < day.month <= 12 and 0 < day.day <= 31


cdef bint _read_moment(const uint8_t *text, Py_ssize_t size, Moment *moment) noexcept:
    """Read HH:MM:SS and at most six digits behind a point, with which the text begins; false if it does not."""
    cdef int digits = 0
    if size < 8 or text[2] != c":" or text[5] != c":":
        return False
    moment.hour, moment.minute, moment.second = _number(text, 2), _number(text + 3, 2), _number(text + 6, 2)
    moment.microsecond = 0
    moment.size = 8
    if size > 8 and text[8] == c".":
        moment.size = 9
        while moment.size < size and digits < 6 and c"0" <= text[moment.size] <= c"9":
            moment.microsecond = 10 * moment.microsecond + (text[moment.size] - c"0")
            moment.size += 1
            digits += 1
        if digits == 0:
            return False
        while digits < 6:
            moment.microsecond *= 10
            digits += 1
    return 0 <= moment.hour < 24 and 0 <= moment.minute < 60 and 0 <= moment.second < 60


cdef object _date(const uint8_t *text, Py_ssize_t size):
    cdef Day day
    if size != 10 or not _read_day(text, size, &day):
        return None
    return date_new(day.year, day.month, day.day)


cdef object _time(const uint8_t *text, Py_ssize_t size):
    cdef Moment moment
    if not _read_moment(text, size, &moment) or moment.size != size:
        return None
    return time_new(moment.hour, moment.minute, moment.second, moment.microsecond, None)


cdef object _timestamp(const uint8_t *text, Py_ssize_t size, bint has_zone):
    cdef Day day
    cdef Moment moment
    cdef object zone = None
    if not _read_day(text, size, &day) or size < 11 or text[10] != c" ":
        return None
    if not _read_moment(text + 11, size - 11, &moment):
        return None
    if has_zone:
        zone = _zone_of(text + 11 + moment.size, size - 11 - moment.size)
        if zone is None:
            return None
    elif moment.size != size - 11:
        return None
    return datetime_new(
        day.year, day.month, day.day, moment.hour, moment.minute, moment.second, moment.microsecond, zone
    )


cdef object _zone_of(const uint8_t *text, Py_ssize_t size):
    """Return the zone written as +HH, +HH:MM or +HH:MM:SS; None if it is not."""
    global _zone, _zone_offset
    cdef int hours, minutes = 0, seconds = 0, offset
    if size not in (3, 6, 9) or text[0] not in (c"+", c"-"):
        return None
    hours = _number(text + 1, 2)
    if size > 3:
        minutes = _number(text + 4, 2) if text[3] == c":" else -1
    if size > 6:
        seconds = _number(text + 7, 2) if text[6] == c":" else -1
    if not 0 <= hours < 24 or minutes < 0 or minutes > 59 or seconds < 0 or seconds > 59:
        return None
    offset = 3600 * hours + 60 * minutes + seconds
    if text[0] == c"-":
        offset = -offset
    if _zone is None or offset != _zone_offset:
        _zone = timezone_new(timedelta_new(0, offset, 0), None)
        _zone_offset = offset
    return _zone


# Arrays.


cdef object _array(int kind, const uint8_t *text, Py_ssize_t size):
    """Return the items of an array of one dimension in which nothing is quoted."""
    cdef const uint8_t *at = text + 1
    cdef const uint8_t *stop = text + size - 1
    cdef const uint8_t *end
    cdef Py_ssize_t place
    cdef list items = []
    if size < 2 or text[0] != c"{" or stop[0] != c"}":
        return None
    for place in range(1, size - 1):
        if text[place] in (c'"', c"\\", c"{", c"}"):
            return None
    while at < stop:
        end = <const uint8_t *>memchr(at, c",", stop - at)
        if end == NULL:
            end = stop
        elif end + 1 == stop:
            return None
        if end == at:
            return None
        if end - at == 4 and at[0] | 32 == c"n" and at[1] | 32 == c"u" and at[2] | 32 == c"l" and at[3] | 32 == c"l":
            items.append(None)
        else:
            item = value_of(kind, at, end - at)
            if item is None:
                return None
            items.append(item)
        at = end + 1
    return items
