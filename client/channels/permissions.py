"""Why a user may not connect to a broker's socket: what is closed to it, whose that is, and what to do."""

import os
import stat
from pathlib import Path
from typing import Any

from client.interruptions import is_own

_NAMES: Any
try:
    import grp
    import pwd
except ImportError as failed:
    if not is_own(failed):
        raise
    _NAMES = None  # a process that has changed its user may not read Python's own folder any more
else:
    _NAMES = pwd, grp


def refusal(socket: Path) -> str:
    """Say what the kernel's "Permission denied" leaves out: which folder or socket is closed, and to whom."""
    us = f"user {_user(os.geteuid())} is kept out"
    place = closed_to_us(socket)
    if place is None:
        return f"{us}, by something else than the modes of {socket} and the folders above it; a sandbox, perhaps"
    found = place.stat()
    mode, group = stat.S_IMODE(found.st_mode), _group(found.st_gid)
    lets_group_in = mode & (stat.S_IWGRP if place == socket else stat.S_IXGRP)
    ours = ", ".join(_group(number) for number in sorted({os.getegid(), *os.getgroups()}))
    ways = [
        f"join group {group} (processes that start afterwards are in it)" if lets_group_in else "",
        f"have the broker's owner list user {os.geteuid()} in allow_uids, or one of its groups in allow_gids",
        "" if place == socket else f"have {place} opened (chmod a+x; the socket's own mode counts too)",
        "" if place == socket else "choose an --address in a folder that is open",
    ]
    return (
        f"{us}: {place} belongs to user {_user(found.st_uid)} and group {group} with mode {mode:04o}, and you are in "
        f"{ours}. What helps: {'; '.join(filter(None, ways))}"
    )


def occupant(socket: Path) -> str | None:
    """Say what else is where a broker's socket should be; None if that is a socket, or nothing, or out of sight."""
    try:
        for folder in reversed(socket.parents):
            if not stat.S_ISDIR(folder.stat().st_mode):
                return f"{folder} is {_kind(folder.stat().st_mode)} and no folder"
        mode = socket.stat().st_mode
    except OSError as error:
        if not is_own(error):
            raise
        return None
    if stat.S_ISSOCK(mode):
        return None
    inside = f", as ipc://{socket}/poold.sock may be" if stat.S_ISDIR(mode) else ""
    return f"{socket} is {_kind(mode)}, and a broker's address is that of its socket{inside}"


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "an ordinary file"
    return "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"


def closed_to_us(socket: Path) -> Path | None:
    """Return the first folder on the way to the socket that this user may not enter, or the socket itself.

    None if none of them is closed, or if something is not there any more.
    """
    try:
        for place in (*reversed(socket.parents), socket):
            place.stat()
            needed = os.W_OK if place == socket else os.X_OK
            if not os.access(place, needed, effective_ids=os.access in os.supports_effective_ids):
                return place
    except OSError as error:
        if not is_own(error):
            raise
    return None


def _user(number: int) -> str:
    """Return the user's name and number, the number alone if it has no name."""
    if _NAMES is None:
        return str(number)
    users, _ = _NAMES
    try:
        return f"{users.getpwuid(number).pw_name} ({number})"
    except KeyError as error:
        if not is_own(error):
            raise
        return str(number)


def _group(number: int) -> str:
    """Return the group's name and number, the number alone if it has no name."""
    if _NAMES is None:
        return str(number)
    _, groups = _NAMES
    try:
        return f"{groups.getgrgid(number).gr_name} ({number})"
    except KeyError as error:
        if not is_own(error):
            raise
        return str(number)
