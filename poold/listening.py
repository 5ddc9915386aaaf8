"""The transport of the configured address; only the one that is needed is imported."""

from __future__ import annotations

import socket

from client.wire.address import ipc_path
from poold.clients.transport import Receiver, Transport
from poold.config.current import CurrentConfig
from poold.system.poller import Poller


def listening_transport(
    config: CurrentConfig, poller: Poller, listener: socket.socket | None, is_managed: bool, receiver: Receiver
) -> Transport:
    """Listen at the address; listener, if there is one, does already, and is_managed if it is somebody else's."""
    if ipc_path(config.broker.address) is not None:
        from poold.clients.ipc import IpcTransport

        return IpcTransport(config, receiver, poller, listener, is_managed)
    from poold.clients.tcp import TcpTransport

    return TcpTransport(config, receiver)
