from collections.abc import Callable
from typing import Any

SOURCES: int

def before(python: Callable[..., Any]) -> Any: ...
def use(block_class: type[Any], new: Any, open: Any, ended: Any) -> None: ...
