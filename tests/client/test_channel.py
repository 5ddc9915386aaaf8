"""Channels to listeners that are no broker."""

import socket
import threading
from pathlib import Path

import pytest

from client.channels import channel
from client.channels.channel import Channel
from client.errors import DBConnectionError, ProtocolError


def answer_with(listener: socket.socket, data: bytes) -> threading.Thread:
    """Accept one connection, say this, and close it."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", DBConnectionError, "closed the connection before it said Welcome"),
        (b"\xff", DBConnectionError, "closed the connection before it said Welcome"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ProtocolError, "is it a poold broker"),
    ],
)
def test_a_listener_that_closes_or_speaks_otherwise_ends_the_wait_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, error: type[Exception], words: str
) -> None:
    # Whoever waits for this timeout never returns.
    monkeypatch.setattr(channel, "WELCOME_TIMEOUT", 3600.0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        thread = answer_with(listener, data)
        try:
            with pytest.raises(error, match=words):
                Channel(f"ipc://{tmp_path}/s")
        finally:
            thread.join()
