"""One database cluster: its primary, how far its log has come, and what of it each process has to see.

A replica shows what it has replayed. So that a process never reads less than it has written itself, the primary is
asked for its position behind the process's writes, and the process reads on replicas that have replayed so much. One
question serves all writes that were acknowledged before it. A process that was not seen before may have written
something through another broker, or before this one was started, and counts as one that has just written.

Positions are bytes of the write-ahead log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable

from poold.core.pools.endpoint import Endpoint

# Positions of the primary are kept for so long, in seconds, to tell how far replicas are behind.
HISTORY = 120.0
# One of them in so long is enough.
HISTORY_STEP = 0.1


class Writes:
    """What one process has written."""

    __slots__ = ("due", "is_fresh", "is_loose", "position")

    def __init__(self, due: int) -> None:
        # The first question for the primary's position that covers its last write; 0 if that is answered.
        self.due = due
        # Whether a write may have been acknowledged before it was flushed (synchronous_commit = off).
        self.is_loose = True
        self.is_fresh = True  # nothing that it wrote was seen
        self.position = 0  # what it has to see


class Cluster:
    """One database cluster. Also the key of the deadline of the next question for positions."""

    def __init__(self, system: str) -> None:
        self.system = system
        self.primary: Endpoint | None = None
        self.reign: tuple[object, ...] = ()  # its timeline and its start: with another one positions begin anew
        self.timeline = 0  # the last primary's
        # The primary's counts of its catalogs, "" before it has told them; and while replicas have not replayed their
        # last change, the position behind it.
        self.catalogs = ""
        self.changed_at = 0
        self.asked = 0  # questions for the primary's position so far
        self.read = float("-inf")  # when a process last was to read on a replica
        # By process: enter when it writes or reads, leave by `forget`.
        self._writes: dict[Hashable, Writes] = {}
        # Those that wait for an answer.
        self._pending: list[Writes] = []
        # Times and positions of the primary, the oldest first.
        self._history: deque[tuple[float, int]] = deque()

    @property
    def is_due(self) -> bool:
        """Whether the primary's position is wanted."""
        return bool(self._pending)

    def wrote(self, process: Hashable, is_loose: bool) -> None:
        """A write of the process is being acknowledged. is_loose: perhaps before it was flushed."""
        writes = self._writes.get(process) or self._begin(process)
        if not writes.due:
            self._pending.append(writes)
            writes.is_loose = False
        writes.due = self.asked + 1
        writes.is_loose = writes.is_loose or is_loose
        writes.is_fresh = False

    def wanted(self, process: Hashable) -> int | None:
        """The position that a replica must have replayed for the process to read there; None if it is not known yet."""
        writes = self._writes.get(process)
        if writes is None:
            self._begin(process)
            return None
        return None if writes.due else writes.position

    def show(self, process: Hashable, position: int) -> None:
        """The process has to see this position as well."""
        writes = self._writes.get(process) or self._begin(process)
        writes.position = max(writes.position, position)

    def _begin(self, process: Hashable) -> Writes:
        writes = self._writes[process] = Writes(self.asked + 1)
        self._pending.append(writes)
        return writes

    def located(self, question: int, flushed: int, inserted: int, now: float) -> None:
        """The primary has answered this question for its position."""
        pending, self._pending = self._pending, []
        for writes in pending:
            if writes.due <= question:
                writes.due = 0
                writes.position = max(writes.position, inserted if writes.is_loose else flushed)
            else:
                self._pending.append(writes)
        self.note(flushed, now)

    def assume(self, position: int) -> None:
        """There is no primary to ask. Who was not seen writing has to see what the primary was last known to have.

        position is what is known of otherwise: that of the replica that is furthest.
        """
        if self._history:
            position = max(position, self._history[-1][1])
        for writes in self._pending:
            if writes.is_fresh:
                writes.due, writes.position = 0, position
        self._pending = [each for each in self._pending if each.due]

    def have_catalogs_changed(self, counts: str, position: int) -> bool:
        """The primary tells its counts of the catalogs, and where it is. Returns whether they have changed."""
        before, self.catalogs = self.catalogs, counts
        if before in ("", counts):
            return False
        self.changed_at = position
        return True

    def note(self, position: int, now: float) -> None:
        """The primary has come so far."""
        history = self._history
        if not history or now - history[-1][0] >= HISTORY_STEP:
            history.append((now, position))
            while now - history[0][0] > HISTORY:
                history.popleft()

    def lag(self, position: int, now: float) -> float:
        """For how many seconds a replica that has replayed so much has been behind the primary, at most."""
        since = now
        for time, reached in reversed(self._history):
            if reached <= position:
                return now - since
            since = time
        return now - since

    def bytes_behind(self, position: int) -> int:
        """How many bytes a replica that has replayed so much is behind the primary."""
        return max(0, self._history[-1][1] - position) if self._history else 0

    def begin_anew(self) -> None:
        """There is another primary: what was known of positions does not hold there, for any process.

        That a process has written holds. What it wrote may be there, and not on each of the replicas.
        """
        for writes in self._writes.values():
            writes.due, writes.position = self.asked + 1, 0
        self._pending = list(self._writes.values())
        self.catalogs = ""
        self._history.clear()

    def forget(self, processes: Collection[Hashable]) -> None:
        """Forget all processes but these; to be called from time to time."""
        if len(self._writes) > 2 * len(processes) + 100:
            self._writes = {each: self._writes[each] for each in processes if each in self._writes}
            self._pending = [each for each in self._writes.values() if each.due]
