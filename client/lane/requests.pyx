"""A Handler's usual requests from beginning to end: a statement and its parameters in, its Result out.

Nothing here has a meaning of its own. A request that is not usual, in any respect, is left to the Handler before a byte
of it is sent; a reply that is not usual is handed to the channel with all that has come, and with what was not sent.

Python's signal handlers run only where Python code is called: to convert a value, to find the free channels, and during
the exchange. As in `client.calls` a channel is nowhere to be found during its call, and an exception that leaves the
call closes it.
"""

import sys

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_Append, PyList_Size
from cpython.object cimport PyObject
from cpython.weakref cimport PyWeakref_GetObject, PyWeakref_NewRef
from libc.stdint cimport int64_t, uint8_t, uint64_t
from posix.unistd cimport getpid

from client.lane.exchange cimport exchange, is_silent, now
from client.lane.octets cimport (
    HEAD, Octets, begin, drop, more, put, put_array_head, put_bytes, put_number, write_frame_head,
)
from client.lane.parameters cimport Template, put_parameters, template_of
from client.lane.records cimport ChannelFields, PendingFields, ResultFields
from client.lane.replies cimport (
    Reader, open_message, read_array, read_nil, read_number, read_result, result_in,
)
from client.lane.steps cimport Collector

cdef extern from "Python.h":
    PyObject *PyList_GetItem(object, Py_ssize_t) except NULL
    unsigned long PyThread_get_thread_ident()
    int PyList_SetSlice(object, Py_ssize_t, Py_ssize_t, PyObject *) except -1

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES

cdef dict _modules = sys.modules
cdef str _API = "opentelemetry.trace"  # client.origins.API

cdef enum:
    LONGEST = 65535  # in bytes; longer requests are sent in two pieces
    TRANSACTION_RESULT_CODE = 68
    TRANSACTION_RESULT_FIELDS = 5

# client.channels' function that finds this thread's free channels, how many are kept, for how many seconds one is
# trusted, and what it takes over from here; client.values' Result.
cdef object _free_channels = None, _begun = None, _result_class = None
cdef dict _registry = None  # the names of the function's module, in which _settings are replaced if they change
cdef Py_ssize_t _free_kept = 0
cdef double _trusted_for = 0.0


def use(free_channels, Py_ssize_t free_kept, double trusted_for, begun, result_class):
    """Take what client.channels has, its function for the free channels and its limits, and the class of results."""
    global _free_channels, _free_kept, _trusted_for, _begun, _result_class, _registry
    _registry = free_channels.__globals__
    _free_channels, _free_kept, _trusted_for, _begun = free_channels, free_kept, trusted_for, begun
    _result_class = result_class


