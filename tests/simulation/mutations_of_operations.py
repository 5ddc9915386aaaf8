"""Mistakes in what the core does for operators, for worlds in which one gives orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from poold.core.pools import janitor, routing
from poold.core.pools.lifecycle import Lifecycle
from poold.core.state import BackendState

Blunder = Callable[[pytest.MonkeyPatch], None]
BLUNDERS: dict[str, Blunder] = {}


def blunder(function: Blunder) -> Blunder:
    """Put it on the list."""
    BLUNDERS[function.__name__.replace("_", " ")] = function
    return function


def wrap(patch: pytest.MonkeyPatch, owner: type, name: str, instead: Callable[..., Any]) -> None:
    """Let instead(original, self, ...) be the method."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda self, *args, **more: instead(original, self, *args, **more))


# Reconnect.


def _forgets(patch: pytest.MonkeyPatch, state: BackendState) -> None:
    """Reconnect does not see backends in this state."""

    def reconnect(original: Any, self: Lifecycle, pool: Any) -> None:
        kept = [backend for backend in pool if backend.state is state]
        for backend in kept:
            del pool.members[state][backend.number]
        original(self, pool)
        pool.members[state].update((backend.number, backend) for backend in kept)

    wrap(patch, Lifecycle, "reconnect", reconnect)


@blunder
def what_is_lent_is_not_dismissed(patch: pytest.MonkeyPatch) -> None:
    _forgets(patch, BackendState.LENT)


@blunder
def what_is_leased_is_not_dismissed(patch: pytest.MonkeyPatch) -> None:
    _forgets(patch, BackendState.LEASED)


@blunder
def what_is_being_opened_is_not_dismissed(patch: pytest.MonkeyPatch) -> None:
    _forgets(patch, BackendState.CONNECTING)


@blunder
def what_is_dismissed_is_used_again(patch: pytest.MonkeyPatch) -> None:
    reason_to_retire = janitor.reason_to_retire

    def reason(*args: Any) -> str | None:
        found = reason_to_retire(*args)
        return None if found == "reconnect" else found

    patch.setattr(janitor, "reason_to_retire", reason)


@blunder
def what_is_dismissed_takes_more_into_its_pipeline(patch: pytest.MonkeyPatch) -> None:
    is_company = routing.is_company

    def is_company_of_any(backend: Any, now: float) -> bool:
        is_dismissed, backend.is_dismissed = backend.is_dismissed, False
        found = is_company(backend, now)
        backend.is_dismissed = is_dismissed
        return found

    patch.setattr(routing, "is_company", is_company_of_any)


@blunder
def what_is_dismissed_is_closed_in_the_middle_of_its_lease(patch: pytest.MonkeyPatch) -> None:
    def reconnect(original: Any, self: Lifecycle, pool: Any) -> None:
        original(self, pool)
        for backend in list(pool.members[BackendState.LEASED].values()):
            self.close(backend, "reconnect")

    wrap(patch, Lifecycle, "reconnect", reconnect)
