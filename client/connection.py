"""The worker's settings and its channels: which broker, and which channel this thread uses.

`Connection` keeps pgdbpool's name for it. A worker holds no database connection: its only connections are channels to
the broker, one per thread, or one for all in a non-threaded program, which then needs neither lock nor thread-local.
"""

import os
import threading
from dataclasses import dataclass
from typing import Any

from client.address import check_address, default_address
from client.channel import Channel

THREADING_MODELS = ("threaded", "non-threaded")
ADDRESS_VARIABLE = "POOLD_ADDRESS"


@dataclass(frozen=True, slots=True)
class Settings:
    """What Connection.init decided. address is None where the environment or the default decides."""

    address: str | None = None
    threaded: bool = True


class _PerThread(threading.local):
    """One thread's channels by address. They close when the thread ends."""

    def __init__(self) -> None:
        self.channels: dict[str, Channel] = {}


_settings = Settings()
_per_thread = _PerThread()
_per_process: dict[str, Channel] = {}


class Connection:
    """pgdbpool's entry point: `Connection.init(config)` once per program, before or after fork."""

    @classmethod
    def init(cls, config: dict[str, Any]) -> None:
        """Take the program's settings.

        config['type'] is 'threaded' (the default: any number of threads, each with its own channel) or 'non-threaded'
        (one thread per process). config['address'] is the broker's address. pgdbpool's keys db and groups describe what
        the broker owns now: `poold import-config` turns them into its configuration; here they are not needed and
        change nothing. Raises ValueError or TypeError for anything else.
        """
        global _settings  # program-wide by contract, as pgdbpool's class attributes are
        if not isinstance(config, dict):
            raise TypeError(f"Connection.init wants a dict, got {type(config).__name__}")
        model = config.get("type", THREADING_MODELS[0])
        if model not in THREADING_MODELS:
            raise ValueError(f"config['type'] is {model!r}; expected one of {', '.join(map(repr, THREADING_MODELS))}")
        address = config.get("address")
        if address is not None:
            address = check_address(address)
        _settings = Settings(address, model == "threaded")

    @classmethod
    def get_threading_model(cls) -> str:
        """'threaded' or 'non-threaded'."""
        return THREADING_MODELS[0 if _settings.threaded else 1]


def broker_address(address: str | None = None) -> str:
    """The first of: the argument, Connection.init, POOLD_ADDRESS, the per-user default."""
    address = address or _settings.address or os.environ.get(ADDRESS_VARIABLE)
    return check_address(address) if address else default_address()


def channel_to(address: str) -> Channel:
    """This thread's channel to that broker, opened where there is none or the broker of the last one is gone.

    Raises DBConnectionError within a second where no broker is there.
    """
    channels = _per_thread.channels if _settings.threaded else _per_process
    channel = channels.get(address)
    if channel is None or not channel.is_usable:
        if channel is not None and channel.pid == os.getpid():
            channel.close()
        channel = channels[address] = Channel(address)
    return channel