cdef class Lane:
    """The usual requests of one Handler.

    query is a Query without its request number, and without its statement, types and values: what comes before these
    and what comes behind, as encoded bytes. The forms of transactions are such pairs too; block is the usual one. dicts
    says whether rows are dicts, if a call does not. The free channels are a thread's; they are known here until another
    thread asks, or they are gone with their thread.
    """

    def __init__(self, str address not None, str group not None, query, tuple block not None, origin):
        """origin tells of each request where it comes from."""
        self._address, self._group, self._block_form = address, group, block
        self._query_before, self._query_behind = query
        self._origin = origin
        self._is_always = origin.code_place or origin.trace is True
        self._is_curious = origin.trace is None

    cdef bytes _origin_now(self):
        """Return where the request comes from; None if Python code has to send it, as its trace is recorded."""
        cdef bytes origin
        if not self._is_always:
            if not self._is_curious or PyDict_GetItemWithError(_modules, _API) == NULL:
                return b""
        origin = self._origin()
        if PyBytes_GET_SIZE(origin) and PyBytes_AS_STRING(origin)[PyBytes_GET_SIZE(origin) - 1] != 0:
            return None
        return origin

    cpdef query(self, calls, statement, params):
        """Return the statement's Result; None if it has to be sent by Python code, and nothing was sent here."""
        cdef Template template = template_of(statement, params)
        cdef Octets types, values, frame
        cdef uint8_t types_room[256]
        cdef uint8_t values_room[1024]
        cdef uint8_t frame_room[2048]
        cdef bytes origin
        if template is None:
            return None
        origin = self._origin_now()
        if origin is None:
            return None
        begin(&types, types_room, sizeof(types_room))
        begin(&values, values_room, sizeof(values_room))
        begin(&frame, frame_room, sizeof(frame_room))
        try:
            if not put_parameters(template, params, &types, &values) or calls._lease.number:
                return None
            free = self._free_channels()
            channel = self._taken(free, True)
            if channel is None:
                return None
            _put_head(&frame, self._query_before, channel)
            put(&frame, PyBytes_AS_STRING(template.packed), PyBytes_GET_SIZE(template.packed))
            put_bytes(&frame, types.data, types.size)
            put_bytes(&frame, values.data, values.size)
            _put_end(&frame, self._query_behind, origin)
            reply = self._asked(calls, channel, free, &frame, template, None)
            return reply if reply is None or type(reply) is _result_class else _result_class(reply)
        finally:
            drop(&types)
            drop(&values)
            drop(&frame)

    cpdef transaction(self, calls, Collector collector, tuple form):
        """Send a block; return how often it was run, or the reply that the channel's Python code got.

        In the first case the pending results have what they wait for. Returns None if nothing was sent. calls notes the
        notices of the reply.
        """
        cdef Octets frame
        cdef uint8_t frame_room[4096]
        cdef bytes steps = collector.packed_steps(), before, behind, origin
        before, behind = form
        if calls._lease.number:
            return None
        origin = self._origin_now()
        if origin is None:
            return None
        free = self._free_channels()
        channel = self._taken(free, False)
        if channel is None:
            return None
        begin(&frame, frame_room, sizeof(frame_room))
        try:
            _put_head(&frame, before, channel)
            put_bytes(&frame, PyBytes_AS_STRING(steps), PyBytes_GET_SIZE(steps))
            put_array_head(&frame, len(collector.pending))
            put(&frame, collector.values.data, collector.values.size)
            _put_end(&frame, behind, origin)
            reply = self._asked(calls, channel, free, &frame, None, collector)
            return reply if reply is None or type(reply) is int else calls._noted(reply)
        finally:
            drop(&frame)

    cdef _free_channels(self):
        """Return this thread's free channels, None if there never was one."""
        cdef unsigned long thread = PyThread_get_thread_ident()
        cdef PyObject *settings = PyDict_GetItemWithError(_registry, "_settings")
        cdef object free = None
        if self._thread == thread and self._free is not None and settings == <PyObject *>self._settings:
            free = <object>PyWeakref_GetObject(self._free)
        if free is None:
            free = _free_channels(self._address)
            self._thread, self._settings = thread, <object>settings
            self._free = None if free is None else PyWeakref_NewRef(free, None)
        return free

    cdef ChannelFields _taken(self, free, bint wants_autocommit):
        """Take a channel that can be used without further ado out of the free ones; None if none is there."""
        cdef ChannelFields channel
        cdef PyObject *autocommit
        cdef Py_ssize_t count
        if free is None:
            return None
        count = PyList_Size(free)
        if count == 0:
            return None
        last = <object>PyList_GetItem(free, count - 1)
        if not isinstance(last, ChannelFields):
            return None
        channel = <ChannelFields>last
        if channel._descriptor < 0 or channel._is_broken or channel._asked != channel._answered:
            return None
        if channel.pid != getpid():
            return None
        autocommit = PyDict_GetItemWithError(channel._groups, self._group)
        if autocommit == NULL or (wants_autocommit and <object>autocommit is not True):
            return None
        PyList_SetSlice(free, count - 1, count, NULL)
        if not channel._is_drained:
            channel._is_drained = channel._zmtp.is_drained
        if channel._is_drained:
            if now() - channel._heard <= _trusted_for:
                return channel
            if is_silent(channel):
                channel._heard = now()
                return channel
        PyList_Append(free, channel)
        return None

    cdef _asked(self, calls, ChannelFields channel, free, Octets *frame, Template template, Collector collector):
        """Send a request and return what came of it; the channel is free again then, if it can be."""
        cdef uint64_t request = channel._last_request
        cdef Py_ssize_t begin = write_frame_head(frame.data, frame.size - HEAD)
        cdef Py_ssize_t size = frame.size - begin, sent = 0, came
        cdef dict waiting = calls._calls
        cdef object mine = PyWeakref_NewRef(channel, None)
        if frame.size - HEAD > min(LONGEST, channel._max_request_bytes):
            PyList_Append(free, channel)
            return None
        waiting[mine] = request
        try:
            came = exchange(channel, request, frame.data + begin, size, &sent)
            if came > 0:
                if collector is None:
                    found = result_in(channel.room, came, request, template)
                else:
                    found = _results_in(channel.room, came, request, collector)
                if found is not None:
                    channel._heard = now()
                    channel._answered = request
                    if PyList_Size(free) < _free_kept:
                        PyList_Append(free, channel)
                    return found
            return calls._ask(
                channel,
                _begun(
                    request,
                    PyBytes_FromStringAndSize(<char *>frame.data + begin + sent, size - sent),
                    PyBytes_FromStringAndSize(<char *>channel.room, came) if came > 0 else None,
                ),
                None,
            )
        except BaseException as error:
            if channel._asked != channel._answered:
                channel.close()
            if channel.is_unserved(error):
                return None  # nothing has run; Python code sends it again
            raise
        finally:
            waiting.pop(mine, None)


