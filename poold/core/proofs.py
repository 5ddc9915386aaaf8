"""What is proven of a statement, by the server's own reading of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Proof:
    """What holds of each run of a statement."""

    is_harmless: bool = False  # calls nothing that could leave anything in its session
    is_plain_read: bool = False  # harmless, and writes and locks nothing: it may run any number of times
    why: str = ""  # it is neither
