"""Modules that are compiled where a compiler is: found, or the reason why they are not used.

Each is a shorter way for what Python code does as well; without it that code does all. So nothing depends on a
compiler, and POOLD_PURE=1 turns them off. `setup.py` builds them, and reads their list here.
"""

from __future__ import annotations

import importlib
import os
import sys
import zlib
from functools import partial
from pathlib import Path
from types import ModuleType

PURE_VARIABLE = "POOLD_PURE"
# By the name of each module; its source is the .pyx of that name.
COMPILED = (
    "client.lane.conversions",
    "client.lane.exchange",
    "client.lane.methods",
    "client.lane.parameters",
    "client.lane.records",
    "client.lane.replies",
    "client.lane.requests",
    "client.lane.rows",
    "client.lane.steps",
    "client.lane.texts",
    "poold.lane.cutting",
    "poold.lane.lines",
    "poold.lane.queue",
    "poold.lane.records",
    "poold.lane.pipelines",
    "poold.lane.lane",
)
# Where the sources are: a module may include declarations of the others.
_FOLDERS = ("client/lane", "poold/lane")
# Why each module that was asked for is not used, by name; "" if it is.
_reasons: dict[str, str] = {}


def load(name: str) -> ModuleType | None:
    """Return the compiled module of this name, None if it is not to be used or cannot be; `describe` tells why.

    Those of one package are used together or not at all, since they know each other's memory.
    """
    if _reasons.get(name) != "":
        package = name.rpartition(".")[0]
        together = [each for each in COMPILED if each.rpartition(".")[0] == package]
        is_off = os.environ.get(PURE_VARIABLE, "0") not in ("", "0")
        reasons = [f"{PURE_VARIABLE} is set"] if is_off else map(partial(_why_not, sources()), (name, *together))
        _reasons[name] = next(filter(None, reasons), "")
    return None if _reasons[name] else sys.modules[name]


def _why_not(current: int, name: str) -> str:
    """Return why the module is not to be used, "" if it is; current is the checksum of the sources."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        return "not built"
    except ImportError as error:
        return f"not loaded: {error}"
    is_current = current in (0, module.SOURCES)
    return "" if is_current else "built of other sources; build it again: scripts/setup, or pip install"


def describe() -> str:
    """Return whether the compiled modules that were asked for are used, in words."""
    reasons = sorted(set(filter(None, _reasons.values())))
    return f"pure Python ({'; '.join(reasons)})" if reasons else "compiled"


def sources(root: Path = Path(__file__).parent.parent) -> int:
    """Return a checksum of the sources of compiled modules below root, 0 if there are none, as in a wheel."""
    found = 0
    for file in source_files(root):
        found = zlib.crc32(file.read_bytes(), found)
    return found


def source_files(root: Path) -> list[Path]:
    """Return the sources of compiled modules below root, in order."""
    return [file for folder in _FOLDERS for file in sorted((root / folder).glob("*.p[yx][xd]"))]
