"""The versions of poold and of the libraries on which it stands."""

import platform
from importlib.metadata import version

import psycopg2.extensions
import zmq

from client.compiled import describe
from poold import __version__


def versions() -> dict[str, str]:
    """Return the versions of poold and of the libraries that it uses, by name."""
    return {
        "poold": __version__,
        "lane": describe(),
        "python": platform.python_version(),
        "psycopg2": version("psycopg2-binary"),
        "libpq": str(psycopg2.extensions.libpq_version()),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "msgpack": version("msgpack"),
        "uvloop": version("uvloop"),
    }
