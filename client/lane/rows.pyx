"""DataRows as Rows: what `client.values.casting` does cell by cell, for columns that psycopg2's own casters read.

A Reader takes rows as long as they are sound and each cell can be read. Where that ends it stops, and who reads the
next row by client.values.casting meets the error there.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError, PyDict_SetItem
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_SET_ITEM
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy

from client.lane.octets cimport get16, get32
from client.lane.records cimport ResultFields
from client.lane.texts cimport (
    ARRAY, BOOLEAN, DATE, FLOAT, NUMERIC, OTHER, TEXT, TIME, TIMESTAMP, TIMESTAMPTZ, WHOLE_NUMBER, value_of,
)

from psycopg2 import _psycopg, extensions

cdef extern from *:
    """
    /* A new tuple of this class, to be filled. */
    static PyObject *poold_new_row(PyObject *kind, Py_ssize_t width) {
        PyObject *row = ((PyTypeObject *)kind)->tp_alloc((PyTypeObject *)kind, width);
    #if PY_VERSION_HEX >= 0x030E0000
        if (row != NULL) ((PyTupleObject *)row)->ob_hash = -1; /* as tuple's own constructors do */
    #endif
        return row;
    }
    """
    object poold_new_row(object, Py_ssize_t)
    bint PyObject_IS_GC(object)
    void PyObject_GC_UnTrack(object)
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES

cdef enum:
    READERS_KEPT = 512
    ROW_HEAD = 7  # "D", length without it, number of cells
    DATA_ROW = 68

# What psycopg2's own casters make, by the casters' identity, because they cannot be hashed. Of those not named here it
# is only known that they are psycopg2's.
cdef dict _kinds = {
    id(found): OTHER
    for module in (_psycopg, extensions)
    for found in vars(module).values()
    if type(found) is type(extensions.UNICODE)
}
for _name, _kind in (
    ("INTEGER", WHOLE_NUMBER), ("LONGINTEGER", WHOLE_NUMBER), ("ROWID", WHOLE_NUMBER), ("FLOAT", FLOAT),
    ("DECIMAL", NUMERIC), ("STRING", TEXT), ("UNICODE", TEXT), ("BOOLEAN", BOOLEAN), ("DATE", DATE), ("TIME", TIME),
    ("DATETIME", TIMESTAMP), ("DATETIMETZ", TIMESTAMPTZ),
):
    _kinds[id(getattr(_psycopg, _name))] = _kind
    _kinds[id(getattr(_psycopg, f"{_name}ARRAY"))] = ARRAY + _kind
cdef dict _casters_by_oid = extensions.string_types
cdef object _caster_of_others = extensions.UNICODE

# The iterator of no rows: client.values.result's.
cdef object _no_rows = None
# Readers by columns, of Rows and of dicts; those whose casters were replaced stay until another one is kept.
cdef dict _readers = {}, _readers_of_dicts = {}


def use(no_rows):
    """Take the iterator of no rows."""
    global _no_rows
    _no_rows = no_rows


def keep(bytes columns not None, Reader reader not None):
    """Keep the reader for all results with these columns."""
    cdef dict readers = _readers if reader.names is None else _readers_of_dicts
    if len(readers) >= READERS_KEPT:
        readers.clear()
    readers[columns] = reader


cpdef reader_of(ResultFields result):
    """Return the reader that is kept for the result's columns, None if none is or psycopg2's casters have changed."""
    cdef PyObject *found
    if result is None:
        return None
    if result._reader is None:
        if type(result._columns) is not bytes or type(result._rows) is not bytes:
            return None
        found = PyDict_GetItemWithError(_readers_of_dicts if result._dicts else _readers, result._columns)
        if found == NULL or not (<Reader>found).is_current():
            return None
        result._reader = <object>found
    return result._reader


cpdef all_rows(ResultFields result):
    """Return all rows of a result of which none was read; None if that is not so, or they cannot be read here."""
    cdef Reader reader
    cdef Py_ssize_t size
    if result is None or result._ahead is not _no_rows or result._at != 0:
        return None
    reader = reader_of(result)
    if reader is None or not reader.is_own:
        return None
    size = PyBytes_GET_SIZE(result._rows)
    rows, at = reader.read(result._rows, 0, size, size)
    if at != size:
        return None
    result._at = at
    return rows


cpdef first_row(ResultFields result):
    """Return the first row of a result of which none was read; None if that is not so, or it cannot be read here."""
    cdef Reader reader
    if result is None or result._ahead is not _no_rows or result._at != 0:
        return None
    reader = reader_of(result)
    if reader is None or not reader.is_own:
        return None
    row = reader.row(result._rows, 0)
    if row is not None:
        result._at = 1 + <Py_ssize_t>get32(<const uint8_t *>PyBytes_AS_STRING(result._rows) + 1)
    return row


cdef class Reader:
    """Reads rows of some columns as long as psycopg2's casters for them are those that it has found.

    row_class is a class of tuples; with names a row is a dict with these keys instead. casters are
    client.values.casting's, for cells whose text is not plain, and cursor is what they are called with. What was found
    are psycopg2's casters by column, None if it has none. is_own is false if a program has registered one of them: then
    nothing can be read here.
    """

    def __init__(self, row_class, oids, casters, cursor, tuple names=None):
        cdef Py_ssize_t place
        if not issubclass(row_class, tuple):
            raise TypeError(f"a class of tuples is wanted, not {row_class!r}")
        self._row_class, self._cursor = row_class, cursor
        self._oids, self._casters = tuple(oids), tuple(casters)
        self._found = [_casters_by_oid.get(oid) for oid in self._oids]
        self._width = len(self._oids)
        if len(self._casters) != self._width:
            raise ValueError(f"{self._width} columns with {len(self._casters)} casters")
        if names is not None and len(names) != self._width:
            raise ValueError(f"{self._width} columns with {len(names)} names")
        self.names = names
        self.is_own = True
        PyMem_Free(self._kinds)
        self._kinds = <int *>PyMem_Malloc(max(1, self._width) * sizeof(int))
        if self._kinds == NULL:
            raise MemoryError
        for place, found in enumerate(self._found):
            kind = _kinds.get(id(_caster_of_others if found is None else found), -1)
            self._kinds[place] = kind
            self.is_own = self.is_own and kind >= 0

    def __dealloc__(self):
        PyMem_Free(self._kinds)

    cpdef bint is_current(self) except -1:
        """Whether psycopg2 would use the same casters still."""
        cdef Py_ssize_t place
        cdef PyObject *found
        for place in range(self._width):
            found = PyDict_GetItemWithError(_casters_by_oid, self._oids[place])
            if (<object>found if found != NULL else None) is not self._found[place]:
                return False
        return True

    cpdef row(self, bytes rows, Py_ssize_t at):
        """Return the row that begins at byte at; None if it is not sound or cannot be read."""
        if rows is None or not 0 <= at <= PyBytes_GET_SIZE(rows):
            return None
        return self._row(<const uint8_t *>PyBytes_AS_STRING(rows) + at, PyBytes_GET_SIZE(rows) - at)

    cpdef tuple read(self, bytes rows, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t most):
        """Return the rows between two bytes, as many as are in most bytes or one, and the byte behind them.

        There are fewer if one of them is not sound or cannot be read, and none if they do not end at byte end.
        """
        cdef const uint8_t *data
        cdef Py_ssize_t at = begin
        cdef list found = []
        if rows is None or not 0 <= begin <= end <= PyBytes_GET_SIZE(rows):
            return found, at
        data = <const uint8_t *>PyBytes_AS_STRING(rows)
        end = _end_of_block(data, begin, end, most)
        while at < end:
            row = self._row(data + at, end - at)
            if row is None:
                break
            found.append(row)
            at += 1 + <Py_ssize_t>get32(data + at + 1)
        return found, at

    cdef object _row(self, const uint8_t *row, Py_ssize_t size):
        """Return the row with which these bytes begin; None if it is not sound or cannot be read."""
        cdef const uint8_t *at = row + ROW_HEAD
        cdef const uint8_t *end
        cdef Py_ssize_t place = 0
        cdef int32_t length = 0
        cdef bint is_tracked = False
        if size < ROW_HEAD or row[0] != DATA_ROW or get16(row + 5) != self._width:
            return None
        end = row + 1 + get32(row + 1)
        if end - row > size:
            return None
        values = poold_new_row(self._row_class, self._width)
        try:
            for place in range(self._width):
                if end - at < 4:
                    return None
                length = <int32_t>get32(at)
                at += 4
                if length < 0:
                    value = None
                elif length > end - at:
                    return None
                else:
                    value = value_of(self._kinds[place], at, length)
                    if value is None:
                        value = self._cast(place, at, length)
                    at += length
                is_tracked = is_tracked or PyObject_IS_GC(value)
                Py_INCREF(value)
                PyTuple_SET_ITEM(values, place, value)
        except Exception as error:
            # A signal handler may have raised this, for which a caster may run code in Python. What a caster cannot
            # read it cannot read twice.
            try:
                self._cast(place, at, length)
            except type(error):
                return None
            raise error
        if not is_tracked:
            PyObject_GC_UnTrack(values)  # it refers to nothing that could refer to it, as of plain tuples Python finds out
        if at != end:
            return None
        return values if self.names is None else self._as_dict(values)

    cdef dict _as_dict(self, values):
        cdef dict made = {}
        cdef Py_ssize_t place
        for place in range(self._width):
            PyDict_SetItem(made, self.names[place], <object>PyTuple_GET_ITEM(values, place))
        return made

    cdef object _cast(self, Py_ssize_t place, const uint8_t *text, Py_ssize_t size):
        """Return the cell's value, by client.values.casting's caster."""
        return self._casters[place](PyBytes_FromStringAndSize(<const char *>text, size), self._cursor)


cdef Py_ssize_t _end_of_block(const uint8_t *data, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t most) noexcept:
    """Return the byte behind the rows that are in most bytes, or behind one; -1 if that is behind byte end."""
    cdef Py_ssize_t at = begin, behind
    while at < end:
        if end - at < 5:
            return -1
        behind = at + 1 + <Py_ssize_t>get32(data + at + 1)
        if behind > end:
            return -1
        if behind - begin > most and at > begin:
            return at
        at = behind
    return at


def payloads(bytes data not None, Py_ssize_t missing):
    """Return what the CopyData messages in data carry, and how many bytes of the last one are still to come.

    The twin of `client.values.copy_data.payloads`.
    """
    cdef const char *start = PyBytes_AS_STRING(data)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(data), at = 0, size = 0, left = missing, part
    while at < end:
        if not left:
            if at + 5 > end:
                raise ValueError("the data ends in the middle of a header")
            left = get32(start + at + 1) - 4
            if left < 0:
                raise ValueError("the data has a message of less than 4 bytes")
            at += 5
        part = min(left, end - at)
        size += part
        at += part
        left -= part
    cdef bytes found = PyBytes_FromStringAndSize(NULL, size)
    cdef char *to = PyBytes_AS_STRING(found)
    at, left = 0, missing
    while at < end:
        if not left:
            left = get32(start + at + 1) - 4
            at += 5
        part = min(left, end - at)
        memcpy(to, start + at, part)
        to += part
        at += part
        left -= part
    return found, left
