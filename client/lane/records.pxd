"""What `records` has for the other compiled modules."""

from libc.stdint cimport uint8_t, uint64_t

cdef extern from *:
    """
    /* A new object of this class, without its __init__. */
    static CYTHON_INLINE PyObject *poold_new(PyObject *kind, PyObject *nothing) {
        return ((PyTypeObject *)kind)->tp_new((PyTypeObject *)kind, nothing, NULL);
    }
    """
    object poold_new(object, tuple)


cdef class ChannelFields:
    cdef object __weakref__
    cdef public object address, welcome, _error, _socket, _zmtp, _groups
    cdef public long pid
    cdef public int _descriptor
    cdef public uint64_t _last_request, _asked, _answered
    cdef public bint _is_broken, _is_drained
    cdef public double _heard
    cdef public Py_ssize_t _max_request_bytes
    cdef uint8_t *room


cdef class ResultFields:
    cdef public object rowcount, statusmessage, notices, arraysize
    cdef public object _ahead, _at, _casters, _columns, _count, _reader, _row, _rows, _starts
    cdef public bint _dicts


cdef class PendingFields:
    cdef public object around, _known
    cdef public bint _dicts


cdef class BlockFields:
    cdef public object tries, _send, _options, _prepare, _phase, _collector, _collector_to_be
    cdef public object _steps, _statements, _savepoints, _open
    cdef public bint _dicts
