"""The memory of processes, from Linux's /proc.

Of PostgreSQL's backends what counts is anonymous memory, that of their own: the shared buffers are there whoever
connects, and a sum of what each maps would count them for each. Pages that a backend still shares with the postmaster
which forked it are divided among those that share them (Pss_Anon), where the kernel lets this process look; elsewhere,
as in containers without CAP_SYS_PTRACE where the server runs as another user, they count in full (RssAnon).

https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html, https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
"""

from collections.abc import Iterable
from pathlib import Path

KIB_PER_MB = 1000 * 1000 / 1024
SHARED = ("smaps_rollup", "Pss_Anon")
OWN = ("status", "RssAnon")
RESIDENT = ("status", "VmRSS")
PEAK = ("status", "VmHWM")


def kind(pid: int) -> tuple[str, str]:
    """SHARED where that can be read of this process, else OWN."""
    return OWN if _kib(pid, SHARED) is None else SHARED


def anonymous_mb(pids: Iterable[int], which: tuple[str, str]) -> float:
    """The sum; which is what `kind` said. A process that is gone has none."""
    return sum(_kib(pid, which) or 0 for pid in pids) / KIB_PER_MB


def resident_mb(pid: int) -> float:
    """All of a process's memory that is not swapped out, its libraries included."""
    return (_kib(pid, RESIDENT) or 0) / KIB_PER_MB


def peak_mb(pid: int) -> float:
    """The most memory that a process has had so far, its libraries included."""
    return (_kib(pid, PEAK) or 0) / KIB_PER_MB


def _kib(pid: int, which: tuple[str, str]) -> int | None:
    """None where there is no such line, or nobody to ask."""
    file, name = which
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return None
