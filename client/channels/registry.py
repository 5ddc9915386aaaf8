"""The worker's settings and its channels: which broker, and which channel a call uses.

`Connection` keeps pgdbpool's name. A worker holds no database connection: its only connections are channels to
the broker, one per thread, or one for all in a non-threaded program, which then needs neither lock nor thread-local.

A call takes a channel out and puts it back when it has its reply. So a second call that begins meanwhile in the same
thread, from a signal handler or in another greenlet, does not find that channel and opens another; and a channel whose
call was interrupted by an exception never comes back.
"""

import math
import os
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from client.channels.attempts import Attempts
from client.channels.channel import Channel
from client.channels.timeouts import CONNECT_TIMEOUT, CONNECT_WAIT
from client.errors import UNSERVED, DBConnectionError, UnconfiguredGroupError
from client.interruptions import is_own
from client.wire.address import check_address, default_address, ipc_path
from client.wire.keyfiles import Keys, read_public, read_secret
from client.wire.limits import MAX_TIMEOUT

THREADING_MODELS = ("threaded", "non-threaded")
ADDRESS_VARIABLE = "POOLD_ADDRESS"
SERVER_KEY_VARIABLE = "POOLD_SERVER_KEY"
KEY_VARIABLE = "POOLD_KEY"
CONNECT_WAIT_VARIABLE = "POOLD_CONNECT_WAIT"


class Settings(NamedTuple):
    """What Connection.init decided. If a field is None, the environment or the default decides."""

    address: str | None = None
    threaded: bool = True
    server_key: str | None = None
    key: str | None = None
    connect_wait: float | None = None
    # pgdbpool's groups, as the program's config has them.
    groups: Mapping[str, Any] = MappingProxyType({})


# The broker that a channel talks to: its address, and if the connection is encrypted the keys.
_Where = str | tuple[str, Keys]


# So many free channels to one broker are kept. More than two are free at once only after calls inside each other, or
# with greenlets.
FREE_KEPT = 8


class FreeChannels(list[Channel]):
    """The channels to one broker that no call and no lease uses; the last one given back is used first."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address  # the broker's

    def close(self) -> None:
        """End them all."""
        while self:
            try:
                channel = self.pop()
            except IndexError as error:
                if not is_own(error):
                    raise
                return  # a signal handler has taken the last one
            channel.close()


class _PerThread(threading.local):
    """The channels of one thread, closed when it ends."""

    def __init__(self) -> None:
        self.channels: dict[_Where, FreeChannels] = {}


_settings = Settings()
_per_thread = _PerThread()
_per_process: dict[_Where, FreeChannels] = {}


# What Connection.init may be told.
INIT_KEYS = ("type", "address", "server_key", "key", "connect_wait", "db", "groups")


class Connection:
    """pgdbpool's entry point: `Connection.init(config)` once per program, before or after fork."""

    @classmethod
    def init(cls, config: dict[str, Any]) -> None:
        """Take the program's settings.

        config['type'] is 'threaded' (the default: any number of threads, each with its own channel) or 'non-threaded'
        (one thread per process). config['address'] is the broker's address, config['server_key'] and config['key'] are
        the key files for an encrypted tcp:// address (see Handler), config['connect_wait'] is Handler's. pgdbpool's
        keys db and groups describe what belongs to the broker: `poold import-config` turns them into its configuration;
        here they say nothing but `get_max_pool_size`. Raises ValueError or TypeError if config is no dict, has
        other keys, or a value is none of these.
        """
        global _settings  # program-wide by contract, as pgdbpool's class attributes are
        if not isinstance(config, dict):
            raise TypeError(f"Connection.init wants a dict, got {type(config).__name__}")
        if unknown := [key for key in config if key not in INIT_KEYS]:
            raise ValueError(
                f"Connection.init's config has {', '.join(map(repr, unknown)):.200}; expected of {', '.join(INIT_KEYS)}"
            )
        model = config.get("type", THREADING_MODELS[0])
        if model not in THREADING_MODELS:
            raise ValueError(f"config['type'] is {model!r}; expected one of {', '.join(map(repr, THREADING_MODELS))}")
        address = config.get("address")
        if address is not None:
            address = check_address(address)
        server_key, key = (_key_file(f"config[{name!r}]", config.get(name)) for name in ("server_key", "key"))
        wait = config.get("connect_wait")
        if wait is not None:
            wait = checked_wait(wait, "config['connect_wait']")
        groups = config.get("groups")
        groups = groups if isinstance(groups, dict) else {}
        _settings = Settings(address, model == "threaded", server_key, key, wait, groups)

    @classmethod
    def get_threading_model(cls) -> str:
        """'threaded' or 'non-threaded'."""
        return THREADING_MODELS[0 if _settings.threaded else 1]

    @classmethod
    def get_max_pool_size(cls, group: str) -> int:
        """The group's connection_count in the config that init was given; the broker's max_size may be another one.

        Raises UnconfiguredGroupError if the config has none.
        """
        try:
            return int(_settings.groups[group]["connection_count"])
        except (KeyError, TypeError) as error:
            if not is_own(error):
                raise
            text = f"config['groups'] has no {group!r} with a connection_count; give it to Connection.init"
            raise UnconfiguredGroupError(text) from None


