"""Make key pairs: two files in ZeroMQ's certificate format, which `client.wire.keyfiles` and ZeroMQ's programs read."""

import errno
import os
from pathlib import Path

import zmq

from client.wire.keyfiles import PUBLIC_SUFFIX, SECRET_SUFFIX

_PUBLIC = """#   ZeroMQ CURVE public certificate, made by poold keygen
#   For the other end: clients need the broker's, the broker needs its clients'.

metadata
curve
    public-key = "{public}"
"""
_SECRET = """#   ZeroMQ CURVE **secret** certificate, made by poold keygen
#   Nobody else may read it. It stays on this machine.

metadata
curve
    public-key = "{public}"
    secret-key = "{secret}"
"""


def make_pair(name: Path) -> tuple[Path, Path]:
    """Write a new pair to NAME.key_secret, for its owner only, and NAME.key.

    Raises OSError if one is there, or if NAME is a folder, whose files these would not be in.
    """
    if name.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(name))
    secret_file, public_file = Path(f"{name}{SECRET_SUFFIX}"), Path(f"{name}{PUBLIC_SUFFIX}")
    public, secret = (key.decode() for key in zmq.curve_keypair())
    _write(secret_file, _SECRET.format(public=public, secret=secret), 0o600)
    try:
        _write(public_file, _PUBLIC.format(public=public), 0o644)
    except OSError:
        secret_file.unlink()
        raise
    return secret_file, public_file


def _write(path: Path, text: str, mode: int) -> None:
    # It has its mode from the first byte on, and no existing file is overwritten: clients would be locked out.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="ascii") as file:
        file.write(text)
