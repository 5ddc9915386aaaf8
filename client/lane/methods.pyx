"""The methods that programs call most: compiled code first, then the Python code in whose place they are.

A call of a Python function costs as much as all that compiled code does for a request, so these are no Python functions
either. Each has the name, the text and the signature of the one that it calls if something is not usual.
"""

from functools import update_wrapper

from client.lane.records cimport BlockFields, PendingFields, ResultFields, poold_new
from client.lane.requests cimport Lane
from client.lane.rows cimport all_rows, first_row
from client.lane.steps cimport Collector

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES

# The Python functions, by their qualified names.
cdef dict _python = {}
# The class of transaction blocks, client.transaction's, and where a block stands.
cdef object _block_class = None, _new = None, _open = None, _ended = None


def before(kind, *names):
    """Put compiled functions in the place of these methods of a class."""
    for name in names:
        python = getattr(kind, name)
        _python[python.__qualname__] = python
        setattr(kind, name, update_wrapper(_compiled[python.__qualname__], python))


def use(block_class, new, open, ended):
    """Take the class of transaction blocks, and their phases."""
    global _block_class, _new, _open, _ended
    if not issubclass(block_class, BlockFields):
        raise TypeError(f"{block_class!r} has not the fields of a transaction block")
    _block_class, _new, _open, _ended = block_class, new, open, ended


def query(
    self, statement, params=None, timeout=None, *, prepare=None, priority=None, settings=None, read_only=None, rows=None
):
    if timeout is None and prepare is None and priority is None and settings is None and read_only is None:
        lane = self._lane
        if lane is not None and (rows is None or rows == "dict" or rows == "row"):
            found = (<Lane?>lane).query(self, statement, params)
            if found is not None:
                (<ResultFields>found)._dicts = (<Lane>lane).dicts if rows is None else rows == "dict"
                return found
    return _python["Executor.query"](
        self,
        statement,
        params,
        timeout,
        prepare=prepare,
        priority=priority,
        settings=settings,
        read_only=read_only,
        rows=rows,
    )


def transaction(self, **options):
    lane = self._lane
    if options or lane is None or self._lease.number:
        return _python["Handler.transaction"](self, **options)
    return _block(self, <Lane?>lane)


cdef _block(calls, Lane lane):
    """Return a new block with the usual options, as Transaction makes it."""
    cdef BlockFields made = <BlockFields>poold_new(_block_class, ())
    cdef Collector collector = Collector.__new__(Collector)
    made.tries = 0
    made._send = calls._send_transaction
    made._options = calls._usual_options
    made._prepare = calls._prepare
    made._dicts = lane.dicts
    made._phase = _new
    made._collector_to_be = collector
    collector.begin(lane, calls, lane._block_form, made._prepare, made._dicts)
    return made


def enter(self):
    cdef BlockFields block = <BlockFields?>self
    if block._phase is not _new or block._collector_to_be is None:
        return _python["Transaction.__enter__"](self)
    block._phase = _open
    block._collector = block._collector_to_be
    block._collector_to_be = None
    return self


def add(self, statement, params=None, expect=None, prepare=None):
    collector = (<BlockFields?>self)._collector
    if collector is not None and expect is None and prepare is None:
        pending = (<Collector?>collector).add(statement, params)
        if pending is not None:
            return pending
    return _python["Transaction.query"](self, statement, params, expect, prepare)


def leave(self, kind, error, trace):
    cdef BlockFields block = <BlockFields?>self
    collector = block._collector
    if collector is None or error is not None or not (<Collector?>collector).pending:
        return _python["Transaction.__exit__"](self, kind, error, trace)
    block._phase = _ended
    try:
        reply = (<Collector>collector).send()
    except BaseException as failure:
        self._fail(failure)
        raise
    if type(reply) is int:
        block.tries = reply
        block._collector = None
    else:
        self._run(reply)


cdef _known(pending):
    """Return the result of a statement in a block, or raise why there is none."""
    known = (<PendingFields?>pending)._known
    return known if isinstance(known, ResultFields) else _python["PendingResult.result"](pending)


cdef _all(result):
    rows = all_rows(<ResultFields?>result)
    return _python["Result.fetchall"](result) if rows is None else rows


cdef _first(result):
    row = first_row(<ResultFields?>result)
    return _python["Result.fetchone"](result) if row is None else row


def pending_result(self):
    return _known(self)


def pending_fetchall(self):
    return _all(_known(self))


def pending_fetchone(self):
    return _first(_known(self))


def fetchall(self):
    return _all(self)


def fetchone(self):
    return _first(self)


cdef dict _compiled = {
    "Executor.query": query,
    "Handler.transaction": transaction,
    "Transaction.__enter__": enter,
    "Transaction.query": add,
    "Transaction.__exit__": leave,
    "PendingResult.result": pending_result,
    "PendingResult.fetchall": pending_fetchall,
    "PendingResult.fetchone": pending_fetchone,
    "Result.fetchall": fetchall,
    "Result.fetchone": fetchone,
}
