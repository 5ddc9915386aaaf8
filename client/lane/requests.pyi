from collections.abc import Callable
from typing import Any

SOURCES: int

def use(
    free_channels: Callable[[str], list[Any] | None],
    free_kept: int,
    trusted_for: float,
    begun: type[Any],
    result_class: type[Any],
) -> None: ...

class Lane:
    dicts: bool
    def __init__(self, address: str, group: str, query: tuple[bytes, bytes], block: tuple[bytes, bytes]) -> None: ...
    def query(self, calls: Any, statement: Any, params: Any) -> Any | None: ...
    def transaction(self, calls: Any, collector: Any, form: tuple[bytes, bytes]) -> Any | None: ...
