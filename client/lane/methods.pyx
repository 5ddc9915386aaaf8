"""The methods that programs call most: compiled code first, then the Python code in whose place they are.

A call of a Python function costs as much as all that compiled code does for a request, so these are no Python functions
either. Each has the name, the text and the signature of the one that it calls if something is not usual.
"""

from functools import update_wrapper

from client.lane.records cimport PendingFields, ResultFields
from client.lane.requests cimport Lane
from client.lane.rows cimport all_rows, first_row
from client.lane.steps cimport Collector

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES

# The Python functions.
cdef object _query = None, _add = None, _fetchall = None, _fetchone = None, _result = None


def before_query(python):
    """Return what is to be Handler.query."""
    global _query
    _query = python
    return update_wrapper(query, python)


def before_add(python):
    """Return what is to be Transaction.query."""
    global _add
    _add = python
    return update_wrapper(add, python)


def before_fetchall(python):
    """Return what is to be Result.fetchall."""
    global _fetchall
    _fetchall = python
    return update_wrapper(fetchall, python)


def before_fetchone(python):
    """Return what is to be Result.fetchone."""
    global _fetchone
    _fetchone = python
    return update_wrapper(fetchone, python)


def before_result(python):
    """Return what is to be PendingResult.result."""
    global _result
    _result = python
    return update_wrapper(result, python)


def query(self, statement, params=None, timeout=None, *, prepare=None, priority=None, settings=None):
    if timeout is None and prepare is None and priority is None and settings is None:
        lane = self._lane
        if lane is not None:
            found = (<Lane?>lane).query(self, statement, params)
            if found is not None:
                return found
    return _query(self, statement, params, timeout, prepare=prepare, priority=priority, settings=settings)


def add(self, statement, params=None, expect=None, prepare=None):
    if expect is None and prepare is None:
        collector = self._collector
        if collector is not None:
            pending = (<Collector?>collector).add(statement, params)
            if pending is not None:
                return pending
    return _add(self, statement, params, expect, prepare)


def fetchall(self):
    rows = all_rows(<ResultFields?>self)
    return _fetchall(self) if rows is None else rows


def fetchone(self):
    row = first_row(<ResultFields?>self)
    return _fetchone(self) if row is None else row


def result(self):
    known = (<PendingFields?>self)._known
    return known if isinstance(known, ResultFields) else _result(self)
