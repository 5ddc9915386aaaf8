from collections.abc import Callable
from typing import Any

SOURCES: int

def use(cell_of: Callable[[Any], tuple[bytes, bytes] | None]) -> None: ...
