"""A private PostgreSQL server, run from its programs for as long as its owner lives.

For people who have no server running, and for the tests. One folder holds all of it:

    DATA/lock              flock held by the owner from start to stop; contains its process id
    DATA/cluster/          PostgreSQL's own data directory
    DATA/socket            folder of the unix socket; a link to a short one under /tmp if the path is too long
    DATA/log, DATA/log.1   the log of the server of this start, and of the start before
    DATA/postgresql-16.14  a copy of the programs, if the server's user cannot reach the originals
    DATA/unfinished-*      folders that are being made; the next start removes what a killed one left

The server must not outlive its owner, however the owner ends: the kernel sends the server SIGINT, a fast shutdown, when
the owner is gone, and if that did not happen the next start stops the orphan before it starts its own server.

Absent on purpose: passwords. The socket's folder is open to the server's user and root only, and everybody who gets
there is trusted. A TCP port, off by default, lets everybody on this machine in; it is for tests.
"""

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import psycopg2
from psycopg2.extensions import make_dsn

from client.wire.address import IPC_PATH_LIMIT
from poold.embedded.programs import UNFINISHED, Account, EmbeddedError, Programs
from poold.system.file_errors import explained
from poold.system.safe_files import open_own

__all__ = ["EmbeddedError", "EmbeddedPostgres", "default_data_dir"]

USER = "poold"
DATABASE = "postgres"
DEFAULT_PORT = 5432
SETTINGS = {"max_connections": "100", "shared_buffers": "128MB"}

# Seconds. Starting takes 0.1, recovery after a crash longer; pg_ctl would wait for 60.
START_TIMEOUT = 30.0
# Seconds. A fast shutdown writes a checkpoint: 128 MB of buffers at worst. Each harsher signal after it gets as long.
STOP_TIMEOUT = 30.0
POLL_INTERVAL = 0.02
# https://www.postgresql.org/docs/current/server-shutdown.html
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
LOG_LINES = 12
# postgres logs this while backends of a killed postmaster live on; they end as soon as they notice.
MEMORY_IN_USE = "pre-existing shared memory block"


