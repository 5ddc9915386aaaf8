"""A primary and its standbys, all real servers, that change places as the test says: `with cluster() as servers`.

Nothing is repaired behind the test's back. A primary that was killed and is started again is a second primary until
`follow` makes a standby of it, and after a promotion the other standbys stay with the old primary, dead or alive.

How writes come to be lost: `detach` a standby, write, `kill` the primary, `promote` the standby. Nothing less will do:
a delayed or paused standby receives everything and replays it when it is promoted, and a frozen one finds in its
socket, once it is thawed, what a dead primary has sent.

Replication is asynchronous unless the test sets synchronous_standby_names; the standbys' names are those of the nodes.
"""

import shutil
import signal
import string
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from postgres import TEST_SETTINGS, PrivatePostgres, primary, runnable_bindir, server_folder, signal_all, standby
from waiting import wait_until

from poold.embedded.server import EmbeddedPostgres

Id = TypeVar("Id")

SETTINGS = {
    **TEST_SETTINGS,
    # pg_rewind has to know which pages were changed, if only by hints.
    "wal_log_hints": "on",
    # What a standby or pg_rewind may still want is kept, without slots.
    "wal_keep_size": "512MB",
    # And no more than that: a standby's copy and pg_rewind copy the files of WAL that are only waiting to be used, too.
    "min_wal_size": "32MB",
    "wal_recycle": "off",
    "wal_init_zero": "off",
    # A standby whose primary is gone looks for another so often; by default only every 5 s.
    "wal_retrieve_retry_interval": "50ms",
}
PAUSED = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
RECEIVED = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"
STREAMING = "SELECT received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = %s"
# A name of a WAL file: timeline, log, segment.
WAL_FILE = "[0-9A-F]" * 24
TIMELINE_DIGITS = 8
WAL_FILE_SIZE = 16 << 20


class Lineage(NamedTuple):
    """Where a server's data come from: its timeline, and the positions at which it left earlier ones."""

    timeline: int
    forks: dict[int, int]


class Node(PrivatePostgres):
    """One server of a cluster. Its address stays the same, whatever becomes of it."""

    def __init__(self, name: str, server: EmbeddedPostgres) -> None:
        super().__init__(server)
        self.name = name

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.server!r}>"

    @property
    def tcp_parameters(self) -> dict[str, Any]:
        """Those by way of 127.0.0.1."""
        return {**self.parameters, "host": "127.0.0.1"}

    # What a test may ask.

    def is_in_recovery(self) -> bool:
        ((answer,),) = self.execute("SELECT pg_is_in_recovery()")
        return bool(answer)

    def timeline(self) -> int:
        """The one that a primary writes, or that a standby receives or, without a primary, has received last."""
        if not self.is_in_recovery():
            ((name,),) = self.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
            return int(name[:TIMELINE_DIGITS], 16)
        received = self.execute("SELECT received_tli FROM pg_stat_wal_receiver")
        return int(received[0][0]) if received else self.lineage().timeline

    def position(self) -> int:
        """How far a primary has written to disk, or a standby has replayed, in bytes of WAL."""
        which = "pg_last_wal_replay_lsn" if self.is_in_recovery() else "pg_current_wal_flush_lsn"
        ((position,),) = self.execute(f"SELECT {which}() - '0/0'::pg_lsn")
        return int(position)

    def received(self) -> int:
        """How far a standby has received, of which it may not have replayed everything; a primary's position."""
        if not self.is_in_recovery():
            return self.position()
        ((position,),) = self.execute(RECEIVED)
        return int(position)

    def lineage(self) -> Lineage:
        """By the files in its folder, so also of a server that does not run."""
        folder = self.server.cluster / "pg_wal"
        # What is rewound to a lower timeline keeps WAL of the higher one, and a history may come before its WAL.
        begun = {int(file.name[:TIMELINE_DIGITS], 16) for file in folder.glob(WAL_FILE)}
        histories = {int(file.stem, 16): file for file in folder.glob("*.history")}
        timeline = max({1, *(begun & histories.keys())})
        forks = {}
        if timeline > 1:
            # Lines of three: a timeline, where it was left, why; and between them empty ones.
            for line in filter(None, histories[timeline].read_text().splitlines()):
                left, position, _ = line.split("\t")
                high, low = position.split("/")
                forks[int(left)] = int(high, 16) << 32 | int(low, 16)
        return Lineage(timeline, forks)

    def wal(self, timeline: int, position: int) -> bytes:
        """What its file of WAL holds that has the byte before the position, up to there."""
        number, last = divmod(position - 1, WAL_FILE_SIZE)
        file = self.server.cluster / "pg_wal" / f"{timeline:08X}{number >> 8:08X}{number & 0xFF:08X}"
        return file.read_bytes()[: last + 1]

    # What a test may do.

    def kill(self) -> None:
        """End all processes at once, as a failure of the machine does: none finishes what it has begun."""
        processes = self.freeze()
        signal_all(processes, signal.SIGKILL)
        super().kill()
        wait_until(lambda: not any(_state(pid) for pid in processes), what=f"the end of all processes of {self.name}")

    def stop(self) -> None:
        """Stop it in good order; `start` starts it again. A primary waits until its standbys have everything."""
        self.server.stop()

    def freeze(self) -> list[int]:
        """Stop all its processes where they are, until `thaw`; which these are. The kernel still takes connections."""
        # A postmaster that stands still starts no more processes.
        _stop(self.processes()[:1], self.name)
        processes = self.processes()
        _stop(processes, self.name)
        return processes

    def thaw(self) -> None:
        """Let its processes go on."""
        signal_all(self.processes(), signal.SIGCONT)

    def configure(self, **settings: str) -> None:
        """Change settings that need no restart: whatever a process begins from now on it does by these."""
        for setting, value in settings.items():
            self.execute(f"ALTER SYSTEM SET {setting} = %s", (value,))
        # A postmaster that has read them has also told all processes before it starts another one, which is asked.
        known = "SELECT name, setting FROM pg_settings WHERE name = ANY (%s)"
        self.execute("SELECT pg_reload_conf()")
        wait_until(lambda: dict(self.execute(known, (list(settings),))) == settings, what=f"{settings} in {self.name}")


