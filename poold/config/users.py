"""The users of a group: names become numbers, because the kernel gives a client's user as a number."""

import pwd
from collections.abc import Sequence
from pathlib import Path

from client.wire.address import ipc_path
from client.wire.keyfiles import PUBLIC_SUFFIX
from poold.config.client_keys import read_client_keys
from poold.config.model import KEY_PREFIX

# 2**32 - 1 stands for "no change" in system calls and is no user.
LAST_UID = 2**32 - 2
EXPECTED = "the name of a user, a user's number as text, or key:NAME for the key in NAME.key of client_keys"


def resolved_users(entries: Sequence[str], address: str, client_keys: str | None) -> tuple[tuple[str, ...], list[str]]:
    """Return each user as its number and each key as it is, and a line for each entry that is wrong."""
    users: dict[str, None] = {}
    problems = []
    for entry in entries:
        try:
            users[_key(entry, client_keys) if entry.startswith(KEY_PREFIX) else _uid(entry)] = None
        except ValueError as error:
            problems.append(str(error))
    if entries and not problems and ipc_path(address) is None and not any(u.startswith(KEY_PREFIX) for u in users):
        problems.append(
            f"found users at {address}, which does not tell who asks, so nobody could use the group; expected key:NAME"
        )
    return tuple(users), problems


def _uid(entry: str) -> str:
    if entry.isascii() and entry.isdigit():
        if int(entry) > LAST_UID:
            raise ValueError(f"found {entry!r}, expected a number up to {LAST_UID}")
        return str(int(entry))
    try:
        return str(pwd.getpwnam(entry).pw_uid)
    except KeyError:
        raise ValueError(f"found {entry!r}, which is no user of this machine, expected {EXPECTED}") from None


def _key(entry: str, client_keys: str | None) -> str:
    if client_keys is None:
        raise ValueError(f"found {entry!r} without client_keys in [broker], expected {EXPECTED}")
    names = set(read_client_keys(Path(client_keys))[0].values())
    if entry.removeprefix(KEY_PREFIX) not in names:
        raise ValueError(
            f"found {entry!r}, but {client_keys!r} has no key in {entry.removeprefix(KEY_PREFIX)}{PUBLIC_SUFFIX}, "
            f"expected one of {', '.join(sorted(names)) or 'its files, of which there are none'}"
        )
    return entry
