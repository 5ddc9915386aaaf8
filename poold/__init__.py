"""poold: one broker process per host owns every PostgreSQL connection of many worker processes.

Workers use the package `client`; `from poold import Handler` works as well, and loads nothing of the broker.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client import Handler as Handler

    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        globals()[name] = _version()
        return globals()[name]
    if name != "Handler":
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; what workers use is in the package client"
        )
    from client import Handler

    return Handler


def _version() -> str:
    # Imported late, as that takes longer than a command may be without its answers to signals.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("poold")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
