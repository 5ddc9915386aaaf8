"""The fields of the objects that compiled and Python code both work on: channels, results, those not known yet, blocks.

The classes derived from these are in Python, and what the fields mean is said there. To compiled code a field is a
place in memory; through Python's attributes each would cost a look-up.
"""

from libc.stdlib cimport free

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES


cdef class ChannelFields:
    """Fields of `client.channels.channel.Channel`; room is for what it receives, if compiled code does."""

    def __dealloc__(self):
        free(self.room)


cdef class ResultFields:
    """Fields of `client.values.result.Result`."""


cdef class PendingFields:
    """Fields of `client.pending.PendingResult`."""


cdef class BlockFields:
    """Fields of `client.transaction.Transaction`."""
