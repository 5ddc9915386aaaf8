"""Handlers on a fake channel."""

import pytest
from fake_channel import ADDRESS, FakeChannel

from client import Handler, executor


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> FakeChannel:
    made = FakeChannel()
    monkeypatch.setattr(executor, "channel_to", lambda address, keys, patience=None: made)
    return made


@pytest.fixture
def db(channel: FakeChannel) -> Handler:
    return Handler(address=ADDRESS)
