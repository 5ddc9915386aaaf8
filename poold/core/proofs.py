"""placeholder until the real one is merged"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Proof:
    is_harmless: bool = False
    is_plain_read: bool = False
    uses_sequences: bool = False
    may_be_generic: bool = False
    calls_unknown: bool = False
    why: str = ""


UNPROVEN = Proof(why="not examined")


class Examination:
    def __init__(self, tree: str, parameter_types: Sequence[int] = ()) -> None:
        self.proof = UNPROVEN
        self.holds_interval = False
        self.has_domain = False

    def question(self) -> bytes | None:
        return None

    def answered(self, rows: bytes) -> None:
        pass
