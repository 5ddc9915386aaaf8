"""Where a broker's configuration comes from, so that it can be read again."""

from collections.abc import Callable
from typing import NamedTuple

from poold.config.model import Config


class Source(NamedTuple):
    """One file; read raises `file.ConfigError`, or ValueError if the address does not suit what is in it."""

    name: str
    read: Callable[[], tuple[Config, list[str]]]  # with a text for each file with a password that others can read
