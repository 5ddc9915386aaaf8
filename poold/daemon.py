"""The broker process: puts core, frontend and backends together and runs the broker's turns.

One turn takes all facts that have come, lets the core decide, carries out its effects and goes back to sleep until the
next fact or deadline:

    1. callbacks of ready descriptors give their facts to the core and call `_wake`, which schedules one turn
    2. deadlines that are due
    3. effects, again and again until there are none, as some have an immediate answer; each time what they gave to
       backends is sent
    4. messages that arrived meanwhile (ZMQ_FD is edge-triggered)
    5. the timer for the next deadline

An exception that nobody expected ends the broker with an error: clients learn it at once and PostgreSQL rolls back,
whereas a broker that goes on in a state it does not understand could answer the wrong client.
"""

import asyncio
import gc
import logging
import os
import random
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import uvloop

from client.compiled import describe, load
from client.wire.address import ipc_path
from client.wire.messages import Answer, Ask, Failure
from poold import __version__, notes
from poold.answers import Answers
from poold.clients.frontend import Frontend
from poold.clients.transport import Peer
from poold.config import descriptors
from poold.config.model import Config
from poold.config.source import Source
from poold.core import effects
from poold.core.broker import Broker
from poold.core.clients import access
from poold.core.sections.wanted import GROUPS, Wanted
from poold.core.shared.queue import Queue
from poold.inheriting import Inheriting
from poold.listening import listening_transport
from poold.metrics.server import MetricsServer, metrics_socket
from poold.postgres.backends import Backends
from poold.postgres.observation import Observers
from poold.predecessors import Predecessors
from poold.readiness import refused_groups, unready_groups
from poold.reloading import Reloading
from poold.replacing import Replacing
from poold.service import Service
from poold.system.address_claim import AddressClaim
from poold.system.inherited_socket import inherited_socket, taken_over
from poold.system.poller import Poller
from poold.system.rate_limited_log import tell_all
from poold.system.succession import Inheritance
from poold.system.timelines import Timelines, default_folder

log = logging.getLogger(__name__)

_LANE = load("poold.lane.lane")
# How long clients may take nothing of the last replies, in seconds.
LAST_REPLIES = 5.0
# The first of these lets running work finish, the second stops at once, and so does SIGQUIT.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

# Is called with the broker's address and the groups that have no backend yet, with the reasons.
Ready = Callable[[str, Mapping[str, str]], None]


def run(
    config: Config,
    ready: Ready,
    command: Sequence[str] = (),
    inheritance: Inheritance | None = None,
    source: Source | None = None,
) -> None:
    """Serve until stopped by a signal or a client; ready is called when each group has a backend or cannot have one.

    Clients may connect before that, unless this one takes over from another broker. command starts a broker like this
    one, () if none can take over from it; inheritance is what this one takes over; source is where the configuration
    comes from, None if it cannot be read again.

    Raises AddressInUse if another broker serves the address, OSError if it cannot be bound, ValueError if this process
    has got the socket of another address or may have too few files open, NotTakenOver, and BrokerCrashed.
    """
    # A broker makes many small objects and few cycles, so garbage collection ten times less often does no harm.
    gc.set_threshold(7000, 20, 20)
    broker = config.broker
    if objection := descriptors.objection(broker, config.endpoints, config.groups):
        raise ValueError(objection)
    has_keys = broker.key_file is not None and broker.client_keys is not None
    estate = None if inheritance is None else inheritance.estate
    inherited = inherited_socket(broker.address, os.environ) if estate is None else None
    is_managed = inherited is not None if estate is None else estate.is_managed
    with AddressClaim(broker.address, has_keys, broker.has_lists, is_managed, estate) as claim:
        if exposure := claim.exposure():
            log.warning("the socket's mode does not go with the configuration reason=%s", exposure)
        listener = inherited if estate is None else taken_over(estate.listener)
        metrics = metrics_socket(broker.metrics_address, -1 if estate is None else estate.metrics)
        uvloop.run(Daemon(config, claim, command, inheritance, listener, metrics, source).serve(ready))


