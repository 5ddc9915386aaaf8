"""What a run is asked to do: the command line as values."""

from dataclasses import dataclass
from itertools import product

from benchmark.figures import Place


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations in seconds, unless the name says otherwise."""

    rounds: int
    seconds: float
    workloads: tuple[str, ...]
    workers: tuple[int, ...]
    connected: int  # sessions that are there, at work or not; the workers are the least
    backends: tuple[int, ...]
    contestants: tuple[str, ...]
    delay_ms: float  # added to a round trip to PostgreSQL
    scale: int
    install: bool
    start_method: str

    @property
    def sessions(self) -> int:
        """The most that are open at once."""
        return max(self.connected, *self.workers)

    @property
    def places(self) -> list[Place]:
        """All places of the table, in its order."""
        return [Place(*values) for values in product(self.workloads, self.backends, self.workers)]
