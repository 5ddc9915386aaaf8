"""The broker's claim on its address: one broker per address, a stale socket is no obstacle.

libzmq removes whatever socket is at an ipc path before it binds: a second broker would silently take the clients of the
first. So the claim is a lock file beside the socket, locked for as long as the broker lives, which the kernel releases
even after kill -9. A tcp address needs none: there the second bind fails.

A tcp address that other machines can reach is only for a broker with keys.
"""

import fcntl
import ipaddress
import os
import stat
from pathlib import Path
from typing import Self

from client.address import ipc_path, runtime_dir


class AddressInUse(RuntimeError):
    """Another broker serves this address."""


class AddressClaim:
    """The lock of an ipc address; a context manager that holds it. For tcp it only asks for keys where they are due."""

    def __init__(self, address: str, has_keys: bool = False) -> None:
        self._address = address
        self._has_keys = has_keys
        self._path = ipc_path(address)
        self._lock: int | None = None

    def __enter__(self) -> Self:
        if self._path is None and not self._has_keys and not is_loopback(self._address):
            raise ValueError(open_network(self._address))
        if self._path is not None:
            self._make_folder(self._path.parent)
            self._lock = self._take_lock(lock_path(self._path))
            self._path.unlink(missing_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._path is not None and self._lock is not None:
            self._path.unlink(missing_ok=True)
            # Removed while still locked; _take_lock notices a file that is no longer the one at the path.
            lock_path(self._path).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _make_folder(self, folder: Path) -> None:
        """Make the folder for this user only; an existing one in /tmp must not be somebody else's trap."""
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            found = folder.stat()
            if folder == runtime_dir() and (found.st_uid != os.getuid() or found.st_mode & stat.S_IWOTH):
                raise PermissionError(
                    f"{folder} belongs to user {found.st_uid} or is writable for everybody, so anybody could pose as "
                    "the broker there; remove it, or choose another --address"
                ) from None

    def _take_lock(self, path: Path) -> int:
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(lock, 32, 0).decode().strip()
                os.close(lock)
                raise AddressInUse(
                    f"a broker (process {holder or 'unknown'}) already serves {self._address}; stop it with: "
                    f"poold stop --address {self._address}, or choose another --address"
                ) from None
            try:
                is_current = os.fstat(lock).st_ino == path.stat().st_ino
            except FileNotFoundError:
                is_current = False
            if is_current:
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
                return lock
            os.close(lock)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach a tcp address."""
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_network(address: str) -> str:
    """Why a tcp address that other machines can reach is refused to a broker without keys."""
    return (
        f"address {address!r} can be reached from other machines, and without keys tcp:// neither encrypts nor "
        "authenticates; make keys with `poold keygen` and set key_file and client_keys in [broker], or use "
        "tcp://127.0.0.1:PORT or ipc://"
    )


def lock_path(socket: Path) -> Path:
    """The lock file of a socket."""
    return socket.with_name(socket.name + ".lock")


def is_claimed(address: str) -> bool:
    """Whether a broker holds the address now, as far as this user can see.

    Always False for tcp, which leaves no trace in the file system, and for a lock that only its owner may read.
    """
    path = ipc_path(address)
    if path is None:
        return False
    try:
        lock = os.open(lock_path(path), os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return False  # to somebody else, who may stop this broker all the same, its process tells
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
