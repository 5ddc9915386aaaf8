"""A broker that answers by a script: on a real socket, so that compiled code takes part."""

import itertools
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from client.wire.codec import decode_request, encode
from client.wire.messages import VERSION, CancelRequest, Hello, Welcome
from client.wire.zmtp import SERVER, ZmtpConnection

# What is sent for a request: pieces that are sent one after the other. None ends the connection.
Answer = Callable[[Any], Iterable[bytes | None]]
GROUPS = {"default": True, "interactive": False}


class ScriptedBroker:
    """Takes connections, says Welcome, and answers each request with what `answer` gives for it."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        self.address = f"ipc://{folder}/b"
        self.answer = answer
        # What has come, as frames, and how many connections.
        self.frames: list[bytes] = []
        self.connections = 0
        # What was done is told to tests that wait for it.
        self.has_asked = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/b")
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """End all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self.end_connections()
        for thread in self._threads:
            thread.join()
        for each in (*self._open, self._listener):
            each.close()

    def end_connections(self) -> None:
        """End the connections that there are, and take others."""
        for each in self._open:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client was faster

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._talk(connection)
        except OSError:
            pass  # the client has gone

    def _talk(self, connection: socket.socket) -> None:
        zmtp = ZmtpConnection(1 << 26, SERVER)
        while True:
            connection.sendall(zmtp.outbox)
            zmtp.outbox.clear()
            while zmtp.inbox:
                payload = zmtp.inbox.popleft() or b""
                message = decode_request(payload)
                if isinstance(message, Hello):
                    connection.sendall(zmtp.encoded(encode(welcome())))
                elif not isinstance(message, CancelRequest):
                    self.frames.append(zmtp.encoded(payload))
                    self.has_asked.set()
                    for piece in self.answer(message):
                        if piece is None:
                            connection.shutdown(socket.SHUT_RDWR)
                            return
                        connection.sendall(piece)
            data = connection.recv(1 << 20)
            if not data:
                return
            zmtp.received(data)


def welcome() -> Welcome:
    return Welcome(VERSION, 1, "0", 1 << 24, 1 << 26, GROUPS, b"k" * 16)


@contextmanager
def scripted(folder: Path, answer: Answer) -> Iterator[ScriptedBroker]:
    """A broker as long as the block lasts."""
    made = ScriptedBroker(folder, answer)
    try:
        yield made
    finally:
        made.close()


def folders(within: Path) -> Iterator[Path]:
    """Folders of their own, one after the other."""
    for number in itertools.count():
        made = within / str(number)
        made.mkdir()
        yield made
