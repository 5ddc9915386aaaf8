"""Handlers on a fake channel, and psycopg2 as it was."""

from collections.abc import Iterator

import pytest
from fake_channel import ADDRESS, FakeChannel
from psycopg2 import extensions

from client import Handler, executor


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> FakeChannel:
    made = FakeChannel()
    monkeypatch.setattr(executor, "channel_to", lambda *_: made)
    return made


@pytest.fixture
def db(channel: FakeChannel) -> Handler:
    return Handler(address=ADDRESS)


@pytest.fixture
def registrations() -> Iterator[None]:
    """Takes back what a test registers with psycopg2: adapters and casters."""
    tables = extensions.adapters, extensions.string_types
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)
