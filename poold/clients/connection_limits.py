"""Who may connect over ipc://: by user and group, and by how many clients there are already.

Nobody can keep all others out by connecting again and again: beyond max_clients there is room for users who have few
connections, so for the administrator's `poold stats` as well.
"""

import os
import socket
import struct
from collections import Counter

from poold.config.current import CurrentConfig
from poold.config.descriptors import FEW_CLIENTS, RESERVED_CLIENTS, room
from poold.system import descriptors

# <asm-generic/socket.h>: all groups of the peer. Python has no name for it, and getsockopt takes at most so many bytes.
SO_PEERGROUPS = 59
GROUPS_BYTES = 1024


class ConnectionLimits:
    """Counts the connected clients, and says who may not connect."""

    def __init__(self, config: CurrentConfig) -> None:
        self._config = config
        self._count = 0
        self._by_user: Counter[int] = Counter()

    @property
    def limit(self) -> int:
        """How many clients there may be."""
        config = self._config
        return config.broker.max_clients or max(room(config.endpoints, config.groups), FEW_CLIENTS)

    def objection(self, connection: socket.socket, uid: int, gid: int) -> tuple[str, str] | None:
        """Return why this user may not connect another client, for the log and for the client; None if it may."""
        limit = self.limit
        is_few = self._by_user[uid] < min(FEW_CLIENTS, limit) and self._count < limit + RESERVED_CLIENTS
        if self._count >= limit and not is_few:
            if self._config.broker.max_clients:
                return "max_clients", f"it has {limit} clients already, see max_clients"
            return (
                "descriptors",
                f"it has {self._count} clients already, and descriptors for {limit}: {descriptors.WAYS}",
            )
        if descriptors.is_kept(connection.fileno()) and not is_few:
            return "descriptors", f"it has no descriptors left for more clients: {descriptors.WAYS}"
        if not self._is_allowed(connection, uid, gid):
            return "allow_uids, allow_gids", f"user {uid} is not allowed, see allow_uids and allow_gids"
        return None

    def enter(self, uid: int) -> None:
        """Count a client of this user that has come."""
        self._count += 1
        self._by_user[uid] += 1

    def leave(self, uid: int) -> None:
        """Count a client of this user that has gone."""
        self._count -= 1
        self._by_user[uid] -= 1
        if not self._by_user[uid]:
            del self._by_user[uid]

    def _is_allowed(self, connection: socket.socket, uid: int, gid: int) -> bool:
        """Whether this user may connect; without lists the mode of the socket file has already decided that."""
        config = self._config.broker
        if not config.allow_uids and not config.allow_gids:
            return True
        if uid in (0, os.getuid()) or uid in (*config.allow_uids, *config.admin_uids) or gid in config.allow_gids:
            return True
        if not config.allow_gids:
            return False
        try:
            packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
        except OSError:
            return False  # Linux before 4.13, or more than 256 groups
        return any(group in config.allow_gids for (group,) in struct.iter_unpack("I", packed))
