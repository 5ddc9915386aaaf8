"""poold: one broker process per host owns every PostgreSQL connection of many worker processes.

Workers use the package `client`; `from poold import Handler` works as well, and loads nothing of the broker.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client import Handler as Handler

try:
    __version__ = version("poold")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name != "Handler":
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; what workers use is in the package client"
        )
    from client import Handler

    return Handler