def default_data_dir() -> Path:
    """Return where `poold start` without a configuration keeps its server's data. It may not exist yet.

    Raises EmbeddedError if this user has no home folder.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/poold")
    shared = os.environ.get("XDG_DATA_HOME")
    try:
        return (Path(shared) if shared else Path.home() / ".local" / "share") / "poold"
    except RuntimeError:
        raise EmbeddedError(
            f"user {os.geteuid()} has no home folder for the private PostgreSQL (HOME is not set); name a folder for "
            "it with --data"
        ) from None


class EmbeddedPostgres:
    """One private server: `start`, `stop`, and what to connect to in between."""

    def __init__(
        self,
        data: Path,
        *,
        bindir: Path | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        port: int | None = None,
        standby_of: str | None = None,
    ) -> None:
        """Note where the server is to be; `start` makes it.

        `settings` override PostgreSQL's and this module's. With `port` the server also listens on 127.0.0.1:port. With
        `standby_of`, the dsn of a running server, the first start makes a streaming standby of that one.
        """
        self.data = data.absolute()
        self.cluster = self.data / "cluster"
        self.log = self.data / "log"
        self.socket_dir = self.data / "socket"
        # The port is part of the socket's file name, so there is one even without TCP.
        self.port = port or DEFAULT_PORT
        self.user = USER
        self._bindir = bindir
        self._standby_of = standby_of
        self._settings = {"listen_addresses": "127.0.0.1" if port else "", **SETTINGS, **settings}
        # Both are set from start to stop; _lock is the lock file's descriptor.
        self._lock: int | None = None
        self._programs: Programs | None = None
        # The postmaster spawned last, running or not, and where in the log it began to write.
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __repr__(self) -> str:
        state = f"pid={self.pid}" if self.running else "stopped"
        return f"<EmbeddedPostgres {self.data} port={self.port} {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def programs(self) -> Programs:
        """The programs in use and the user they run as; known from start to stop."""
        if self._programs is None:
            raise EmbeddedError(f"the server in {self.data} is not started")
        return self._programs

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None if it does not run."""
        return self._process.pid if self._process and self.running else None

    def dsn(self, **over: Any) -> str:
        """Return a libpq connection string for the unix socket; `over` replaces its parts, as in host='127.0.0.1'."""
        parts = {"host": str(self.socket_dir), "port": self.port, "user": self.user, "dbname": DATABASE}
        return str(make_dsn(**{**parts, **over}))

    def start(self) -> None:
        """Become the owner of the data folder, make the cluster on first use, start the server and wait for it.

        After `kill`, or if the server has ended by itself, this starts it again. Raises EmbeddedError.
        """
        if self.running:
            raise EmbeddedError(f"{self.data}: its server is already started, as process {self.pid}")
        try:
            if self._lock is None:
                self._own()
            self._launch()
        except BaseException as error:
            self.stop("immediate")
            if isinstance(error, OSError | subprocess.SubprocessError):
                raise EmbeddedError(f"cannot start a PostgreSQL server in {self.data}: {explained(error)}") from error
            raise

    def stop(self, mode: str = "fast") -> None:
        """Stop the server ('smart', 'fast' or 'immediate') and give the data folder up; no error if it is stopped."""
        self._halt(mode)
        if self._lock is None:
            return
        self._remove_socket_dir()
        os.close(self._lock)
        self._lock = None
        self._programs = None

    def restart(self, mode: str = "fast") -> None:
        """Stop and start the server; lock, port and socket folder stay."""
        self._halt(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL the server, as the kernel does when memory runs out. `start` starts it again, `stop` gives it up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Return when the server accepts connections; raises EmbeddedError with the end of its log if it does not."""
        deadline = time.monotonic() + timeout
        while not self._answers():
            if not self._alive_after(POLL_INTERVAL):
                raise EmbeddedError(f"{self.data}: PostgreSQL ended while starting. {self._last_words()}")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{self.data}: no answer from PostgreSQL in {timeout:.0f} s. {self._last_words()}")

    # -- from nothing to a server that can be started

    def _own(self) -> None:
        """Take the lock, then prepare what a server needs: programs, no orphan, a folder for its socket, a cluster."""
        account = Account.for_server()
        try:
            if not self.data.exists():
                self.data.mkdir(parents=True, exist_ok=True)
                self.data.chmod(0o700 if account.uid == os.geteuid() else 0o755)
        except OSError as error:
            raise EmbeddedError(
                f"cannot make {self.data}, the folder of the private PostgreSQL: {explained(error)}; --data names "
                "another one"
            ) from error
        self._check_owner()
        self._lock = self._take_lock()
        closed = account.closed_folder(self.data)
        if closed is not None:
            raise EmbeddedError(
                f"PostgreSQL runs as user {account.name}, who cannot enter {closed} on the way to {self.data}; "
                f"open it (chmod a+x {closed}) or choose another data folder"
            )
        for leftover in self.data.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._programs = Programs.for_account(account, self.data, self._bindir, self.cluster)
        self._stop_orphan()
        self._make_socket_dir()
        if not self.cluster.exists():
            self._make_cluster()
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".1"))

    def _check_owner(self) -> None:
        """Refuse a data folder of another user, or that everybody may write to.

        Whoever can put links into it decides which files this process writes and removes.
        """
        found = self.data.stat()
        if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
            raise EmbeddedError(
                f"the data folder {self.data} belongs to user {found.st_uid} with mode {stat.filemode(found.st_mode)}, "
                f"expected one of user {os.geteuid()} that not everybody may write to"
            )

    def _take_lock(self) -> int:
        # Not accessible to others: whoever can open the lock can hold it, and keep the server from being started.
        descriptor = open_own(self.data / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Empty for the instant between the holder's flock and its write.
            holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
            os.close(descriptor)
            raise EmbeddedError(
                f"the data folder {self.data} is in use by process {holder}; stop that one or choose another folder"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor

    def _stop_orphan(self) -> None:
        """Stop a postmaster that runs on this cluster: the lock is ours, so the process that started it is gone.

        If it survives even SIGKILL, the server that is started next reports it.
        """
        for stop_signal in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            pid = self._postmaster()
            if pid is None:
                return
            try:
                os.kill(pid, stop_signal)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + STOP_TIMEOUT
            while self._postmaster() is not None and time.monotonic() < deadline:
                time.sleep(POLL_INTERVAL)  # not our child: there is no portable way to wait for it

    def _postmaster(self) -> int | None:
        """Return the process id of a running postmaster of this cluster, whoever started it, else None.

        postmaster.pid outlives a killed server and process ids are used again, so the process is checked: a postmaster
        works in its data directory. A zombie has no working directory any more, so it does not count as running.
        """
        try:
            pid = int((self.cluster / "postmaster.pid").read_text().partition("\n")[0])
        except (FileNotFoundError, ValueError):
            return None
        if not Path("/proc/self/cwd").exists():
            pg_ctl = self.programs.bindir / "pg_ctl"
            return pid if self.programs.account.problem(pg_ctl, "status", "-D", self.cluster) is None else None
        try:
            program = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
            ours = os.path.samefile(f"/proc/{pid}/cwd", self.cluster) and b"postgres" in os.path.basename(program)
        except OSError:
            return None
        return pid if ours else None

    def _make_socket_dir(self) -> None:
        self._remove_socket_dir()
        link = self.data / "socket"
        # libpq takes a host with a comma for two hosts, so such a path cannot be used either.
        if len(os.fsencode(link / f".s.PGSQL.{self.port}")) <= IPC_PATH_LIMIT and "," not in str(link):
            self.socket_dir = link
            link.mkdir()
        else:
            self.socket_dir = Path(tempfile.mkdtemp(prefix="poold-", dir="/tmp"))
            link.symlink_to(self.socket_dir)
        self.programs.account.give(self.socket_dir)

    def _remove_socket_dir(self) -> None:
        """Remove DATA/socket and, if it is a link, its folder under /tmp, also those of an owner that was killed.

        Under /tmp somebody else may have made a link of that name since, which rmtree refuses to follow.
        """
        link = self.data / "socket"
        shutil.rmtree(link.readlink() if link.is_symlink() else link, ignore_errors=True)
        link.unlink(missing_ok=True)

    def _make_cluster(self) -> None:
        """Make the cluster under another name, so that `cluster` is complete whenever it exists."""
        folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.data))
        self.programs.account.give(folder)
        try:
            if self._standby_of is None:
                self._initdb(folder)
            else:
                copying = ["--checkpoint=fast", "--write-recovery-conf", "--no-sync"]
                self.programs.run("pg_basebackup", "-D", folder, "-d", self._standby_of, *copying)
            folder.rename(self.cluster)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _initdb(self, folder: Path) -> None:
        """Run initdb; without syncing, as the cluster holds nothing of value before the kernel has written it out."""
        arguments = ["-D", str(folder), "-U", USER, "-E", "UTF8", "--auth=trust", "--no-sync"]
        try:
            self.programs.run("initdb", *arguments, "--locale=C.UTF-8")
        except EmbeddedError:
            # Older C libraries have no C.UTF-8. With C, lower() and upper() know ASCII only.
            self.programs.run("initdb", *arguments, "--locale=C")

    # -- the process

    def _launch(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            self._spawn()
            try:
                self.wait_ready()
                return
            except EmbeddedError:
                if MEMORY_IN_USE not in self._last_words() or time.monotonic() > deadline:
                    raise

    def _spawn(self) -> None:
        settings = {"unix_socket_directories": '"{}"'.format(str(self.socket_dir).replace('"', '""')), **self._settings}
        arguments = ["-D", str(self.cluster), "-p", str(self.port)]
        arguments += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        log = open_own(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            self._log_start = os.fstat(log).st_size
            self._process = self.programs.spawn("postgres", arguments, log)
        finally:
            os.close(log)

    def _halt(self, mode: str) -> None:
        """Stop the process; if it does not end within STOP_TIMEOUT, it gets the next harsher signal."""
        for stop_signal in (STOP_SIGNALS[mode], signal.SIGQUIT, signal.SIGKILL):
            if not self.running or self._process is None:
                return
            self._process.send_signal(stop_signal)
            self._alive_after(STOP_TIMEOUT)

    def _alive_after(self, timeout: float) -> bool:
        """Whether the process still runs after timeout seconds; returns as soon as it ends."""
        if self._process is None:
            return False
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.dsn(connect_timeout=2)).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _last_words(self) -> str:
        """Return the end of what the server has logged since this start."""
        log = self.log.read_bytes()[self._log_start :] if self.log.exists() else b""
        lines = log.decode(errors="replace").splitlines()[-LOG_LINES:]
        return f"The end of {self.log}:\n  " + "\n  ".join(lines or ["(empty)"])
