"""The child of a fork lets go of its parent's connections, without a word to the broker.

It has copies of their descriptors, which would keep the connections open: the broker would not notice if the parent
died.
"""

import os
import weakref
from typing import Any

from client.interruptions import suppressed

# The sockets of this process by descriptor. A closed one stays until its descriptor is used again. The references have
# no callbacks, in which a signal handler's exception would be lost.
_sockets: dict[int, weakref.ref[Any]] = {}


def let_go_after_fork(socket: Any) -> None:
    """Close this socket in the child of a fork."""
    _sockets[socket.fileno()] = weakref.ref(socket)


def _after_fork_in_child() -> None:
    for found in list(_sockets.values()):
        socket = found()
        if socket is not None:
            with suppressed(OSError):
                socket.close()
    _sockets.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
