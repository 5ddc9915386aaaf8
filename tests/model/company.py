"""What may run behind others in the connection of one backend."""

from __future__ import annotations

from collections.abc import Collection

from model.books import Job
from model.postgres import Order
from poold.core.effects import Bound, Deallocate, Prepare, Unit
from poold.core.pool import Backend


def check_company(backend: Backend, orders: Collection[Order], unit: Unit, job: Job | None) -> None:
    """A unit goes behind others."""
    assert len(orders) < backend.group.config.pipeline_depth
    assert job is not None
    assert job.kind == "query"
    for each in (*(order.unit for order in orders), unit):
        own = [command for command in each if type(command) not in (Prepare, Deallocate)]
        own = [command for command in own if not (type(command) is Bound and command.count == 2)]  # its settings
        assert len(own) == 1, "only single statements share a backend"
        assert type(own[0]) is Bound, "only prepared statements share a backend"
        assert own[0].count, "only clients' statements share a backend"
    for order in orders:
        assert isinstance(order.owner, int), "only autocommit statements share a backend"
    for place in (0, len(orders)):
        statement = backend.running[place].statement
        assert statement is not None
        assert statement.is_short, "only short statements share a backend"
