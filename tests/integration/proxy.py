"""A network that fails when the test says so: a TCP proxy between a broker and its PostgreSQL."""

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import Any, Self

from postgres import Postgres

CHUNK = 65536


class Proxy:
    """Passes on what goes between the broker and the server, until `hold` keeps the answers and `cut` ends it all."""

    def __init__(self, server: Postgres) -> None:
        self.target = server
        self.answered = 0  # bytes passed on from the server
        self._listener = socket.create_server(("127.0.0.1", 0))
        # All open connections, each end with the other one; the broker's ends are among _brokers as well.
        self._other: dict[socket.socket, socket.socket] = {}
        self._brokers: set[socket.socket] = set()
        # What the test wants, carried out between two waits of the thread.
        self._is_holding = self._is_cutting = self._is_ending = False
        self._settled = threading.Event()
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of the server, by way of the proxy."""
        port = self._listener.getsockname()[1]
        return {**self.target.parameters, "host": "127.0.0.1", "port": port, "sslmode": "disable"}

    def hold(self) -> None:
        """Keep what the server answers from now on."""
        self._is_holding = True
        self._settle()

    def cut(self, target: Postgres | None = None) -> None:
        """Break all connections; new ones go through again, to another server where one is given."""
        self.target = target or self.target
        self._is_holding, self._is_cutting = False, True
        self._settle()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ending = True
        self._waker.send(b"!")
        self._thread.join()
        for each in (*self._other, self._listener, self._wake, self._waker):
            each.close()

    def _settle(self) -> None:
        self._settled.clear()
        self._waker.send(b"!")
        assert self._settled.wait(10), "the proxy's thread has ended"

    def _run(self) -> None:
        while not self._is_ending:
            sources = self._brokers if self._is_holding else self._other
            ready, _, _ = select.select([self._wake, self._listener, *sources], [], [])
            if self._wake in ready:
                self._wake.recv(CHUNK)
                for end in [*self._brokers] if self._is_cutting else []:
                    self._close(end)
                self._is_cutting = False
                self._settled.set()
                continue
            for source in ready:
                if source is self._listener:
                    self._accept()
                elif source in self._other:
                    self._pass_on(source)

    def _accept(self) -> None:
        broker, _ = self._listener.accept()
        host, port = str(self.target.parameters["host"]), self.target.parameters["port"]
        try:
            server = socket.create_connection(("127.0.0.1" if host.startswith("/") else host, port))
        except OSError:
            broker.close()
            return
        self._brokers.add(broker)
        self._other[broker], self._other[server] = server, broker

    def _pass_on(self, source: socket.socket) -> None:
        try:
            data = source.recv(CHUNK)
            self._other[source].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._close(source)
        elif source not in self._brokers:
            self.answered += len(data)

    def _close(self, end: socket.socket) -> None:
        for each in (end, self._other[end]):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
            self._other.pop(each, None)
            self._brokers.discard(each)
