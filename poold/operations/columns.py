"""Columns that several tables have, and how a table is filled from a list of figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poold.operations.layout import Column, Table

Figures = Mapping[str, Any]

GROUP = Column("group", is_text=True, least=8, good=12)
ENDPOINT = Column("endpoint", is_text=True, least=8, good=12)
TAG = Column("tag", 1, is_text=True, least=8, good=10)
STATE = Column("state", is_text=True, least=8, good=12)


def filled(
    table: Table, figures: Figures, what: str, row: Callable[[Figures], Sequence[Any]], most: int | None = None
) -> Table:
    """Fill the table with these, most at most; it says how many are left out, here and in the figures."""
    listed = figures[what][:most]
    for each in listed:
        table.add(*row(each))
    table.more = len(figures[what]) - len(listed) + figures[f"{what}_not_shown"]
    return table