def broker_address(address: str | None = None) -> str:
    """The first of: the argument, Connection.init, POOLD_ADDRESS, the per-user default."""
    if address is None:
        address = _settings.address or os.environ.get(ADDRESS_VARIABLE) or default_address()
    return check_address(address)


def connect_wait_of(given: float | None = None) -> float:
    """Seconds to wait for a broker: of the argument, Connection.init, POOLD_CONNECT_WAIT, or else CONNECT_WAIT."""
    if given is not None:
        return checked_wait(given, "connect_wait")
    if _settings.connect_wait is not None:
        return _settings.connect_wait
    told = os.environ.get(CONNECT_WAIT_VARIABLE)
    return checked_wait(told, CONNECT_WAIT_VARIABLE) if told else CONNECT_WAIT


def checked_wait(value: Any, name: str) -> float:
    """Return the value as seconds; raises ValueError, which calls it by this name."""
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError) as error:
        if not is_own(error):
            raise
        seconds = math.nan
    if not 0 <= seconds <= MAX_TIMEOUT:
        raise ValueError(f"{name} is {value!r:.200}; expected seconds, from 0 to {MAX_TIMEOUT:.0f}")
    return seconds


def _key_file(name: str, file: str | os.PathLike[str] | None) -> str | None:
    """Return the path, if it is one; with an empty one the client would talk to a broker without encryption."""
    if file is None:
        return None
    if not isinstance(file, (str, os.PathLike)):
        raise TypeError(f"{name} is {file!r:.200}; expected the path of a key file, or None")
    path = os.fspath(file)
    if not path:
        raise ValueError(f"{name} is empty; expected the path of a key file, or None")
    return path


def broker_keys(
    address: str, server_key: str | os.PathLike[str] | None = None, key: str | os.PathLike[str] | None = None
) -> Keys | None:
    """The keys in these files, or in those of Connection.init, or of POOLD_SERVER_KEY and POOLD_KEY; None without any.

    Raises ValueError if only one of the two is given, if a file is no such key file, or if an argument is given with an
    ipc:// address, which needs no keys; the other sources are ignored for ipc://.
    """
    server_key, key = _key_file("server_key", server_key), _key_file("key", key)
    is_ipc = ipc_path(address) is not None
    if is_ipc and (server_key or key):
        raise ValueError(f"server_key and key are for tcp:// addresses; {address} is of this machine and needs none")
    server_key = server_key or _settings.server_key or os.environ.get(SERVER_KEY_VARIABLE)
    key = key or _settings.key or os.environ.get(KEY_VARIABLE)
    if is_ipc or not (server_key or key):
        return None
    if not server_key:
        raise ValueError(
            f"a key is given without the broker's: give server_key as well, or set {SERVER_KEY_VARIABLE}, to the file "
            "with the broker's public key"
        )
    if not key:
        raise ValueError(
            f"a server_key is given without a key of this client's: give key as well, or set {KEY_VARIABLE}, to the "
            "file with its secret key; a pair is made with: poold keygen"
        )
    return Keys(read_public(server_key), read_secret(key))


def channel_to(
    address: str, keys: Keys | None = None, patience: float | None = None, wait: float = CONNECT_TIMEOUT
) -> Channel:
    """Return a channel to that broker for the caller alone; open one if this thread has no usable one.

    Once the caller has its reply, it gives the channel back. Raises DBConnectionError if no broker is there within wait
    seconds; patience bounds the opening, in seconds, if one is there and does not answer.
    """
    channels = _per_thread.channels if _settings.threaded else _per_process
    free = channels.get(address if keys is None else (address, keys))
    while free:
        try:
            channel = free.pop()
        except IndexError as error:
            if not is_own(error):
                raise
            break  # a signal handler has taken the last one
        if channel.is_usable:
            return channel
        if channel.pid == os.getpid():
            channel.close()
    return new_channel(address, keys, patience, wait)


def new_channel(
    address: str, keys: Keys | None = None, patience: float | None = None, wait: float = CONNECT_TIMEOUT
) -> Channel:
    """Return a channel that was opened for the caller; raises as `channel_to`.

    A broker that ends in the middle of that has left its address to another one, or to nobody: once more is no wait.
    """
    attempts = Attempts(wait, at_once=1)
    while True:
        try:
            return Channel(address, keys, patience, attempts.left)
        except DBConnectionError as error:
            if error.failure.kind != UNSERVED or not is_own(error) or not attempts.another():
                raise


def free_channels(address: str) -> FreeChannels | None:
    """Return this thread's free channels to a broker without keys, None if there never was one. For compiled code."""
    channels = _per_thread.channels if _settings.threaded else _per_process
    return channels.get(address)


def forget_free(address: str, keys: Keys | None = None) -> None:
    """Close this thread's free channels to that broker: it serves nobody any more, and another one may be there."""
    channels = _per_thread.channels if _settings.threaded else _per_process
    free = channels.get(address if keys is None else (address, keys))
    if free is not None:
        free.close()


def give_back(channel: Channel, address: str, keys: Keys | None = None) -> None:
    """Keep the channel, which no call may be using, for this thread's next call."""
    channels = _per_thread.channels if _settings.threaded else _per_process
    where = address if keys is None else (address, keys)
    free = channels.get(where)
    if free is None:
        free = channels.setdefault(where, FreeChannels(address))
    if len(free) < FREE_KEPT:
        free.append(channel)
