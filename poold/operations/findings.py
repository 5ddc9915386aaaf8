"""What `poold doctor` finds: what it looked at, whether that is well, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    level: str  # OK, WARNING: it serves, but not as well as it could; PROBLEM: it will not, or not always
    text: str
    advice: str = ""  # what to do

    def __str__(self) -> str:
        mark = {OK: "ok      ", WARNING: "warning ", PROBLEM: "PROBLEM "}[self.level]
        return f"{mark} {self.subject}: {self.text}" + (f"\n         -> {self.advice}" if self.advice else "")

    def plain(self) -> dict[str, Any]:
        """Return it as values for JSON."""
        return asdict(self)