cdef int _put_head(Octets *frame, bytes before, ChannelFields channel) except -1:
    """Put room for a frame's head, and the message as far as it is alike, with the channel's next request number."""
    frame.size = HEAD
    put(frame, PyBytes_AS_STRING(before), 2)  # how many fields, and the message's code
    channel._last_request += 1
    put_number(frame, channel._last_request)
    return put(frame, PyBytes_AS_STRING(before) + 2, PyBytes_GET_SIZE(before) - 2)


cdef int _put_end(Octets *frame, bytes behind, bytes origin) except -1:
    """Put what is behind the values, with this origin in the place of none, which is the last field, of two bytes."""
    if PyBytes_GET_SIZE(origin) == 0:
        return put(frame, PyBytes_AS_STRING(behind), PyBytes_GET_SIZE(behind))
    put(frame, PyBytes_AS_STRING(behind), PyBytes_GET_SIZE(behind) - 2)
    return put_bytes(frame, PyBytes_AS_STRING(origin), PyBytes_GET_SIZE(origin))


cdef object _results_in(const uint8_t *data, Py_ssize_t size, uint64_t request, Collector collector):
    """Give the pending results what they wait for and return how often the block was run; None if that is not usual."""
    cdef Reader reader
    cdef int64_t number, tries, step
    cdef Py_ssize_t count = len(collector.pending), place
    cdef list results
    cdef PendingFields pending
    if not open_message(data, size, &reader) or not read_array(&reader, 1 + TRANSACTION_RESULT_FIELDS):
        return None
    if not read_number(&reader, &number) or number != TRANSACTION_RESULT_CODE:
        return None
    if not read_number(&reader, &number) or number < 0 or <uint64_t>number != request:
        return None
    if not read_number(&reader, &tries) or not read_array(&reader, count):
        return None
    results = []
    for place in range(count):
        result = read_result(&reader, collector.node.templates[place])
        if result is None:
            return None
        results.append(result)
    if not read_nil(&reader) or not read_number(&reader, &step) or reader.at != reader.end:
        return None
    for place in range(count):
        pending = <PendingFields>collector.pending[place]
        (<ResultFields>results[place])._dicts = pending._dicts
        pending._known = results[place]
    return tries
