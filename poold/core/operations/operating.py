"""Operators' orders: each is a fact, and has an answer, at once or when it is carried out.

Whether somebody may give orders is decided before (`core.clients.access`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from client.wire.limits import MAX_TIMEOUT
from client.wire.messages import Answer, Ask, Failure
from poold.core.operations.closing import Closing
from poold.core.operations.killing import Killing
from poold.core.operations.pausing import PATIENCE, Pausing, kind_of, kinds_to_resume
from poold.core.operations.selection import ENDPOINT, GROUP, TIMEOUT, NotPossible, Selection, arguments_of, only, select
from poold.core.pools.directory import Directory
from poold.core.pools.lifecycle import Lifecycle
from poold.core.pools.pool import OF_ENDPOINTS, OF_GROUPS
from poold.core.work import failures

# What a question answers, or None if the answer comes later.
Told = dict[str, Any] | None


class Operating:
    """Carries out what operators ask for."""

    def __init__(
        self,
        directory: Directory,
        lifecycle: Lifecycle,
        pausing: Pausing,
        killing: Killing,
        closing: Closing,
    ) -> None:
        self._directory = directory
        self._lifecycle = lifecycle
        self._pausing = pausing
        self.killing = killing
        self._closing = closing
        self._orders: dict[str, Callable[[int, Ask, float], Told]] = {
            "reconnect": self._reconnect,
            "pause": self._pause,
            "drain": self._drain,
            "resume": self._resume,
            "kill": self.killing.kill,
        }

    def ask(self, key: int, message: Ask, now: float) -> Answer | Failure | None:
        """Carry out what the client with this key asks for. None: the answer is an effect later."""
        try:
            told = self._orders[message.what](key, message, now)
        except NotPossible as error:
            return failures.usage(str(error))._replace(request=message.request)
        return None if told is None else Answer(message.request, told)

    def _reconnect(self, _: int, message: Ask, __: float) -> Told:
        """Close all backends that there are, each as soon as it rests; others are opened as needed."""
        there = self._directory
        chosen = select(there.groups, there.endpoints, arguments_of(message, GROUP, ENDPOINT))
        count = sum(pool.size for pool in chosen.pools)
        for pool in chosen.pools:
            self._lifecycle.reconnect(pool)
        left = sum(backend.is_dismissed for pool in chosen.pools for backend in pool)
        return {"groups": chosen.names, "endpoint": chosen.endpoint or None, "closed": count - left, "closing": left}

    def _pause(self, key: int, message: Ask, now: float) -> Told:
        """Begin nothing in what is chosen, and answer when all that runs there has come to its end."""
        arguments = arguments_of(message, GROUP, ENDPOINT, TIMEOUT)
        chosen = self._to_be_paused(arguments)
        self._pausing.pause(key, message.request, chosen, kind_of(chosen), _seconds(only(arguments, TIMEOUT)), now)
        return None

    def _drain(self, key: int, message: Ask, now: float) -> Told:
        """As a pause, and answer when no backend is left there; of the whole broker if nothing is named."""
        arguments = arguments_of(message, GROUP, ENDPOINT, TIMEOUT)
        chosen = self._to_be_paused(arguments)
        is_whole = not arguments.keys() & {GROUP, ENDPOINT}
        kind, seconds = kind_of(chosen, is_drain=True), _seconds(only(arguments, TIMEOUT))
        undo = self._closing.open if is_whole and not self._closing.is_closed else None
        self._pausing.pause(key, message.request, chosen, kind, seconds, now, undo)
        if is_whole:
            self._closing.close()
        return None

    def _resume(self, _: int, message: Ask, __: float) -> Told:
        """Go on with what is chosen; with all that is paused if nothing is named."""
        arguments = arguments_of(message, GROUP, ENDPOINT)
        chosen = self._chosen(arguments)
        if self._closing.is_closed and arguments:
            raise NotPossible("the whole broker is drained, and goes on as a whole: poold resume, without a name")
        self._closing.open()
        resumed, failed = self._pausing.resume(chosen, kinds_to_resume(chosen, not arguments))
        names = dict.fromkeys(pool.group.configured for pool in resumed)
        told = {"groups": list(names), "endpoint": chosen.endpoint or None, "undone": failed}
        return told if names else {**told, "still": self._why_not(chosen)}

    def _why_not(self, chosen: Selection) -> list[str]:
        """What is paused or drained of the groups that are meant, and has to be resumed by another name."""
        kinds = OF_GROUPS if chosen.endpoint else OF_ENDPOINTS
        groups = set(chosen.groups)
        found = [
            each
            for pool in self._chosen({}).pools
            if (pool.group.main or pool.group) in groups and not pool.pauses.isdisjoint(kinds)
            for each in [pool.group.configured if chosen.endpoint else pool.endpoint.name]
        ]
        return [*dict.fromkeys(found)]

    def _to_be_paused(self, arguments: Mapping[str, list[str]]) -> Selection:
        if self._closing.is_ending:
            raise NotPossible("the broker ends and begins nothing more; there is nothing to pause")
        return self._chosen(arguments)

    def _chosen(self, arguments: Mapping[str, list[str]]) -> Selection:
        """What is to be paused, drained or resumed; also what is still open in groups that are removed."""
        there = self._directory
        return select(there.groups, there.endpoints, arguments, there.leaving)


def _seconds(text: str) -> float:
    """Return the timeout that was given, or the usual one."""
    try:
        seconds = float(text or PATIENCE)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise NotPossible(f"timeout is {text!r}; give seconds above 0 and up to {MAX_TIMEOUT:.0f}")
    return seconds
