"""The keys in the configuration's [broker]: the broker's own, and those of the clients that may connect."""

import logging
import os
import stat
from pathlib import Path

from client.wire.address import ipc_path
from client.wire.keyfiles import PUBLIC_SUFFIX, read_public, read_secret
from poold.system.address_claim import is_loopback, open_network

log = logging.getLogger(__name__)


class ClientKeys:
    """The public keys of a folder's *.key files, or of one file; a change counts from the next connection on.

    Each look-up checks every file's name, inode, change time and size; the files are read again if one of these has
    changed. A file that is no key file is ignored and logged.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen: object = None  # what _look returned when the files were last read
        self._names: dict[str, str] = {}

    def name_of(self, key: str) -> str | None:
        """Return the name of the file with this key, without .key; None if there is none: the key may not connect."""
        seen = self._look()
        if seen != self._seen:
            self._names, problems = read_client_keys(self._path)
            self._seen = seen
            for problem in problems:
                log.warning("client key ignored reason=%s", problem)
            log.info("client keys read path=%s keys=%d", self._path, len(self._names))
        return self._names.get(key)

    def _look(self) -> object:
        found = []
        for file in _files(self._path):
            try:
                about = file.stat()
                found.append((file.name, about.st_ino, about.st_ctime_ns, about.st_size))
            except OSError as error:
                found.append((file.name, error.errno or 0, 0, 0))
        return found


def read_client_keys(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return the names of clients' key files, without .key, by their keys, and what is wrong with other files."""
    names: dict[str, str] = {}
    problems = []
    for file in _files(path):
        try:
            key = read_public(file)
        except ValueError as error:
            problems.append(str(error))
            continue
        if key in names:
            other = names[key] + PUBLIC_SUFFIX
            problems.append(f"key file {os.fspath(file)!r} has the key of {other}, expected one of its own")
        else:
            names[key] = file.name.removesuffix(PUBLIC_SUFFIX)
    if not names and not problems:
        problems.append(
            f"found {os.fspath(path)!r} without a file *{PUBLIC_SUFFIX}, expected one for each client that may "
            "connect; make pairs with: poold keygen"
        )
    return names, problems


def key_problems(address: str, key_file: str | None, client_keys: str | None) -> list[str]:
    """Return what is wrong with the keys for this address, or with having none."""
    if ipc_path(address) is not None:
        given = [name for name, value in (("key_file", key_file), ("client_keys", client_keys)) if value is not None]
        wrong = (
            f"found at address {address!r}, expected keys with tcp:// only; for ipc:// there are allow_uids and modes"
        )
        return [f"{' and '.join(given)}: {wrong}"] if given else []
    if key_file is None and client_keys is None:
        return [] if is_loopback(address) else [open_network(address)]
    if client_keys is None:
        return ["client_keys: missing, expected beside key_file (a folder with the public keys of clients)"]
    if key_file is None:
        return ["key_file: missing, expected beside client_keys (a secret key; make one with: poold keygen)"]
    problems = []
    try:
        read_secret(key_file)
    except ValueError as error:
        problems.append(f"key_file: {error}")
    found = read_client_keys(Path(client_keys))[1] + _open_to_everybody(Path(client_keys))
    return problems + [f"client_keys: {problem}" for problem in found]


def _open_to_everybody(path: Path) -> list[str]:
    """Return a problem for the folder and each file in which everybody could list a key."""
    problems = []
    for each in {path, *_files(path)}:
        try:
            mode = each.stat().st_mode
        except OSError:
            continue  # read_client_keys reports it
        if mode & stat.S_IWOTH:
            problems.append(f"{os.fspath(each)!r} has mode {stat.S_IMODE(mode):04o}, so everybody can admit a client")
    return sorted(problems)


def _files(path: Path) -> list[Path]:
    """Return a folder's key files in a fixed order, or the one file."""
    return sorted(path.glob(f"*{PUBLIC_SUFFIX}")) if path.is_dir() else [path]
