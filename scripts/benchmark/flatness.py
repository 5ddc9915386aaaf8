"""Whether what was measured again and again stays the same: its first third against its last one, and its slope."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

# So many samples at the beginning are warming up.
WARM_UP_SHARE = 0.15
# Thirds of less than this say nothing.
LEAST_SAMPLES = 6


@dataclass(frozen=True, slots=True)
class Limit:
    """How much the last third's median may be: times the first one's, plus something."""

    name: str
    factor: float
    plus: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one figure."""

    limit: Limit
    first: float
    last: float
    slope: float  # per minute

    @property
    def is_flat(self) -> bool:
        return self.last <= self.first * self.limit.factor + self.limit.plus

    def __str__(self) -> str:
        allowed = self.first * self.limit.factor + self.limit.plus
        word = "flat" if self.is_flat else "NOT FLAT"
        return (
            f"{self.limit.name:14} first third {self.first:10.2f}   last third {self.last:10.2f}"
            f"   at most {allowed:10.2f}   {self.slope:+9.3f} per minute   {word}"
        )


def judge(limit: Limit, samples: Sequence[tuple[float, float]]) -> Verdict | None:
    """samples are pairs of seconds and value, in order. None where there are too few."""
    warm = samples[int(len(samples) * WARM_UP_SHARE) :]
    if len(warm) < LEAST_SAMPLES:
        return None
    third = len(warm) // 3
    first, last = median(value for _, value in warm[:third]), median(value for _, value in warm[-third:])
    return Verdict(limit, first, last, _slope(warm) * 60)


def _slope(samples: Sequence[tuple[float, float]]) -> float:
    """By least squares."""
    middle, mean = fmean(at for at, _ in samples), fmean(value for _, value in samples)
    spread = sum((at - middle) ** 2 for at, _ in samples)
    return sum((at - middle) * (value - mean) for at, value in samples) / spread if spread else 0.0
