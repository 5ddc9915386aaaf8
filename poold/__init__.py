"""poold: one broker process per host owns every PostgreSQL connection of many worker processes."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("poold")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
