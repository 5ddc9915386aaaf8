"""Other users of this machine who talk to a broker: processes that take another uid and send what the test tells."""

import os
import subprocess
import sys
from typing import Any, NamedTuple

import pytest
from brokers import Broker, Worker, run

from client.wire.codec import encode
from client.wire.messages import ToBroker

# No user of that number has to exist: the kernel tells numbers.
NOBODY = 65534
LISTED = 4242

only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")

# Everything is loaded before the change of user, who may not read what belongs to this one.
BECOME = """
import os, sys
import client.channels.permissions, client.handler
import poold.config.file, poold.config.permissions, poold.daemon, poold.embedded.config
import poold.operations.cli, poold.operations.detach, poold.operations.tables, poold.versions
from client.channels.channel import Channel
from client.errors import DBError
from client.wire.zmtp import frame

uid, _, gid = sys.argv[1].partition(":")
if int(uid) != os.getuid():
    os.setgroups([])
    os.setgid(int(gid or uid))
    os.setuid(int(uid))
"""
PROGRAM = """
try:
    channel = Channel(sys.argv[2])
except DBError as error:
    tell(str(error))
    sys.exit()
tell(channel.welcome.groups)
for line in sys.stdin:
    for message in line.split():
        channel._socket.sendall(frame(bytes.fromhex(message)))
    reply = channel.next_reply(time.monotonic() + 20)
    kind, text, body = (getattr(reply, name, None) for name in ("kind", "message", "body"))
    tell([type(reply).__name__, kind or "", text or "", body])
"""


class Reply(NamedTuple):
    """What came back, as far as tests look at it."""

    type: str  # the message's name
    kind: str  # of a Failure
    text: str  # of a Failure
    body: Any  # of an Answer


class Person:
    """One user with one connection. Where the broker refuses it, `groups` is the text of the error."""

    def __init__(self, broker: Broker, uid: int) -> None:
        broker.folder.chmod(0o755)
        self._worker = Worker(BECOME + PROGRAM, str(uid), broker.address)
        # The connection stands from here on.
        self.groups: dict[str, bool] | str = self._worker.hear()

    def send(self, *messages: ToBroker) -> Reply:
        """The next reply after these messages."""
        self._worker.say(" ".join(encode(message).hex() for message in messages))
        return Reply(*self._worker.hear())

    def close(self) -> None:
        self._worker.close()


def poold_as(uid: int, *arguments: str, gid: int | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command of the command line as another user, in a group of the same number if gid is None."""
    who = f"{uid}:{uid if gid is None else gid}"
    return run(sys.executable, "-c", BECOME + "poold.operations.cli.main(sys.argv[2:])", who, *arguments)
