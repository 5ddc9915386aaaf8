"""Files with passwords that others can read: the broker starts all the same, but warns."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from client.wire.keyfiles import is_exposed, secret_mode
from poold.config.model import Config


def exposed_files(config: Config, config_file: Path) -> list[str]:
    """Return a line for each file with a password, also config_file itself, whose mode lets too many users in."""
    return [line for path in dict.fromkeys(_files(config, config_file)) if (line := _exposed(path)) is not None]


def _files(config: Config, config_file: Path) -> Iterator[Path]:
    for endpoint in config.endpoints.values():
        if endpoint.password_file is not None:
            yield Path(endpoint.password_file)
        elif endpoint.password is not None and endpoint.password_env is None:
            yield config_file


def _exposed(path: Path) -> str | None:
    try:
        about = path.stat()
    except OSError:
        return None  # it was read a moment ago and is gone
    if not is_exposed(about):
        return None
    allowed = secret_mode(about)
    return (
        f"{os.fspath(path)} holds a password and has mode {stat.S_IMODE(about.st_mode):04o}, expected {allowed:04o} or "
        f"less: others can read it; chmod {allowed:o} it"
    )
