"""Messages whose lease, session and BEGIN do not go together: refused at once, and nothing of them is kept."""

import pytest
from world import World

from client.wire.limits import IN_SESSION, OPENS_SESSION
from client.wire.messages import Failure

NO_LEASE = "protocol", "has a lease number"


@pytest.mark.parametrize(
    ("group", "message", "expected"),
    [
        ("default", {"lease": 1}, ("transaction-lost", "had ended already")),
        ("default", {"begin": True}, NO_LEASE),
        ("default", {"session": OPENS_SESSION}, NO_LEASE),
        ("default", {"session": IN_SESSION}, NO_LEASE),
        ("default", {"lease": 1, "session": IN_SESSION}, ("transaction-lost", "had ended already")),
        ("tx", {"begin": True}, NO_LEASE),
        ("tx", {"session": OPENS_SESSION, "begin": True}, NO_LEASE),
        ("tx", {"lease": 1}, ("transaction-lost", "had ended already")),
    ],
)
def test_what_does_not_go_together_is_refused(group: str, message: dict[str, int], expected: tuple[str, str]) -> None:
    world = World()
    world.client()
    reply = world.reply_to(world.query(group=group, **message))  # type: ignore[arg-type]
    assert isinstance(reply, Failure)
    assert (reply.kind, reply.outcome) == (expected[0], "not executed")
    assert expected[1] in reply.message
    client = world.broker.clients[1]
    assert not client.requests
    assert not client.leases
    assert not world.broker.backends
