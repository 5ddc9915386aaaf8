"""The few functions of libpq, and of its OpenSSL, that psycopg2 does not offer: through `pgconn_ptr`, by ctypes.

psycopg2 opens and authenticates a connection; from then on the broker speaks on its socket by itself
(`poold.postgres.wire`). From libpq it then needs only a cancel that does not block, and the bytes of a connection that
is encrypted. The symbols are looked up in psycopg2's own extension module, so they are those of the libpq that psycopg2
brought along, and of the OpenSSL that this libpq uses.

If this libpq has no PQcancelStart (before 17), psycopg2's blocking cancel is used, in a thread.
"""

from __future__ import annotations

import asyncio
import ctypes
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_char_p, c_int, c_void_p
from functools import cache
from typing import Any

from psycopg2 import _psycopg, extensions

from poold.system import descriptors

# PostgresPollingStatusType; libpq-fe.h.
_POLLING_FAILED, _POLLING_READING, _POLLING_WRITING, _POLLING_OK = range(4)
# SSL_get_error's answers; https://docs.openssl.org/master/man3/SSL_get_error/
_SSL_ERROR_SSL, _SSL_WANT_READ, _SSL_WANT_WRITE, _SSL_ERROR_SYSCALL, _SSL_ZERO_RETURN = 1, 2, 3, 5, 6

_CANCEL = {
    # https://www.postgresql.org/docs/current/libpq-cancel.html
    "PQcancelCreate": ([c_void_p], c_void_p),  # NULL only without memory
    "PQcancelStart": ([c_void_p], c_int),  # 0: PQcancelErrorMessage says why
    "PQcancelPoll": ([c_void_p], c_int),  # PostgresPollingStatusType
    "PQcancelSocket": ([c_void_p], c_int),  # -1: none
    "PQcancelErrorMessage": ([c_void_p], c_char_p),
    "PQcancelFinish": ([c_void_p], None),
}
_ENCRYPTION = {
    # https://www.postgresql.org/docs/current/libpq-status.html
    "PQsslInUse": ([c_void_p], c_int),
    "PQsslStruct": ([c_void_p, c_char_p], c_void_p),  # NULL: not encrypted, or not by this library
}
_TEXT = {
    # Not in the manual (https://www.postgresql.org/docs/current/libpq-misc.html); libpq-fe.h: columns of a character
    "PQdsplen": ([c_char_p, c_int], c_int),  # 0 for one that combines, -1 for a control character
}
_UTF8 = 6  # PG_UTF8; include/mb/pg_wchar.h
_OPENSSL = {
    # https://docs.openssl.org/master/man3/SSL_read/, SSL_write: <= 0; then SSL_get_error says why
    "SSL_read": ([c_void_p, c_void_p, c_int], c_int),
    "SSL_write": ([c_void_p, c_char_p, c_int], c_int),
    "SSL_get_error": ([c_void_p, c_int], c_int),
    # https://docs.openssl.org/master/man3/SSL_pending/: bytes of a record that was read and not returned yet
    "SSL_pending": ([c_void_p], c_int),
    # https://docs.openssl.org/master/man3/ERR_clear_error/
    "ERR_clear_error": ([], None),
}
# The most that one record of TLS holds; RFC 8446, section 5.1.
RECORD_BYTES = 16384


class LibpqError(Exception):
    """A function failed; the text is libpq's."""


@cache
def _library() -> Any:
    # PyDLL keeps the GIL: none of these blocks, and a connection is used by one thread.
    library = ctypes.PyDLL(_psycopg.__file__)
    for name, (arguments, result) in {**_CANCEL, **_ENCRYPTION, **_OPENSSL, **_TEXT}.items():
        function = getattr(library, name, None)
        if function is not None:
            function.argtypes = arguments
            function.restype = result
    return library


def _has(names: dict[str, Any]) -> bool:
    return all(hasattr(_library(), name) for name in names)


@cache
def has_async_cancel() -> bool:
    """Whether cancels run in the event loop; otherwise each takes a thread for as long as the server needs."""
    return _has(_CANCEL)


@cache
def has_openssl() -> bool:
    """Whether encrypted connections can be read and written; otherwise they are refused."""
    return _has(_ENCRYPTION) and _has(_OPENSSL)


def lacking() -> list[str]:
    """Return what this libpq does not have, and what is done instead, for `poold version`."""
    found = []
    if not has_async_cancel():
        found.append(f"libpq {extensions.libpq_version()} has no PQcancelStart: cancels run in threads")
    if not has_openssl():
        found.append("psycopg2's libpq shows no OpenSSL: encrypted connections to PostgreSQL are refused")
    return found


def columns(text: str) -> int:
    """Return how many columns the text has on a terminal according to libpq; each character has at least one.

    libpq's tables are those of one version of Unicode, Python's those of another, so libpq itself is asked.
    """
    if text.isascii():
        return len(text)
    width = _library().PQdsplen
    return sum(max(1, width(c.encode("utf-8", "replace"), _UTF8)) for c in text)


