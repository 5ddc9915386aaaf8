"""Handlers on a fake channel."""

import pytest
from fake_channel import ADDRESS, FakeChannel

from client import Handler
from client import handler as handler_module


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> FakeChannel:
    made = FakeChannel()
    monkeypatch.setattr(handler_module, "channel_to", lambda address, keys, patience=None: made)
    return made


@pytest.fixture
def db(channel: FakeChannel) -> Handler:
    return Handler(address=ADDRESS)
