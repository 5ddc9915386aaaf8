"""What an older libpq lacks, and what is done instead."""

from collections.abc import Iterator
from typing import Any

import pytest

from poold.postgres import libpq


@pytest.fixture
def old_libpq(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As with a libpq before 17, built without OpenSSL."""

    class Old:
        PQsslInUse = staticmethod(lambda _: 0)

    monkeypatch.setattr(libpq, "_library", Old)
    for each in (libpq.has_async_cancel, libpq.has_openssl):
        each.cache_clear()
    yield
    for each in (libpq.has_async_cancel, libpq.has_openssl):
        each.cache_clear()


def test_the_libpq_of_psycopg2_binary_lacks_nothing() -> None:
    assert libpq.lacking() == []


@pytest.mark.usefixtures("old_libpq")
def test_what_is_lacking_is_told_with_what_is_done_instead() -> None:
    first, second = libpq.lacking()
    assert "PQcancelStart" in first
    assert "threads" in first
    assert "refused" in second


@pytest.mark.usefixtures("old_libpq")
def test_an_encrypted_connection_that_cannot_be_read_is_refused() -> None:
    class Connection:
        pgconn_ptr = 0

    connection: Any = Connection()
    with pytest.raises(libpq.LibpqError, match="poold version"):
        libpq.EncryptedSocket(connection)
