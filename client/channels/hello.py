"""What a client says of itself when a conversation begins."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version

from client.wire.limits import MAX_NAME_CHARS
from client.wire.messages import VERSION, Hello

# The client's version. Looked up once, here: the look-up swallows exceptions, even a signal handler's.
try:
    _RELEASE = version("poold")
except PackageNotFoundError:
    _RELEASE = "0+unknown"


def hello(pid: int) -> Hello:
    """Return the first message of this process."""
    return Hello(VERSION, pid, _application_name(), _RELEASE)


def _application_name() -> str:
    """What `poold stats` shows for this client: the program's file name."""
    name = os.path.basename(sys.argv[0] if sys.argv else "")
    return os.fsencode(name).decode("utf-8", "replace")[:MAX_NAME_CHARS]
