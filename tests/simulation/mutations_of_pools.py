"""More mistakes: in how old backends are replaced, and how pools are kept at their size."""

from __future__ import annotations

from typing import Any

import pytest

from poold.core import broker
from poold.core.broker import Broker
from poold.core.pools import janitor, pool, routing
from poold.core.pools.availability import AvailabilityState
from poold.core.pools.lifecycle import Lifecycle
from poold.core.timers import Timers
from simulation.mutations import mutation, wrap
from simulation.mutations_of_statements import MUTATIONS

__all__ = ["MUTATIONS"]  # all of them, those here among them


@mutation
def an_old_backend_serves_on(patch: pytest.MonkeyPatch) -> None:
    reason_to_retire = janitor.reason_to_retire

    def reason(*args: Any) -> str | None:
        found = reason_to_retire(*args)
        return None if found == "max_lifetime" else found

    patch.setattr(janitor, "reason_to_retire", reason)


@mutation
def a_backend_has_no_end(patch: pytest.MonkeyPatch) -> None:
    def opened(original: Any, self: Broker, number: int, now: float, *rest: Any) -> None:
        backend = self.backends.get(number)
        original(self, number, now, *rest)
        if backend is not None:
            backend.expires = None

    wrap(patch, Broker, "opened", opened)


@mutation
def an_old_backend_takes_more_into_its_pipeline(patch: pytest.MonkeyPatch) -> None:
    is_company = routing.is_company

    def is_company_of_any_age(backend: Any, now: float) -> bool:
        expires, backend.expires = backend.expires, None
        found = is_company(backend, now)
        backend.expires = expires
        return found

    patch.setattr(routing, "is_company", is_company_of_any_age)


@mutation
def an_old_backend_is_closed_before_its_replacement_is_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(janitor, "_awaits_replacement", lambda backend: False)


@mutation
def an_old_backend_awaits_what_cannot_come(patch: pytest.MonkeyPatch) -> None:
    def awaits(backend: Any) -> bool:
        return bool(backend.pool.size - len(backend.pool.connecting) <= backend.pool.floor)

    patch.setattr(janitor, "_awaits_replacement", awaits)


@mutation
def old_backends_are_closed_together(patch: pytest.MonkeyPatch) -> None:
    original = janitor.retirements
    patch.setattr(janitor, "retirements", lambda *args: list(original(*args)))


@mutation
def nobody_is_marked_as_old(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(janitor, "mark_outdated", lambda *_: None)


@mutation
def an_old_backend_counts_for_the_floor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pool.Pool, "is_below_floor", property(lambda self: self.size < self.floor))


@mutation
def the_janitor_looks_too_seldom(patch: pytest.MonkeyPatch) -> None:
    def set_(original: Any, self: Timers, key: Any, when: float) -> None:
        original(self, key, when + 5.0 if key == broker._JANITOR else when)

    wrap(patch, Timers, "set", set_)


@mutation
def an_endpoint_is_probed_only_in_an_empty_pool(patch: pytest.MonkeyPatch) -> None:
    spread = routing.spread

    def spread_without_what_is_open(pools: Any, *sizes: int) -> None:
        spread(pools, *sizes)
        for each in pools:
            if each.availability.state is AvailabilityState.PROBING:
                each.cap = min(each.cap, 1)

    patch.setattr(routing, "spread", spread_without_what_is_open)


@mutation
def a_connect_that_fails_after_another_is_not_made_up_for(patch: pytest.MonkeyPatch) -> None:
    def connect_failed(original: Any, self: Lifecycle, backend: Any, error: str, now: float) -> None:
        if backend.pool.availability.state is not AvailabilityState.QUARANTINED:
            original(self, backend, error, now)
        else:
            backend.pool.stats.failed += 1
            self.remove(backend)

    wrap(patch, Lifecycle, "connect_failed", connect_failed)
