"""What an error leaves: its traceback must not keep a channel, and its connection, for the garbage collector."""

import contextlib
import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from client import DBConnectionError
from client.channels.channel import Channel
from client.errors import connection_error
from client.lease import ClientLease
from client.wire.messages import Rollback


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def fails() -> weakref.ref[Channel]:
    """A channel that is only in the frames of a call that its own error leaves."""
    channel: Any = Channel.__new__(Channel)
    channel._socket = SimpleNamespace(close=lambda: None)
    kept = weakref.ref(channel)
    with contextlib.suppress(DBConnectionError):
        raise channel._own(connection_error("gone"))
    assert channel.error is None
    return kept


def test_an_error_of_its_own_does_not_keep_a_channel() -> None:
    assert fails()() is None


def test_an_error_that_says_of_a_loss_is_known_as_long_as_somebody_has_it() -> None:
    lease = ClientLease("transaction", Rollback)
    lease.lose(is_in_doubt=True)
    error: DBConnectionError | None = lease.loss()
    assert lease.error is error
    error = None
    assert lease.error is None
