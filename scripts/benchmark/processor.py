"""The processor time of processes, from Linux's /proc.

It comes in ticks of 10 milliseconds, rounded down per process: differences over a second of work are good to a
percent. https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
"""

import os
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")

# Positions behind the closing parenthesis of the name, which may contain anything.
PARENT = 1
UTIME, STIME, CUTIME, CSTIME = 11, 12, 13, 14


def seconds(pids: Iterable[int]) -> float:
    """What these processes have used so far, all their threads included."""
    return sum(_ticks(pid, UTIME, STIME) for pid in pids) / TICKS


def family_seconds(parent: int) -> float:
    """What a process and its children have used so far, those that have ended included."""
    children = [pid for pid in _all() if _field(pid, PARENT) == parent]
    return seconds(children) + _ticks(parent, UTIME, STIME, CUTIME, CSTIME) / TICKS


def machine_seconds() -> float:
    """What all processors have spent on anything but idling (and waiting for disks), virtual machines' theft included.

    https://man7.org/linux/man-pages/man5/proc_stat.5.html
    """
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, _first_line("/proc/stat").split()[1:])
    return (user + nice + system + irq + softirq + steal) / TICKS


def _first_line(path: str) -> str:
    return Path(path).read_text().partition("\n")[0]


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _ticks(pid: int, *fields: int) -> int:
    return sum(_field(pid, field) for field in fields)


def _field(pid: int, field: int) -> int:
    """0 for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.rpartition(")")[2].split()[field])
