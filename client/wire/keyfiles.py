"""Key files: who the two ends of an encrypted tcp:// address are.

CURVE (https://rfc.zeromq.org/spec/26/) gives each end a key pair and encrypts what passes between them. A pair is two
files in the form that ZeroMQ's own programs read, made by `poold keygen`: NAME.key holds the public key and is for the
other end, NAME.key_secret holds both keys and stays where it is. Keys are 32 bytes, written in 40 characters of Z85
(https://rfc.zeromq.org/spec/32/).

No error text shows anything of a file's contents.
"""

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from client.interruptions import is_own

PUBLIC_SUFFIX = ".key"
SECRET_SUFFIX = ".key_secret"

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_KEY_CHARS = 40
_LINE = re.compile(r"""^[ \t]*(public|secret)-key[ \t]*=[ \t]*["']?([^\s"']+)["']?[ \t]*$""", re.MULTILINE)
# Key files have some hundred bytes; what is longer is something else.
_MAX_BYTES = 65536


class Keys(NamedTuple):
    """A client's keys: they say whom it talks to, and who it is."""

    server: str  # the broker's public key
    secret: str  # the client's own secret key

    def __repr__(self) -> str:
        return f"Keys(server={self.server!r})"


def read_public(path: str | os.PathLike[str]) -> str:
    """Return the public key in a file; raises ValueError if there is none, or if a secret one stands beside it."""
    found = _read(path)
    if "secret" in found:
        raise ValueError(
            f"key file {os.fspath(path)!r} holds a secret key, expected only a public one; secret keys never leave "
            f"their place: use NAME{PUBLIC_SUFFIX}, which was made with it"
        )
    return _key(found, "public", path)


def read_secret(path: str | os.PathLike[str]) -> str:
    """Return the secret key in a file; raises ValueError if there is none, or if other users can read it."""
    try:
        about = os.stat(path)
    except OSError as error:
        if not is_own(error):
            raise
        # To read the file fails in the same way, with a ValueError.
    else:
        allowed = secret_mode(about)
        if is_exposed(about):
            raise ValueError(
                f"key file {os.fspath(path)!r} has mode {stat.S_IMODE(about.st_mode):04o}, expected {allowed:04o} or "
                f"less for a secret key of user {about.st_uid}; others may have read it: chmod {allowed:o} it, or make "
                "a new pair with: poold keygen"
            )
    return _key(_read(path), "secret", path)


def secret_mode(about: os.stat_result) -> int:
    """The widest mode allowed for a file with secrets, by PostgreSQL's rule for its own: root may give one to a group.

    https://www.postgresql.org/docs/current/ssl-tcp.html
    """
    return 0o640 if about.st_uid == 0 else 0o600


def is_exposed(about: os.stat_result) -> bool:
    """Whether more users can read or write a file than secrets allow; never true of pipes and devices."""
    return stat.S_ISREG(about.st_mode) and bool(stat.S_IMODE(about.st_mode) & 0o777 & ~secret_mode(about))


def _read(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return what follows `public-key =` and `secret-key =`, by "public" and "secret"."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError as error:
        if not is_own(error):
            raise
        raise ValueError(f"cannot read key file {os.fspath(path)!r}: {error.strerror}") from None
    return dict(_LINE.findall(text))


def _key(found: dict[str, str], kind: str, path: str | os.PathLike[str]) -> str:
    key = found.get(kind, "")
    if not _is_key(key):
        raise ValueError(
            f'key file {os.fspath(path)!r} has no line {kind}-key = "{_KEY_CHARS} characters of Z85"; expected a file '
            "made by: poold keygen"
        )
    return key


def _is_key(text: str) -> bool:
    """Whether the text stands for 32 bytes: each five characters for four."""
    if len(text) != _KEY_CHARS or not set(text) <= set(_Z85):
        return False
    digits = [_Z85.index(character) for character in text]
    return all(
        sum(digit * 85 ** (4 - place) for place, digit in enumerate(digits[start : start + 5])) < 2**32
        for start in range(0, _KEY_CHARS, 5)
    )
