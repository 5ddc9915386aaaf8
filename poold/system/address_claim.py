"""The broker's claim on its address: one broker per address, and a stale socket is no obstacle.

A socket that a killed broker left has to be removed before the path can be bound again, and it looks like one in use: a
second broker would silently take the clients of the first. So the claim is a lock file beside the socket, locked for as
long as the broker lives; the kernel releases it even after kill -9. For tcp no lock is needed: the second bind fails.

A tcp address that other machines can reach is only for a broker with keys.
"""

import fcntl
import ipaddress
import logging
import os
import socket
import stat
from pathlib import Path
from typing import Self

from client.wire.address import ipc_path
from poold.system.safe_files import GROUP_FOLDER, OPEN_FOLDER, keeps_others_out, make_folder, open_own, remove_socket
from poold.system.succession import Estate

log = logging.getLogger(__name__)

# Modes of the socket's file: for the owner and its group, or for everybody if lists decide.
GROUP_SOCKET = 0o660
OPEN_SOCKET = 0o666


class AddressInUse(RuntimeError):
    """Another broker serves this address."""


class AddressClaim:
    """A context manager that holds the lock of an ipc address. For tcp it only checks that there are keys if needed.

    Entering raises AddressInUse, ValueError for tcp without the keys that it needs, and OSError.
    """

    def __init__(
        self,
        address: str,
        has_keys: bool = False,
        is_open: bool = False,
        has_socket: bool = False,
        estate: Estate | None = None,
    ) -> None:
        """Claim nothing yet.

        is_open: users outside this user's group may connect, so a folder that has to be made is open to them.
        has_socket: the socket is there already, and stays: whoever has opened it also removes it. estate: another
        broker leaves the claim, with the socket, to this one.
        """
        self._estate = estate
        self._is_own = estate is None
        self._address = address
        self._is_open = is_open
        self._has_keys = has_keys
        self._has_socket = has_socket
        self._path = ipc_path(address)
        self._lock: int | None = None

    def __enter__(self) -> Self:
        if self._path is None and not self._has_keys and not is_loopback(self._address):
            raise ValueError(open_network(self._address))
        if self._estate is not None:
            self._refuse_another_address(self._estate)
        if self._path is None:
            return self
        make_folder(self._path.parent, OPEN_FOLDER if self._is_open else GROUP_FOLDER)
        if self._is_open and (closed := keeps_others_out(self._path)) is not None:
            log.warning("users of allow_uids and allow_gids may be unable to enter a folder folder=%s", closed)
        if self._estate is not None:
            self._lock = self._estate.lock
            os.set_inheritable(self._lock, False)
        else:
            self._lock = self._take_lock(lock_path(self._path))
            _sign(self._lock)
            try:
                if not self._has_socket:
                    remove_socket(self._path)
            except OSError:
                self._release(self._path, self._lock)
                raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None and not self._is_own:
            self.leave()  # to the broker that goes on with it
        elif self._path is not None and self._lock is not None:
            if not self._has_socket:
                self._path.unlink(missing_ok=True)
            self._release(self._path, self._lock)

    @property
    def address(self) -> str:
        """The address that is claimed."""
        return self._address

    @property
    def is_managed(self) -> bool:
        """Whether the socket's file is somebody else's to remove."""
        return self._has_socket

    @property
    def is_own(self) -> bool:
        """Whether no other broker serves the address, until this one that gets its claim is ready."""
        return self._is_own

    def own(self) -> None:
        """Take note that the other broker, if there is one, leaves the address from here on."""
        if not self._is_own:
            self._is_own = True
            set_mode(self._address, self.mode)
            if self._lock is not None:
                _sign(self._lock)

    @property
    def mode(self) -> int | None:
        """The mode that the socket's file has to have; None if that is somebody else's to say, or there is none."""
        if self._path is None or self._has_socket:
            return None
        return OPEN_SOCKET if self._is_open else GROUP_SOCKET

    def exposure(self) -> str:
        """Say what is wrong with the mode of a socket that somebody else has made, "" if nothing is."""
        if self._path is None or not self._has_socket:
            return ""
        mode = stat.S_IMODE(self._path.stat().st_mode)
        lets_in = bool(mode & stat.S_IWOTH)
        if lets_in is self._is_open:
            return ""
        if lets_in:
            return (
                f"anybody on this machine may connect: {self._path} has mode {mode:04o}, and allow_uids and "
                "allow_gids are empty; set SocketMode=0660 in the socket unit, or list who may connect"
            )
        return (
            f"users of allow_uids and allow_gids may be unable to connect: {self._path} has mode {mode:04o}; set "
            "SocketMode=0666 in the socket unit"
        )

    @property
    def lock(self) -> int:
        """The descriptor of the lock; only an ipc address has one."""
        assert self._lock is not None
        return self._lock

    def leave(self) -> None:
        """Leave the claim, and the socket's file, to the broker that has been given both."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _refuse_another_address(self, estate: Estate) -> None:
        """Raise ValueError if what the other broker leaves is not the socket of this address."""
        with socket.socket(fileno=os.dup(estate.listener)) as listener:
            served = str(listener.getsockname())
        if self._path is None or os.path.realpath(self._path) != os.path.realpath(served):
            raise ValueError(
                f"address is {self._address}, and the broker serves ipc://{served}: a restart hands the socket over "
                f"and cannot change its address; use poold stop --address ipc://{served}, and then poold start"
            )
        if not self._path.is_socket():
            raise ValueError(
                f"{self._path} is gone or is no socket any more, so nobody can connect there; end the broker (process "
                f"{estate.pid}) by SIGTERM, and start it again with poold start"
            )

    def _release(self, path: Path, lock: int) -> None:
        # Removed while it is still locked; _take_lock notices if its file is no longer the one at the path.
        lock_path(path).unlink(missing_ok=True)
        os.close(lock)
        self._lock = None

    def _take_lock(self, path: Path) -> int:
        while True:
            lock = open_own(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(lock, 32, 0).decode().strip()
                os.close(lock)
                way = f"poold stop --address {self._address}"
                if self._path is not None and not self._path.exists():
                    # It begins, or somebody has removed the file: no command reaches it either way.
                    way = f"kill {holder or 'PROCESS'}, as there is no socket at that address yet, or any more"
                raise AddressInUse(
                    f"a broker (process {holder or 'unknown'}) already serves {self._address}; stop it with: {way}, or "
                    "choose another --address"
                ) from None
            try:
                is_current = os.fstat(lock).st_ino == path.stat().st_ino
            except FileNotFoundError:
                is_current = False
            if is_current:
                return lock
            os.close(lock)


def _sign(lock: int) -> None:
    """Write into the lock file whose it is."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def set_mode(address: str, mode: int | None) -> None:
    """Give the file of an address's socket this mode; None: it stays as it is."""
    path = ipc_path(address)
    if path is None or mode is None:
        return
    try:
        path.chmod(mode)
    except OSError as error:
        log.critical("mode of the socket not set path=%s mode=%s error=%s", path, f"{mode:04o}", error.strerror)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach a tcp address."""
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_network(address: str) -> str:
    """Say why a broker without keys may not use a tcp address that other machines can reach."""
    return (
        f"address {address!r} can be reached from other machines, and without keys tcp:// neither encrypts nor "
        "authenticates; make keys with `poold keygen` and set key_file and client_keys in [broker], or use "
        "tcp://127.0.0.1:PORT or ipc://"
    )


def lock_path(socket: Path) -> Path:
    """Return the lock file of a socket."""
    return socket.with_name(socket.name + ".lock")


def is_claimed(address: str) -> bool:
    """Whether a broker holds the address now, as far as this user can see.

    Always False for tcp, which leaves no trace in the file system, and for a lock that only its owner may read.
    """
    path = ipc_path(address)
    if path is None:
        return False
    try:
        lock = open_own(lock_path(path), os.O_RDONLY)
    except OSError:
        return False  # an admin who stops another user's broker waits for the end of its process instead
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