class Cluster:
    """Servers by their names: "a", the first primary, and its standbys "b", "c" and so on."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.nodes: dict[str, Node] = {}
        # The one that was promoted last, "a" until then; where there are two, a test may choose the other.
        self.primary: Node
        self._folder = folder
        self._settings = {**SETTINGS, **settings}

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def start(self, standbys: int, bindir: Path) -> None:
        """Make them all, and wait until the standbys stream."""
        first = self.primary = self._keep("a", primary(self._folder / "a", bindir=bindir, **self._named("a")))
        # For the server that pg_rewind starts in a killed primary's folder. Without these it would say in the control
        # file that there are no hints, which pg_rewind would believe, and throw WAL away that pg_rewind wants.
        with (first.server.cluster / "postgresql.conf").open("a") as file:
            file.writelines(f"{setting} = '{value}'\n" for setting, value in SETTINGS.items())
        names = string.ascii_lowercase[1 : 1 + standbys]
        with ThreadPoolExecutor() as threads:
            for made in [threads.submit(self._make_standby, name) for name in names]:
                made.result()
        self.nodes = dict(sorted(self.nodes.items()))
        for name in names:
            self._wait_until_streaming(self[name], first)

    def close(self) -> None:
        """End them all, in whatever state they are."""
        for node in self.nodes.values():
            node.thaw()
            node.server.stop("immediate")

    # What a test may wish.

    def promote(self, name: str) -> None:
        """Make a primary of a standby: it takes writes when this returns. Nobody follows it but its own standbys.

        It begins a timeline one above the highest that it knows. Two that do not know of each other begin the same.
        """
        node = self[name]
        node.server.programs.run("pg_ctl", "promote", "-D", node.server.cluster)
        wait_until(lambda: not node.is_in_recovery(), what=f"the promotion of {name}")
        self.primary = node

    def follow(self, name: str, of: str) -> None:
        """Make a node a standby of another; it streams from that one, and replays without delay, when this returns.

        A standby that runs is pointed to the other one. An old primary, killed or not, is stopped and rewound to where
        the other one's data begin to differ. Who cannot come to the other one's data so is made anew as a copy of it: a
        standby that has received what the other one never had, or that does not run. One that is to go on where it was
        needs no more than `start`.
        """
        node, source = self[name], self[of]
        is_standby = (node.server.cluster / "standby.signal").exists()
        if is_standby and node.server.running:
            self.detach(name)
            if not _can_follow(node, source):
                self._copy(node, source)
        elif is_standby or node.lineage().timeline == source.lineage().timeline:
            # pg_rewind believes that two primaries on timelines of the same number have the same data.
            self._copy(node, source)
        else:
            self._rewind(node, source)
        self.resume(name)
        node.configure(primary_conninfo=source.dsn(), recovery_min_apply_delay="0")
        self._wait_until_streaming(node, source)

    def detach(self, name: str) -> None:
        """Let a standby receive nothing any more, until `follow`. What it has received it replays."""
        node = self[name]
        node.configure(primary_conninfo="")

        def is_alone() -> bool:
            # By itself it goes only when there is nothing to replay, which a delay or a pause puts off.
            node.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_wal_receiver")
            return not node.execute("SELECT FROM pg_stat_wal_receiver")

        wait_until(is_alone, what=f"the end of what {name} receives")

    def delay(self, name: str, milliseconds: int) -> None:
        """Let a standby replay commits so much later than they happened, by the primary's clock; 0 ends it."""
        self[name].configure(recovery_min_apply_delay=str(milliseconds))

    def pause(self, name: str) -> None:
        """Let a standby receive, but replay nothing until `resume`. It must not be delayed: a delay goes first."""
        node = self[name]
        node.execute("SELECT pg_wal_replay_pause()")
        wait_until(lambda: node.execute(PAUSED) == [(True,)], what=f"the pause of {name}")

    def resume(self, name: str) -> None:
        """End a pause; no error if there is none."""
        self[name].execute("SELECT pg_wal_replay_resume()")

    def wait_until_replayed(self, name: str, timeout: float = 10.0) -> None:
        """Wait until a standby has replayed all that the primary has now."""
        node, timeline, position = self[name], self.primary.timeline(), self.primary.position()
        what = f"all that {self.primary.name} has in {name}"
        wait_until(lambda: node.timeline() == timeline and node.position() >= position, timeout, what)

    def missing(self, name: str, table: str, ids: Iterable[Id], column: str = "id") -> set[Id]:
        """Those of the ids that have no row in the node's table."""
        return set(ids) - {found for (found,) in self[name].execute(f"SELECT {column} FROM {table}")}

    # How.

    def _keep(self, name: str, made: PrivatePostgres) -> Node:
        return self.nodes.setdefault(name, Node(name, made.server))

    def _named(self, name: str) -> dict[str, str]:
        """A node's settings. To its primary a standby calls itself by the name of its cluster."""
        return {**self._settings, "cluster_name": name}

    def _make_standby(self, name: str) -> None:
        self._keep(name, standby(self.primary, self._folder / name, **self._named(name)))

    def _rewind(self, node: Node, source: Node) -> None:
        """Make a standby of an old primary and start it; by pg_rewind, which ends crash recovery first where needed."""
        node.stop()
        source.execute("CHECKPOINT")  # before PostgreSQL 16, pg_rewind reads the timeline of the last one
        options = ["--write-recovery-conf", "--no-sync"]
        source.server.programs.run("pg_rewind", "-D", node.server.cluster, f"--source-server={source.dsn()}", *options)
        node.start()

    def _copy(self, node: Node, source: Node) -> None:
        """Put a new standby in the node's place and start it."""
        node.server.stop("immediate")
        shutil.rmtree(node.server.cluster)
        node.server = EmbeddedPostgres(
            node.server.data,
            bindir=source.server.programs.bindir,
            port=node.server.port,
            settings=self._named(node.name),
            standby_of=source.dsn(),
        )
        node.start()

    def _wait_until_streaming(self, node: Node, source: Node) -> None:
        def is_streaming() -> bool:
            return node.execute(STREAMING, (source.server.port,)) == [(source.timeline(),)]

        wait_until(is_streaming, what=f"what {node.name} receives from {source.name}")


