"""Brokers that `poold restart` has replaced and that still finish what they had begun: what is known of them.

They have left the address, so orders reach only this broker. Each tells it again and again what is left to do, over the
conversation by which it has handed the address over, and is gone when that is over. Whoever waits for rest, by a pause
or a drain, waits for them first; only then the order is given here, as nothing begins over there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, cast

from client.wire.arguments import packed_arguments, unpacked_arguments
from client.wire.messages import Answer, Ask, Failure
from poold.clients.frontend import Frontend
from poold.clients.transport import Peer
from poold.core.broker import Broker
from poold.core.operations.pausing import PATIENCE
from poold.core.operations.selection import ENDPOINT, GROUP, TIMEOUT, NotPossible, Selection, arguments_of, select
from poold.core.records.flow import Flight
from poold.core.work import failures
from poold.system.conversation import Conversation
from poold.system.poller import Poller

log = logging.getLogger(__name__)

# Of each group, by its name: transactions, sessions, requests outside of these, and backends.
Work = dict[str, dict[str, int]]
# What is finished, and of what backends are a part.
KINDS = ("transactions", "sessions", "requests")
# The orders that wait for rest, and the words by which their answers say that they were carried out.
_WAITING = {"pause": "paused", "drain": "drained"}


def work_of(broker: Broker) -> Work:
    """Return what a broker still has to do. O(clients)."""
    found: dict[str, Counter[str]] = {}
    for group in broker.groups.values():
        found.setdefault(group.configured, Counter())["backends"] += group.size
    for client in broker.clients.values():
        for lease in client.leases.values():
            found.setdefault(lease.group.configured, Counter())["sessions" if lease.is_session else "transactions"] += 1
        for request in client.requests.values():
            if request.is_in_lane:
                found.setdefault(cast(Flight, request).flow.group.configured, Counter())["requests"] += 1
            elif request.lease is None:
                found.setdefault(request.group.configured, Counter())["requests"] += 1
    return {name: dict(each) for name, each in found.items() if any(each.values())}


@dataclass(slots=True, eq=False)
class Predecessor:
    """One of them."""

    pid: int
    conversation: Conversation
    work: Work | None = None  # None: it has not told yet

    def figures(self) -> dict[str, Any]:
        """What it has to do, over all groups; None of what it has not told yet."""
        totals: Counter[str] = Counter()
        for each in (self.work or {}).values():
            totals.update(each)
        counts = {kind: totals[kind] if self.work is not None else None for kind in (*KINDS, "backends")}
        return {"pid": self.pid, **counts}


@dataclass(slots=True, eq=False)
class _Held:
    """An order that waits for predecessors."""

    peer: Peer
    message: Ask
    chosen: Selection
    kinds: Sequence[str]  # of the work that has to be over
    names: frozenset[str] | None  # of the groups whose work that is; None: of all
    until_end: bool  # whether nothing will do but the predecessors' end
    began: float
    timeout: float
    timer: asyncio.TimerHandle | None = None

    def is_held_by(self, each: Predecessor) -> bool:
        """Whether the predecessor has what has to be over."""
        if self.until_end or each.work is None:
            return True
        concerned = [work for name, work in each.work.items() if self.names is None or name in self.names]
        return any(work.get(kind) for work in concerned for kind in self.kinds)


class Predecessors:
    """All that have not ended yet."""

    def __init__(self, broker: Broker, frontend: Frontend, poller: Poller) -> None:
        self._broker = broker
        self._frontend = frontend
        self._poller = poller
        self._loop = asyncio.get_running_loop()
        # By process: enter when they leave the address to this one, or to one before this one; leave when they end.
        self._known: dict[int, Predecessor] = {}
        self._held: list[_Held] = []

    @property
    def pids(self) -> list[int]:
        """Their processes."""
        return list(self._known)

    @property
    def conversations(self) -> list[tuple[int, int]]:
        """Their processes, and the descriptors of what they say."""
        return [(each.pid, each.conversation.descriptor) for each in self._known.values()]

    def figures(self) -> list[dict[str, Any]]:
        """What each of them has to do."""
        return [each.figures() for each in self._known.values()]

    def add(self, pid: int, conversation: Conversation) -> None:
        """A broker has left the address, and goes on to say what it has to do."""
        if conversation.is_over:
            conversation.close()
            return
        self._known[pid] = each = Predecessor(pid, conversation)
        self._broker.agenda.awaits_others = True
        self._poller.add_reader(conversation.descriptor, partial(self._hear, each))

    def leave(self) -> None:
        """Another broker takes over, and hears of them from here on."""
        for held in list(self._held):
            self._tell(held, failures.draining())
        self._close_all()

    def stop(self) -> None:
        """The broker begins to end. It keeps the address until they have ended, as orders reach only this one."""
        for held in list(self._held):
            self._tell(held, failures.draining())

    def reopen_logs(self) -> None:
        """This broker has opened its log again: theirs is the same file, and signals reach only this one."""
        for each in self._known.values():
            if not each.conversation.say(say="reopen"):
                log.warning("a broker before this one was not told to open its log again pid=%d", each.pid)

    def cut_off(self) -> None:
        """The broker ends, and has not waited for those that are left: whatever runs is cut off, so theirs as well."""
        for each in self._known.values():
            if not each.conversation.say(say="stop"):
                log.warning("a broker before this one was not told to stop pid=%d", each.pid)

    def close(self) -> None:
        """The loop ends."""
        for held in self._held:
            if held.timer is not None:
                held.timer.cancel()
        self._close_all()

    def order(self, peer: Peer, message: Ask) -> Answer | Failure | None:
        """Give an order to the core, or hold it until predecessors have ended what it is about."""
        if self._known and message.what in (*_WAITING, "resume"):
            try:
                held = self._order_about(peer, message)
            except (NotPossible, ValueError):
                return self._frontend.order(peer, message)  # the core says what is wrong
            if message.what == "resume":
                return self._frontend.order(peer, message, self._resumed(held))
            if any(map(held.is_held_by, self._known.values())):
                self._frontend.hold(peer, message)
                self._held.append(held)
                held.timer = self._loop.call_later(held.timeout, self._is_late, held)
                return None
        return self._frontend.order(peer, message)

    def _order_about(self, peer: Peer, message: Ask) -> _Held:
        arguments = arguments_of(message, GROUP, ENDPOINT, TIMEOUT)
        chosen = select(self._broker.groups, self._broker.endpoints, arguments)
        timeout = float(arguments.get(TIMEOUT, [""])[0] or PATIENCE)
        is_drain, is_all = message.what == "drain", not arguments.keys() & {GROUP, ENDPOINT}
        names = None if is_all else frozenset(chosen.names)
        # No connection may be left at an endpoint, and not every one of them is a group's.
        until_end = is_drain and (is_all or bool(chosen.endpoint))
        kinds = ("backends",) if is_drain else KINDS
        return _Held(peer, message, chosen, kinds, names, until_end, monotonic(), timeout)

    def _hear(self, each: Predecessor) -> None:
        for message in each.conversation.hear():
            if message["say"] == "left":
                each.work = message["work"]
        if each.conversation.is_over:
            self._forget(each)
            self._frontend.wake()  # a drain may be over
            log.info("the broker before this one has ended pid=%d", each.pid)
        for held in list(self._held):
            if not any(map(held.is_held_by, self._known.values())):
                self._give(held)

    def _give(self, held: _Held) -> None:
        """Give the order, with what is left of its time."""
        left = max(0.001, held.began + held.timeout - monotonic())
        given = unpacked_arguments(held.message.arguments) | {TIMEOUT: [f"{left:.3f}"]}
        pairs = [(name, value) for name, values in given.items() for value in values]
        order = held.message._replace(arguments=packed_arguments(pairs))
        if not self._frontend.is_there(held.peer):
            self._drop(held)
            return
        told = self._frontend.order(held.peer, order)
        if told is None:
            self._drop(held)
        else:
            self._tell(held, told.body if isinstance(told, Answer) else told)

    def _is_late(self, held: _Held) -> None:
        """Say what predecessors still have to do; nothing is to be undone."""
        self._tell(
            held,
            {
                "groups": held.chosen.names,
                "endpoint": held.chosen.endpoint or None,
                _WAITING[held.message.what]: False,
                "waited_ms": round((monotonic() - held.began) * 1000),
                "busy": [],
                "busy_not_shown": 0,
                "in_doubt": 0,
                "predecessors": [each.figures() for each in self._known.values() if held.is_held_by(each)],
            },
        )

    def _resumed(self, resumed: _Held) -> int:
        """End the orders that are about any of it; returns for how many of them somebody still waits."""
        ended = [each for each in self._held if not set(each.chosen.pools).isdisjoint(resumed.chosen.pools)]
        count = sum(self._frontend.is_there(each.peer) for each in ended)
        for held in ended:
            self._tell(held, failures.usage("another command has resumed it before it came to rest"))
        return count

    def _tell(self, held: _Held, told: dict[str, Any] | Failure) -> None:
        self._drop(held)
        self._frontend.tell_later(held.peer, held.message.request, told)

    def _drop(self, held: _Held) -> None:
        self._held.remove(held)
        if held.timer is not None:
            held.timer.cancel()

    def _forget(self, each: Predecessor) -> None:
        del self._known[each.pid]
        self._poller.remove_reader(each.conversation.descriptor)
        each.conversation.close()
        self._broker.agenda.awaits_others = bool(self._known)

    def _close_all(self) -> None:
        for each in list(self._known.values()):
            self._forget(each)