def is_encrypted(connection: Any) -> bool:
    """Whether this psycopg2 connection is encrypted."""
    return hasattr(_library(), "PQsslInUse") and bool(_library().PQsslInUse(connection.pgconn_ptr))


async def cancel(connection: Any, threads: ThreadPoolExecutor) -> None:
    """Ask the server to cancel what the connection runs; return when the server has taken the request.

    Raises LibpqError, or psycopg2.Error if psycopg2's own cancel is used.
    """
    loop = asyncio.get_running_loop()
    if not has_async_cancel():
        await loop.run_in_executor(threads, connection.cancel)
        return
    library = _library()
    handle = library.PQcancelCreate(connection.pgconn_ptr)
    if not handle:
        raise LibpqError("out of memory")
    try:
        status = _POLLING_WRITING if library.PQcancelStart(handle) else _POLLING_FAILED
        while status in (_POLLING_READING, _POLLING_WRITING):
            if descriptors.is_kept(library.PQcancelSocket(handle), descriptors.LAST):
                raise LibpqError(f"no descriptor is left for another cancel; {descriptors.WAYS}")
            await _ready(library.PQcancelSocket(handle), status)
            status = library.PQcancelPoll(handle)
        if status == _POLLING_FAILED:
            raise LibpqError(library.PQcancelErrorMessage(handle).decode("utf-8", "replace").strip())
    finally:
        library.PQcancelFinish(handle)


async def _ready(descriptor: int, status: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    is_reading = status == _POLLING_READING
    add, remove = (loop.add_reader, loop.remove_reader) if is_reading else (loop.add_writer, loop.remove_writer)
    add(descriptor, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(descriptor)


class EncryptedSocket:
    """recv and send of a non-blocking socket, through the OpenSSL object of a libpq connection.

    They raise BlockingIOError if nothing can be read or written now, and OSError if the connection is broken. recv
    returns b"" at its end.

    Facts about OpenSSL that shape this class:
    - SSL_get_error looks into the thread's queue of errors first, whichever connection they belong to: an error left
      by another connection's failed handshake would be taken for this one's. So the queue is emptied before each call.
    - SSL_write reports that nothing was sent until all is sent. But statements in the records that were sent may have
      run, and they count as not executed only if nothing was sent. So each record is a write of its own.
    - A write that blocked has to be repeated with the same bytes, or these and more; libpq has set
      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, so they may be at another address.
    """

    def __init__(self, connection: Any) -> None:
        self._library = _library()
        self._ssl = self._library.PQsslStruct(connection.pgconn_ptr, b"OpenSSL") if has_openssl() else None
        if not self._ssl:
            raise LibpqError("this connection's encryption cannot be reached; see poold version")
        self._buffer = ctypes.create_string_buffer(0)

    def recv(self, size: int) -> bytes:
        """Return received bytes, at most size. Call again while `pending`: no event comes for what OpenSSL holds."""
        if len(self._buffer) != size:
            self._buffer = ctypes.create_string_buffer(size)
        library, received = self._library, 0
        while received < size:  # each SSL_read gives one record at most
            library.ERR_clear_error()
            count = library.SSL_read(self._ssl, ctypes.byref(self._buffer, received), size - received)
            if count > 0:
                received += count
                continue
            reason = library.SSL_get_error(self._ssl, count)
            if received:
                break  # if it broke or ended, the next call says so
            if reason in (_SSL_WANT_READ, _SSL_WANT_WRITE):
                raise BlockingIOError
            if reason == _SSL_ZERO_RETURN:
                return b""
            raise ConnectionResetError(_broke(reason))
        return ctypes.string_at(self._buffer, received)

    def pending(self) -> bool:
        """Whether OpenSSL holds bytes that recv would return."""
        return bool(self._library.SSL_pending(self._ssl))

    def send(self, data: bytes | memoryview) -> int:
        """Send what can be sent; returns how many bytes that were."""
        sent = 0
        while sent < len(data):
            record = bytes(data[sent : sent + RECORD_BYTES])  # all of it, uncopied, if it is short
            self._library.ERR_clear_error()
            count = int(self._library.SSL_write(self._ssl, record, len(record)))
            if count > 0:
                sent += count
                continue
            reason = self._library.SSL_get_error(self._ssl, count)
            if sent:
                break  # if it broke, the next call says so
            if reason in (_SSL_WANT_READ, _SSL_WANT_WRITE):
                raise BlockingIOError
            raise BrokenPipeError(_broke(reason))
        return sent

    def detach(self) -> int:
        """Do nothing and return -1: the descriptor belongs to libpq."""
        return -1


def _broke(reason: int) -> str:
    """Return the error text for an answer of SSL_get_error."""
    words = {_SSL_ERROR_SSL: "a protocol error, or an end without a word", _SSL_ERROR_SYSCALL: "the network failed"}
    return f"the encrypted connection broke: {words.get(reason, f'SSL_get_error says {reason}')}"
