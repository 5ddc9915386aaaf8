from collections.abc import Callable
from typing import Any

SOURCES: int

def use(split: Callable[[str], Any]) -> None: ...
def bound(statement: Any, params: Any) -> tuple[bytes, bytes, bytes] | None: ...
