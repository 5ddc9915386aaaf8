"""What clients cost a broker that do nothing: its memory for each, and its processor time for others' requests.

    PYTHONPATH=scripts .venv/bin/python scripts/benchmark/idle.py [CLIENTS]

Each client has shaken hands, said Hello, and asked once. The broker has no PostgreSQL: its group opens backends when
they are asked for. A ping passes the whole way of a request but for the backend.
"""

import resource
import socket
import sys
import tempfile
from pathlib import Path

from benchmark.broker import Broker
from benchmark.memory import KIB_PER_MB, OWN, anonymous_mb
from benchmark.processor import seconds
from benchmark.service import Service
from client.channels.channel import Channel
from client.wire.codec import encode
from client.wire.messages import VERSION, Ask, Hello
from client.wire.zmtp import ZmtpConnection

CLIENTS = 10_000
PINGS = 5_000
CONFIG = """\
[broker]
address = "{address}"

[endpoints.nobody]
host = "{folder}"
user = "nobody"
dbname = "nobody"

[groups.default]
min_size = 0
"""
RECEIVE_BYTES = 65536
MAX_REPLY_BYTES = 1024 * 1024


def idle_client(path: str) -> socket.socket:
    """A connection that has had an answer."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    zmtp = ZmtpConnection(MAX_REPLY_BYTES)
    while not zmtp.is_ready:
        connection.sendall(zmtp.outbox)
        zmtp.outbox.clear()
        zmtp.received(connection.recv(RECEIVE_BYTES))
    connection.sendall(zmtp.outbox)  # our READY
    for message in (Hello(VERSION, 1, "idle", "0"), Ask(1, "ping")):
        connection.sendall(zmtp.encoded(encode(message)))
        while not zmtp.inbox:
            zmtp.received(connection.recv(RECEIVE_BYTES))
        zmtp.inbox.clear()
    return connection


def ping_microseconds(channel: Channel, pid: int) -> float:
    """The broker's processor time for one ping."""
    before = seconds([pid])
    for _ in range(PINGS):
        channel.call(Ask(channel.next_request(), "ping"))
    return (seconds([pid]) - before) / PINGS * 1e6


def main() -> None:
    """Show both, without the clients and with them."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CLIENTS
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="poold-idle-", dir="/tmp") as name:
        folder = Path(name)
        config = folder / "poold.toml"
        path = folder / "poold.sock"
        config.write_text(CONFIG.format(address=f"ipc://{path}", folder=folder))
        broker = Service("the broker", Broker.poold("start", "--config", str(config)), folder / "log", {})
        try:
            broker.start(path.exists)  # bound and listening within one turn
            channel = Channel(f"ipc://{path}")
            ping_microseconds(channel, broker.pid)  # warm
            ping, memory = ping_microseconds(channel, broker.pid), anonymous_mb([broker.pid], OWN)
            clients = [idle_client(str(path)) for _ in range(count)]
            growth = anonymous_mb([broker.pid], OWN) - memory
            print(f"{count} idle clients: {growth * KIB_PER_MB / count:.2f} KiB of the broker's memory each")
            print(
                f"a ping: {ping:.1f} us of the broker without them, {ping_microseconds(channel, broker.pid):.1f} with"
            )
            channel.close()
            for client in clients:
                client.close()
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
