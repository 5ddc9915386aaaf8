"""What the kernel knows of this process, under the keys of `poold.metrics.catalog`."""

from __future__ import annotations

import os
import resource
import time
from typing import Any

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def process_figures() -> dict[str, Any]:
    """Return the figures of this process. What this system does not tell is None."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    virtual, resident = memory()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "virtual": virtual,
        "resident": resident,
        "started": STARTED,
        "descriptors": _descriptors(),
        "most_descriptors": None if most == resource.RLIM_INFINITY else most,
    }


def memory() -> tuple[int | None, int | None]:
    """Return the bytes of the address space and those in memory; None where the system does not tell them."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            virtual, resident, *_ = map(int, file.read().split())
    except OSError:
        return None, None
    return virtual * _PAGE, resident * _PAGE


def _descriptors() -> int | None:
    """Return how many descriptors are open; since Linux 6.2 without looking at each."""
    try:
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    except OSError:
        return None


def _started() -> float | None:
    """Return when this process began, in seconds since the epoch."""
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            # The program's name, in parentheses, may hold anything; the 22nd field is 20 behind it.
            ticks = int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return None
    return round(time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / _TICKS), 2)


# Found out once: what is asked of the two clocks differs a little each time.
STARTED = _started()