class BrokerCrashed(RuntimeError):
    """The broker ended because of an exception that nobody expected; the text gives only the exception's type."""


class Daemon:
    """One broker process."""

    def __init__(
        self,
        config: Config,
        claim: AddressClaim,
        command: Sequence[str],
        inheritance: Inheritance | None = None,
        listener: socket.socket | None = None,
        metrics: socket.socket | None = None,
        source: Source | None = None,
    ) -> None:
        """listener listens at the broker's address already, metrics at its own; the others are `run`'s."""
        self._inheritance = inheritance
        self._listener = listener
        self._metrics_socket = metrics
        self._claim = claim
        self._command = command
        self._source = source
        # The compiled modules of the lane, None without one.
        self._compiled = _LANE if ipc_path(config.broker.address) is not None else None
        make_queue = Queue if self._compiled is None else self._compiled.Queue
        state_dir = config.broker.state_dir
        self._timelines = Timelines(Path(state_dir) if state_dir else default_folder())
        self._broker = Broker(
            config,
            random.random,
            has_lane=self._compiled is not None,
            make_queue=make_queue,
            timelines=self._timelines.remembered(),
        )
        reload, reopened = lambda: self._reloading.begin(lambda _: None), lambda: self._predecessors.reopen_logs()
        self._service = Service(self._broker, self._turn, reload, reopened)
        self._lane: Any = None
        self._frontend: Frontend
        self._backends: Backends
        self._observers: Observers
        self._answers: Answers
        self._metrics: MetricsServer
        self._predecessors: Predecessors
        self._replacing: Replacing
        self._reloading: Reloading
        self._is_turn_scheduled = False
        # The timer that wakes the broker for its next deadline, and that deadline.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_deadline: float | None = None
        self._is_told = False  # whether somebody has told this broker to end; a restart does not
        self._stopped: asyncio.Future[None]
        self._loop: asyncio.AbstractEventLoop

    async def serve(self, ready: Ready) -> None:
        """Serve until the core says Stop."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._crashed)
        self._stopped = self._loop.create_future()
        if self._compiled is not None:
            self._lane = self._compiled.Lane(self._broker, self._loop.call_later)
        poller = Poller(self._lane)
        self._backends = Backends(self._broker.config, self._broker, self._wake, poller)
        self._observers = Observers(self._broker.config, self._broker, self._wake)
        if self._lane is not None:
            self._lane.attach(self._backends)
        listen = partial(listening_transport, self._broker.config, poller, self._listener, self._claim.is_managed)
        self._frontend = Frontend(self._broker.config, self._broker, self._answer, self._wake, listen, self._release)
        why_none = describe() if _LANE is None else "not over tcp"
        self._predecessors = Predecessors(self._broker, self._frontend, poller)
        told = (self._lane, why_none, self._predecessors.figures)
        self._answers = Answers(self._broker.config, self._broker, self._frontend, *told)
        self._metrics = MetricsServer(self._metrics_socket, poller, self._answers.page)
        served = (self._frontend, self._metrics, self._predecessors)
        inheriting = Inheriting(self._inheritance, self._claim, *served, poller, self._stopped)
        parts = (self._frontend, self._metrics, self._service, self._predecessors, poller)
        self._replacing = Replacing(self._command, self._claim, self._broker, *parts, self._begin_stop)
        lost = partial(self._replacing.objection, "reload")
        self._reloading = Reloading(self._source, self._broker, self._apply, self._service.reload, lost)
        for number in STOP_SIGNALS:
            self._loop.add_signal_handler(number, self._signalled, number)
        self._service.begin(self._loop)
        try:
            self._broker.start(monotonic())
            self._wake()
            inheriting.begin()
            log.info("broker started address=%s pid=%d version=%s", self._frontend.address, os.getpid(), __version__)
            unready = await self._unready()
            await inheriting.take_over(unready)
            if not self._stopped.done():
                ready(self._frontend.address, unready)
                self._service.ready()
            await self._stopped
            await self._frontend.finish(LAST_REPLIES, max(LAST_REPLIES, self._broker.config.broker.drain_timeout))
            await self._backends.finish()
            await self._metrics.finish()
        finally:
            self._service.end()
            inheriting.close()
            self._replacing.close()
            self._predecessors.close()
            self._reloading.close()
            self._answers.close()
            self._backends.close_all()
            self._observers.close()
            self._frontend.close()
            self._metrics.close()
            poller.close()
            tell_all()
            log.info("broker stopped pid=%d", os.getpid())

    async def _unready(self) -> dict[str, str]:
        """Wait for the groups; return those that cannot serve, and why."""
        config = self._broker.config
        unready = await unready_groups(
            lambda: self._broker.snapshot(monotonic(), wanted=Wanted((GROUPS,))), config.groups, self._stopped
        )
        return unready if self._inheritance is None else unready | await refused_groups(config.as_it_is())

    def _wake(self) -> None:
        """Schedule a turn, as there are facts. Facts that come until then share it."""
        if not self._is_turn_scheduled:
            self._is_turn_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_turn_scheduled = False
        if self._stopped.done():
            return
        broker = self._broker
        deadline = broker.next_deadline()
        if deadline is not None and deadline <= monotonic():
            broker.tick(monotonic())
        while todo := broker.take():
            for effect in todo:
                self._carry_out(effect)
            self._backends.flush()
        self._frontend.after_turn()
        deadline = broker.next_deadline()
        if deadline != self._timer_deadline:
            self._arm(deadline)

    def _carry_out(self, effect: effects.Effect) -> None:
        """Hand the effect to the part that can carry it out; the most frequent effects come first."""
        match effect:
            case effects.Execute():
                self._backends.execute(effect.backend, effect.unit)
            case effects.Reply():
                self._frontend.reply(effect.client, effect.body)
            case effects.Connect():
                self._backends.connect(effect.backend, effect.group, effect.endpoint, effect.is_read_only)
            case effects.Cancel():
                self._backends.cancel(effect.backend)
            case effects.Look():
                self._backends.look(effect.backend)
            case effects.Close():
                self._backends.close(effect.backend, effect.reason, effect.is_cancelled)
            case effects.Feed():
                self._backends.feed(effect.backend, effect.data)
            case effects.EndFeed():
                self._backends.end_feed(effect.backend, effect.error)
            case effects.Hold():
                self._backends.hold(effect.backend, effect.is_held)
            case effects.Tell():
                self._frontend.tell(effect.client, effect.body)
            case effects.Drop():
                self._frontend.drop(effect.client, effect.reason)
            case effects.Lend():
                self._lend(effect.backend)
            case effects.Teach():
                self._lane.teach(effect.flow)
            case effects.Recall():
                self._lane.recall(effect.backend, effect.at_once)
            case effects.Poke():
                if (group := self._broker.groups.get(effect.group)) is not None:
                    self._lane.poke(group)
            case effects.Observe():
                self._observers.observe(effect.endpoint, effect.question)
            case effects.Locate():
                self._observers.locate(effect.endpoint)
            case effects.Leave():
                self._observers.leave(effect.endpoint)
            case effects.Remember():
                self._timelines.remember(effect.system, effect.timeline)
            case effects.Note():
                notes.write(effect)
            case effects.Stop():
                if not self._stopped.done():
                    self._stopped.set_result(None)
                    self._predecessors.cut_off()
                    self._frontend.read_last()  # the core's answers come with the next effects

    def _lend(self, number: int) -> None:
        """Lend a backend to the lane, or tell the core that the lane cannot have it."""
        found, backend = self._backends.lendable(number), self._broker.backends.get(number)
        if backend is None:
            return  # the broker has stopped
        if found is not None:
            descriptor, wire = found
            self._lane.lend(descriptor, backend, wire, monotonic())
        else:
            self._broker.lent_back(number, monotonic(), is_refused=True)

    def _release(self, key: int) -> None:
        """Give the core all of a client's requests that the lane has."""
        if self._lane is not None:
            self._lane.release(self._broker.clients[key])

    def _arm(self, deadline: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_deadline = deadline
        if deadline is not None:
            self._timer = self._loop.call_later(max(0.0, deadline - monotonic()), self._turn_on_time)

    def _turn_on_time(self) -> None:
        self._timer = self._timer_deadline = None
        self._wake()

    def _signalled(self, number: signal.Signals) -> None:
        """The first signal drains, one behind it or behind `poold stop` stops at once, and SIGQUIT always does."""
        log.info("signal received name=%s", signal.Signals(number).name)
        self._told_to_stop(at_once=number == signal.SIGQUIT or self._is_told)

    def _told_to_stop(self, at_once: bool) -> None:
        self._is_told = True
        self._begin_stop(at_once)

    def _apply(self, config: Config, renewed: Sequence[str]) -> None:
        """Let another configuration hold, in all parts at once; renewed are endpoints whose files are not the same."""
        before = self._broker.config.as_it_is()
        self._broker.reconfigured(config, monotonic(), renewed)
        if self._lane is not None:
            self._lane.reconfigured()
        for part in (self._backends, self._observers):
            part.reconfigured(before, renewed)
        self._wake()

    def _begin_stop(self, at_once: bool) -> None:
        self._replacing.stopping()
        self._predecessors.stop()
        if at_once:
            if self._lane is not None:
                self._lane.release_all()
            self._broker.stop(monotonic())
        else:
            self._broker.drain(monotonic())
        self._frontend.draining()
        self._service.stopping(0 if at_once else self._broker.config.broker.drain_timeout)
        self._wake()

    def _answer(self, message: Ask, peer: Peer) -> dict[str, Any] | Answer | Failure | None:
        """Answer a question to the broker itself; the core decides who may ask it. None: the core answers later."""
        refused = access.may_not_ask(message.what, peer.caller(), self._broker.config.broker.admin_uids)
        if refused is not None:
            log.warning("question refused pid=%d uid=%s what=%s", peer.pid, peer.uid, message.what)
            return refused
        if message.what not in ("reload", "restart") and (lost := self._replacing.objection(message.what)):
            return self._frontend.refuse(peer, message, lost)
        match message.what:
            case "ping":
                return {"pid": os.getpid(), "version": __version__, "state": self._broker.state.name.lower()}
            case "stats":
                return self._answers.stats(peer, message)
            case "metrics":
                return self._answers.metrics(peer, message)
            case "stop" | "stop-now":
                log.info("stop requested pid=%d uid=%s how=%s", peer.pid, peer.uid, message.what)
                self._told_to_stop(at_once=message.what == "stop-now")
                return {"pid": os.getpid(), "predecessors": self._predecessors.pids}
            case "restart":
                log.info("restart requested pid=%d uid=%s", peer.pid, peer.uid)
                return self._replacing.restart(peer, message)
            case "reload":
                log.info("reload requested pid=%d uid=%s", peer.pid, peer.uid)
                self._reloading.begin(partial(self._frontend.tell_later, peer, message.request))
                return None
            case "groups":
                return self._frontend.groups_of(peer, message)
            case _:
                return self._predecessors.order(peer, message)

    def _crashed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # The context's message is not logged: it may show the arguments of the callback that failed.
        kind = type(error).__name__ if error is not None else "trouble in the event loop"
        log.critical("unexpected error, the broker ends error=%s", kind, exc_info=error)
        if not self._stopped.done():
            self._stopped.set_exception(BrokerCrashed(f"the broker ended for an unexpected {kind}; its log says where"))
