"""What was measured with what, and where: figures of different machines and versions cannot be compared."""

import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmark import pgbouncer, processor
from poold.versions import versions

PACKAGES = ("poold", "psycopg2-binary", "psycopg", "psycopg-pool", "pgdbpool", "pyzmq", "msgpack", "uvloop")
MISSING = "not installed"


def describe(server_version: str) -> dict[str, Any]:
    """Names and values, for people and programs."""
    program = pgbouncer.find(may_install=False)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["scripts/bench", *sys.argv[1:]]),
        "processors": processor.COUNT,
        "processor": _processor_model(),
        "memory_mb": _memory_mb(),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "PostgreSQL": server_version,
        "pgbouncer": pgbouncer.version(program) if program else MISSING,
        **{package: _version(package) for package in PACKAGES},
        "lane": versions()["lane"],  # compiled, or why it is not
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return MISSING


def _processor_model() -> str:
    """As the kernel names it; not every architecture does."""
    return _line("/proc/cpuinfo", "model name") or platform.machine()


def _memory_mb() -> int:
    return int(_line("/proc/meminfo", "MemTotal").split()[0]) * 1024 // 1_000_000


def _line(file: str, name: str) -> str:
    """The value behind a name's first colon; "" where there is none."""
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
