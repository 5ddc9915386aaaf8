"""The broker's address: the default, and the forms that an address may have.

Broker and client ask this module, so both find the same default without any setting. It depends on the user and on the
file system only, never on the environment: a worker started by cron sees other variables than a login shell does.
"""

import os
import stat
from pathlib import Path

from client.interruptions import is_own

# sockaddr_un.sun_path holds 108 bytes including the closing NUL (man 7 unix).
IPC_PATH_LIMIT = 107


def runtime_dir() -> Path:
    """The per-user folder for the broker's socket, lock and log. It may not exist yet."""
    uid = os.getuid()
    if uid == 0:
        return Path("/run/poold")
    login = Path(f"/run/user/{uid}")
    if login.is_dir():
        return login / "poold"
    return Path(f"/tmp/poold-{uid}")


def folder_trap(folder: Path) -> str | None:
    """Say why somebody else could pose as the broker in the default folder; None if nobody can.

    Everybody may make /tmp/poold-UID before its user does. Once the folder is the user's own, nobody else can change
    that, so a check before its use is enough.
    """
    try:
        found = folder.lstat()
    except OSError as error:
        if not is_own(error):
            raise
        return None  # not there, or out of reach, and so is any socket in it
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        return None
    return (
        f"{folder} must be a folder of user {os.getuid()} in which nobody else may write, and it belongs to user "
        f"{found.st_uid} with mode {stat.filemode(found.st_mode)}: somebody else could pose as the broker there"
    )


def default_address() -> str:
    """The address that `poold start` binds and clients try if none is given."""
    return f"ipc://{runtime_dir()}/poold.sock"


def check_address(address: str) -> str:
    """Return the address if it has a form that poold knows.

    Raises ValueError, or TypeError if it is no text, that says what is expected.
    """
    if not isinstance(address, str):
        hint = "; write f'ipc://{path}'" if isinstance(address, os.PathLike) else ""
        raise TypeError(f"address is {address!r:.200}; expected text, ipc:///absolute/path or tcp://HOST:PORT{hint}")
    if "\0" in address:
        raise ValueError(f"address {address!r:.200} contains NUL; expected ipc:///absolute/path or tcp://HOST:PORT")
    if address.startswith("ipc://"):
        path = address.removeprefix("ipc://")
        if not path.startswith("/"):
            raise ValueError(f"address {address!r}: ipc:// wants an absolute path, as in ipc:///run/poold/poold.sock")
        if len(os.fsencode(path)) > IPC_PATH_LIMIT:
            raise ValueError(
                f"address {address!r}: the path has {len(os.fsencode(path))} bytes, a unix socket's path may have "
                f"{IPC_PATH_LIMIT}; choose a shorter folder"
            )
        return address
    if address.startswith("tcp://"):
        host, colon, port = address.removeprefix("tcp://").rpartition(":")
        if not host or not colon or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"address {address!r}: tcp:// wants HOST:PORT, as in tcp://127.0.0.1:6543")
        return address
    raise ValueError(f"address {address!r}: expected ipc:///absolute/path or tcp://HOST:PORT")


def ipc_path(address: str) -> Path | None:
    """The socket file of an ipc:// address, None for any other."""
    return Path(address.removeprefix("ipc://")) if address.startswith("ipc://") else None
