"""The processor time of processes, on Linux.

Times in /proc/PID/stat come in ticks of 10 milliseconds, which is as much as one of 64 workers uses in a second. The
kernel's clock of a process counts nanoseconds and can be read by everybody:
https://man7.org/linux/man-pages/man3/clock_getcpuclockid.3.html
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

# Those that this process and what it starts may use.
COUNT = len(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")
# The low bits of a process's clock: all threads, time that the scheduler has counted (CPUCLOCK_SCHED).
# https://github.com/torvalds/linux/blob/master/include/linux/posix-timers_types.h
CLOCK_KIND = 2

# Positions in /proc/PID/stat behind the closing parenthesis of the name, which may contain anything.
# https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
PARENT = 1
CUTIME, CSTIME = 13, 14


def seconds(pids: Iterable[int]) -> float:
    """What these processes have used so far, all their threads included; 0 for one that is gone."""
    return sum(map(_process_seconds, pids))


def children(parent: int) -> list[int]:
    """A process's children. Looks at every process of the machine."""
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _field(pid, PARENT) == parent]


def reaped_seconds(parent: int) -> float:
    """What those of a process's children have used that have ended; in whole ticks for each."""
    return (_field(parent, CUTIME) + _field(parent, CSTIME)) / TICKS


def machine_seconds() -> float:
    """What all processors have done since whenever but idling and waiting for disks, virtual machines' theft included.

    Idle time is measured, where work is counted by what runs when the clock ticks, which misses much of processes that
    run for microseconds at a time. https://man7.org/linux/man-pages/man5/proc_stat.5.html
    """
    _user, _nice, _system, idle, iowait, *_ = map(int, _first_line("/proc/stat").split()[1:])
    return time.monotonic() * (os.cpu_count() or 1) - (idle + iowait) / TICKS


def _process_seconds(pid: int) -> float:
    try:
        return time.clock_gettime(~pid << 3 | CLOCK_KIND)
    except OSError:
        return 0.0


def _first_line(path: str) -> str:
    return Path(path).read_text().partition("\n")[0]


def _field(pid: int, field: int) -> int:
    """0 for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.rpartition(")")[2].split()[field])
