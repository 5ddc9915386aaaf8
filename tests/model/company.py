"""What may run behind others in the connection of one backend."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from model.books import Books, Job
from model.kinds import kind_of
from model.leftovers import is_reset
from model.postgres import Order
from poold.core.effects import Bind, Deallocate, Prepare, SimpleQuery, Unit
from poold.core.pools.group import Group
from poold.core.statements.statement import Statement


def check_company(
    group: Group,
    statements: Sequence[Statement | None],
    orders: Collection[Order],
    unit: Unit,
    job: Job | None,
    books: Books,
) -> None:
    """A unit goes behind others; those of a reset do so by themselves. statements are what runs, this one included."""
    if job is None and _is_reset(unit):
        assert all(order.owner is None and _is_reset(order.unit) for order in orders), "a reset behind what it resets"
        return
    assert len(orders) < group.config.pipeline_depth
    assert job is not None
    assert job.kind == "query"
    for each in (job, *(found for order in orders for found in books.of(order.owner))):
        assert each.steps[0] is not None
        assert kind_of(each.steps[0][0]).is_plain_read, f"{each} shares a backend, and is no plain read"
        assert not each.is_alone, f"{each} shares a backend, and others have waited for it long enough"
    for each in (*(order.unit for order in orders), unit):
        own = [command for command in each if type(command) not in (Prepare, Deallocate)]
        own = [command for command in own if not (type(command) is Bind and command.count == 2)]  # its settings
        assert len(own) == 1, "only single statements share a backend"
        assert type(own[0]) is Bind, "only prepared statements share a backend"
        assert own[0].count, "only clients' statements share a backend"
    for order in orders:
        assert isinstance(order.owner, int), "only autocommit statements share a backend"
    for place in (0, len(orders)):
        statement = statements[place]
        assert statement is not None
        assert statement.is_short, "only short statements share a backend"


def _is_reset(unit: Unit) -> bool:
    return type(unit[0]) is SimpleQuery and is_reset(unit[0].sql)
