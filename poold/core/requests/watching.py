"""The broker's regular questions to its servers, and what follows from the answers. The reasons: `pools.watch`."""

from __future__ import annotations

from poold.core.agenda import Agenda
from poold.core.effects import Plain, Unit
from poold.core.facts import Completion, Loss
from poold.core.pools.pool import Pool
from poold.core.pools.watch import LOOK_AFTER, LOOK_TIMEOUT, Watch, outlives, pids, who_waits
from poold.core.records.backend import Backend
from poold.core.records.client import NOBODY
from poold.core.records.request import Request, Verb
from poold.core.requests.waiting import Waiting
from poold.core.statements.catalog import COUNTS
from poold.core.statements.generations import Generations
from poold.core.work.decision import Decision, StepAside
from poold.core.work.references import only_cell


class Watching:
    """Asks the questions when their time has come."""

    def __init__(self, agenda: Agenda, waiting: Waiting) -> None:
        self._agenda = agenda
        self._waiting = waiting

    def look_at_catalogs(self, pool: Pool, now: float) -> None:
        """Ask whether the catalogs have changed, if a proof made on this pool's server depends on that."""
        watch = pool.watch
        if pool.is_told or pool.is_paused or pool.left:
            return
        if watch.catalogs and not watch.is_asking and pool.size > len(pool.connecting):
            watch.is_asking = True
            self._ask(pool, Verb.CATALOGS, (Plain(COUNTS),), now)

    def look_at_pipelines(self, watch: Watch, now: float) -> Decision:
        """Ask which statements wait for a lock while others wait for them.

        If no backend was free to ask for LOOK_TIMEOUT, a statement that took far longer than expected steps aside.
        """
        watch.is_armed = watch.has_company()
        if not watch.is_armed:
            return None
        self._agenda.timers.set(watch, now + LOOK_AFTER)
        suspects = watch.suspects(now)
        if suspects and watch.looked is None:
            watch.looked = now
            self._ask(watch.pool, Verb.LOCKS, who_waits(suspects), now)
        elif suspects and watch.looked is not None and now - watch.looked >= LOOK_TIMEOUT:
            for each in suspects:
                if outlives(each, now):
                    return StepAside(each.running[0])
        return None

    def _ask(self, pool: Pool, verb: Verb, unit: Unit, now: float) -> None:
        question = Request(NOBODY, 0, pool.group, verb, now)
        question.pool = pool
        question.unit = unit
        self._waiting.ask(question)


class CatalogsWork:
    """The question whether the catalogs have changed."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    def begin(self, _backend: Backend, request: Request, _now: float) -> Unit:
        """Return the question."""
        return request.unit

    def ended(self, backend: Backend, _request: Request, done: Completion, _now: float) -> Decision:
        """Begin a new generation of statements if the counts have changed, or if there is no answer."""
        watch = backend.pool.watch
        watch.is_asking = False
        rows = done.results[-1].rows if done.failure is None else None
        if rows is None or watch.have_changed(only_cell(rows)):
            self._generations.begin_anew()
        return None

    def lost(self, backend: Backend, _request: Request, _loss: Loss, _is_begun: bool, _now: float) -> Decision:
        """Note that no question is under way: it is asked again when its time has come."""
        backend.pool.watch.is_asking = False
        return None


class LocksWork:
    """The question which statements wait for a lock."""

    def begin(self, _backend: Backend, request: Request, _now: float) -> Unit:
        """Return the question."""
        return request.unit

    def ended(self, backend: Backend, _request: Request, done: Completion, now: float) -> Decision:
        """Let one statement that waits step aside. One at a time, as a cancel costs the server a millisecond."""
        watch = backend.pool.watch
        watch.looked = None
        waiting = pids((done.results[-1].rows if done.failure is None else None) or b"")
        for each in watch.suspects(now):
            if each.server.pid in waiting:
                return StepAside(each.running[0])
        return None

    def lost(self, backend: Backend, _request: Request, _loss: Loss, _is_begun: bool, _now: float) -> Decision:
        """Note that no question is under way: it is asked again when its time has come."""
        backend.pool.watch.looked = None
        return None
