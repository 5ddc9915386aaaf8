"""`poold reload` and SIGHUP: the configuration is read again, and holds as a whole or not at all.

It is read beside the loop, as files and names of users may be slow to come. Who asks while it is being read is answered
by another reading behind that: what he has written may not have been there for the first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from client.wire.messages import NOT_EXECUTED, Failure, plain_failure
from poold.config import contents, descriptors
from poold.config.changes import NEEDS_RESTART, NEEDS_START, Change, unchanged, what_changed
from poold.config.file import ConfigError
from poold.config.model import Config
from poold.config.source import Source
from poold.core.broker import Broker
from poold.core.state import BrokerState
from poold.system.side_threads import Aside

log = logging.getLogger(__name__)

# Seconds for which the files are waited for.
READ_TIMEOUT = 10.0
NO_FILE = "there is no configuration file: this broker has a private PostgreSQL, and a configuration that goes with it"


class _Reading(NamedTuple):
    config: Config
    warnings: list[str]
    digests: contents.Digests


# What is told of a reload.
Told = dict[str, Any] | Failure


class Reloading:
    """The reloads of one broker process."""

    def __init__(
        self,
        source: Source | None,
        broker: Broker,
        apply: Callable[[Config, Sequence[str]], None],
        about: Callable[[bool], None],
        objection: Callable[[], str],
    ) -> None:
        """source is None if there is no file to read.

        apply lets a configuration hold, with the names of endpoints whose files have another content. about is told
        when a reload begins (True), and when it is over. objection says why none is possible at the moment, "" if one
        is.
        """
        self._source = source
        self._broker = broker
        self._apply = apply
        self._about = about
        self._objection = objection
        self._aside: Aside[_Reading] = Aside("configuration")
        # As of the configuration that holds.
        self._digests: contents.Digests = {} if source is None else contents.digests(broker.config.as_it_is())
        # Who is to be told: enter by `begin`, leave when a reading that began later is over.
        self._asking: list[Callable[[Told], None]] = []
        self._task: asyncio.Task[None] | None = None

    def begin(self, tell: Callable[[Told], None]) -> None:
        """Read the configuration again, and then tell what came of it."""
        if self._source is None:
            log.warning("configuration not reloaded reason=%s", NO_FILE)
            self._about(True)
            self._about(False)
            tell(plain_failure("usage", NOT_EXECUTED, f"not reloaded: {NO_FILE}"))
            return
        if refusal := self._impossible(self._source):
            self._about(True)
            self._about(False)
            tell(refusal)
            return
        self._asking.append(tell)
        if self._task is None:
            self._about(True)
            self._task = asyncio.get_running_loop().create_task(self._run(self._source))
            self._task.add_done_callback(_raise)

    def close(self) -> None:
        """The loop ends: tell nobody any more."""
        self._asking.clear()
        if self._task is not None:
            self._task.cancel()

    async def _run(self, source: Source) -> None:
        while self._asking:
            asking, self._asking = self._asking, []
            told = await self._reload(source)
            for tell in asking:
                tell(told)
        self._task = None
        self._about(False)

    async def _reload(self, source: Source) -> Told:
        warnings: list[str] = []
        try:
            reading = await self._aside.ask(lambda: _read(source), READ_TIMEOUT)
        except ConfigError as error:
            return self._refuse(source, error.problems)
        except TimeoutError:
            return self._refuse(source, [f"it could not be read within {READ_TIMEOUT:g} s"])
        except (OSError, ValueError) as error:
            return self._refuse(source, [str(error)])
        config, warnings, digests = reading
        # A restart that has begun meanwhile has read at least what this one has.
        if refusal := self._impossible(source):
            return refusal
        if objection := descriptors.objection(config.broker, config.endpoints, config.groups):
            return self._refuse(source, [objection])
        renewed = contents.renewed(self._digests, digests)
        changes = what_changed(self._broker.config.as_it_is(), config, renewed)
        self._apply(config, [table.removeprefix("endpoints.") for table, _ in renewed if table != "broker"])
        kept = {key: digest for key, digest in self._digests.items() if key[0] == "broker"}  # until a restart
        self._digests = {**digests, **kept}
        return _told(source, changes, unchanged(config, changes), warnings)

    def _impossible(self, source: Source) -> Failure | None:
        """Return what is told if no reload is possible at the moment, or not by this broker."""
        reason = self._objection()
        if not reason and self._broker.state in (BrokerState.DRAINING, BrokerState.STOPPED):
            reason = "the broker ends; a new one reads the configuration as it is by then"
        if not reason:
            return None
        log.error("configuration not reloaded source=%s reason=%s", source.name, reason)
        return plain_failure("usage", NOT_EXECUTED, f"not reloaded: {reason}")

    def _refuse(self, source: Source, problems: list[str]) -> Failure:
        for problem in problems:
            log.error(
                "configuration not reloaded: the one of before goes on source=%s problem=%s", source.name, problem
            )
        lines = [f"not reloaded, the configuration of before goes on; {source.name}: problems found: {len(problems)}"]
        return plain_failure("usage", NOT_EXECUTED, "\n  ".join([*lines, *problems]))


def _read(source: Source) -> _Reading:
    config, warnings = source.read()
    return _Reading(config, warnings, contents.digests(config))


def _told(source: Source, changes: list[Change], same: list[str], warnings: list[str]) -> dict[str, Any]:
    for warning in warnings:
        log.warning("password exposed reason=%s", warning)
    for change in changes:
        key, before, after = in_words(change), change.before, change.after
        if change.is_shown and change.key:
            log.info("configuration changed key=%s from=%s to=%s result=%s", key, before, after, change.result)
        else:
            log.info("configuration changed key=%s result=%s", key, change.result)
    waiting = sum(change.result == NEEDS_RESTART for change in changes)
    starting = sum(change.result == NEEDS_START for change in changes)
    log.info("configuration reloaded source=%s changes=%d needing_restart=%d", source.name, len(changes), waiting)
    return {
        "source": source.name,
        "changes": [_plain(change) for change in changes],
        "needing_restart": waiting,
        "needing_start": starting,  # then `poold restart` is refused, so others need it as well
        "unchanged": same,
        "warnings": warnings,
    }


def in_words(change: Change) -> str:
    """Return what has changed, as in groups.web.max_size."""
    return f"{change.table}.{change.key}" if change.key else change.table


def _plain(change: Change) -> dict[str, Any]:
    told = {"table": change.table, "key": change.key or None, "result": change.result}
    if change.is_shown and change.key:
        told |= {"from": change.before, "to": change.after}
    return told | {"replaces_backends": change.replaces}


def _raise(task: asyncio.Task[None]) -> None:
    """Let an exception that nobody expected end the broker."""
    if not task.cancelled():
        task.result()
