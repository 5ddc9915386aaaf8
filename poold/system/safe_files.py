"""Files and folders of this user's own, opened and made in folders where others may write too.

In a folder like /tmp somebody else may have put something at the path before: a link, symbolic or hard, that leads to a
file of ours; a file of their own that they go on writing; a pipe. The kernel's protections (fs.protected_symlinks and
its like in man 5 proc_sys_fs) are switched off on some machines, so nothing here relies on them.
"""

import errno
import logging
import os
import stat
from pathlib import Path

from client.wire.address import folder_trap, runtime_dir

log = logging.getLogger(__name__)

# Folders that are made for a socket: one that its group may enter, as it may use the socket, or everybody.
GROUP_FOLDER = 0o750
OPEN_FOLDER = 0o755


def open_own(path: Path, flags: int) -> int:
    """Return a descriptor of a regular file that is this user's own; with O_CREAT it may be made, with mode 0600.

    Raises PermissionError for anything else at the path, and OSError as os.open does.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionError(f"{path} is a symbolic link, expected a file of user {os.geteuid()}") from None
        raise
    found = os.fstat(descriptor)
    # A file that was removed meanwhile has no name left, which is allowed.
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
        os.close(descriptor)
        raise PermissionError(
            f"{path} belongs to user {found.st_uid}, has {found.st_nlink} names or is no regular file, expected a file "
            f"of user {os.geteuid()} with one name"
        )
    return descriptor


def make_folder(folder: Path, mode: int = GROUP_FOLDER) -> None:
    """Make the folder for a broker's socket, with this mode whatever the umask, and what is missing above it.

    Raises PermissionError if others could replace the socket there. In the default folder nobody else may write; it is
    poold's own, and opened if the mode is that of an open one. Other folders that are there stay as they are. In one of
    these anybody may write, if nobody can remove files of others (the sticky bit); that is logged as a warning.
    """
    if _make_one(folder, mode):
        return
    if folder == runtime_dir():
        if (trap := folder_trap(folder)) is not None:
            raise PermissionError(f"{trap}; remove it, or choose another --address")
        if mode == OPEN_FOLDER:
            folder.chmod(mode)
    found = folder.stat()
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise PermissionError(
            f"{folder} has mode {stat.S_IMODE(found.st_mode):04o}, so anybody could put a socket in the broker's "
            "place; chmod o-w it, or choose another --address"
        )
    if found.st_mode & stat.S_IWOTH:
        log.warning("anybody may write in the socket's folder and pose as a broker that is down folder=%s", folder)


def keeps_others_out(socket: Path) -> Path | None:
    """Return the topmost folder on the way to the socket that is not open to every user, None if all are."""
    return next((above for above in reversed(socket.parents) if not above.stat().st_mode & stat.S_IXOTH), None)


def _make_one(folder: Path, mode: int) -> bool:
    """Make a folder, and open ones above it; return whether it was not there yet."""
    try:
        folder.mkdir(mode)
    except FileExistsError:
        return False
    except FileNotFoundError:
        if folder.parent == folder or not _make_one(folder.parent, OPEN_FOLDER):
            raise
        folder.mkdir(mode)
    folder.chmod(mode)  # mkdir leaves out what the umask has
    return True


def remove_socket(path: Path) -> None:
    """Remove the socket that a killed broker left; raises OSError if it is no socket or cannot be removed."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} is no socket, expected nothing or what a killed broker left; remove it")
        path.unlink()
    except FileNotFoundError:
        pass
    except PermissionError as error:
        raise PermissionError(
            f"{path} cannot be removed ({error.strerror}): it belongs to user {path.lstat().st_uid}, who may pose as "
            "the broker there; choose another --address"
        ) from None
