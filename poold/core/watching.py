"""The steps of what the broker asks by itself: see `watch`."""

from __future__ import annotations

from poold.core.effects import Plain
from poold.core.facts import Completion
from poold.core.losses import Losses
from poold.core.machine import CANCEL_TIMEOUT
from poold.core.pools.group import Group
from poold.core.pools.pool import Pool
from poold.core.pools.watch import LOOK_AFTER, LOOK_TIMEOUT, Watch, outlives, pids, who_waits
from poold.core.records.backend import Backend
from poold.core.records.client import NOBODY
from poold.core.records.request import Request, Verb
from poold.core.state import RequestState
from poold.core.statements.catalog import COUNTS
from poold.core.work.references import only_cell


class Watching(Losses):
    """Questions to the servers that nobody asked for."""

    def _look_at_catalogs(self, pool: Pool, now: float) -> None:
        """Ask whether the catalogs have changed, where anything rests on that."""
        watch = pool.watch
        if watch.catalogs and not watch.is_asking and pool.size > len(pool.connecting):
            watch.is_asking = True
            self._question(pool, Verb.CATALOGS, now).unit = (Plain(COUNTS),)
            self._serve(pool.group, now)

    def _question(self, pool: Pool, verb: Verb, now: float) -> Request:
        """A question that waits for a backend of the pool. Whoever calls this lets _serve follow."""
        question = Request(NOBODY, 0, pool.group, verb, now)
        question.pool = pool
        question.become(RequestState.ASKING)
        pool.questions.append(question)
        return question

    def _told_by_server(self, backend: Backend, question: Request, done: Completion, now: float) -> None:
        """The answer to a question, or none."""
        watch = backend.pool.watch
        rows = done.results[-1].rows if done.failure is None else None
        if question.verb is Verb.CATALOGS:
            watch.is_asking = False
            # Without an answer nothing is known to stand still.
            if rows is None or watch.have_changed(only_cell(rows)):
                self._begin_anew()
            return
        watch.looked = None
        waiting = pids(rows or b"")
        for each in watch.suspects(now):
            if each.server.pid in waiting:
                self._let_run_alone(each, now)
                break  # a cancel costs the server a millisecond: one at a time

    def _unasked(self, question: Request) -> None:
        """The backend that was asked is gone."""
        assert question.pool is not None
        watch = question.pool.watch
        if question.verb is Verb.CATALOGS:
            watch.is_asking = False
        else:
            watch.looked = None

    def _joined(self, pool: Pool, now: float) -> None:
        """A statement waits behind another one: have a look at them soon."""
        watch = pool.watch
        if not watch.is_armed:
            watch.is_armed = True
            self.timers.set(watch, now + LOOK_AFTER)

    def _waits(self, group: Group, now: float) -> None:
        """A request waits for a backend of the group: have a look at what they run soon."""
        for pool in group.pools:
            if pool.active and not pool.watch.is_armed:
                self._joined(pool, now)

    def _watch_due(self, watch: Watch, now: float) -> None:
        """Ask who waits for a lock while others wait behind it."""
        watch.is_armed = watch.has_company()
        if not watch.is_armed:
            return
        self.timers.set(watch, now + LOOK_AFTER)
        suspects = watch.suspects(now)
        if not suspects:
            return
        if watch.looked is None:
            watch.looked = now
            self._question(watch.pool, Verb.LOCKS, now).unit = who_waits(suspects)
            self._serve(watch.pool.group, now)
        elif now - watch.looked >= LOOK_TIMEOUT:
            for each in suspects:
                if outlives(each, now):
                    self._let_run_alone(each, now)
                    break

    def _let_run_alone(self, backend: Backend, now: float) -> None:
        """Cancel what the backend runs; it runs again by itself. All that the cancel may hit are plain reads."""
        head = backend.running[0]
        if head.state is RequestState.RUNNING:
            head.is_alone = head.is_exposed = True
            head.yields += 1
            self.timers.set(backend, now + CANCEL_TIMEOUT)
            self._send_cancel(backend)