@contextmanager
def cluster(standbys: int = 2, *, bindir: Path | None = None, **settings: str) -> Iterator[Cluster]:
    """A running cluster; bindir is where PostgreSQL's programs are.

    The settings hold for all nodes and as long as they live: what is to change is for `Node.configure` from the start.
    """
    with server_folder() as folder:
        made = Cluster(folder, settings)
        try:
            made.start(standbys, bindir or runnable_bindir(folder))
            yield made
        finally:
            made.close()


def _can_follow(node: Node, source: Node) -> bool:
    """Whether all that a detached standby has received is part of the other one's past, or of its timeline."""
    mine, theirs, received = node.lineage(), source.lineage(), node.received()
    if mine == theirs:
        # By their looks. Two timelines can have the same number and begin at the same place.
        common = min(received, source.received())
        return node.wal(mine.timeline, common) == source.wal(mine.timeline, common)
    return mine.timeline in theirs.forks and received <= theirs.forks[mine.timeline]


def _stop(pids: list[int], name: str) -> None:
    """SIGSTOP, and wait until it has come to all."""
    signal_all(pids, signal.SIGSTOP)
    wait_until(lambda: all(_state(pid) in ("T", "") for pid in pids), what=f"the stop of {name}")


def _state(pid: int) -> str:
    """A process's state in /proc: T if it is stopped; empty if it is gone, whether its parent knows or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state = stat.rpartition(")")[2].split()[0]
    return "" if state in ("Z", "X") else state
