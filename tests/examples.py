"""How many examples the tests by generated cases try, and which.

A plain run tries the same ones every time: what passes once passes again. `--examples=10` tries ten times as many, and
other ones each time; what that finds belongs into a test of its own. `--mistakes` looks for every planted mistake.
"""

import random
from collections.abc import Iterable

from hypothesis import HealthCheck, Phase, settings

_times = 1
_are_new = False
_all_mistakes = False
# Of the mistakes that are planted a plain run looks for one in so many: to find the rarest takes a minute.
ONE_MISTAKE_IN = 5


def choose(times: int | None, all_mistakes: bool) -> None:
    """Set what examples() and mistakes() give from now on; times None: the same few every time."""
    global _times, _are_new, _all_mistakes
    _all_mistakes = all_mistakes
    _times = times or 1
    _are_new = times is not None
    settings.register_profile(
        "poold",
        derandomize=times is None,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        # To make a failing example smaller takes minutes; who asked for more of them has the time.
        phases=[Phase.explicit, Phase.generate] + ([] if times is None else [Phase.target, Phase.shrink]),
    )
    settings.load_profile("poold")


def examples(count: int) -> settings:
    """Settings for about this many examples, or several times as many where that was asked for."""
    return settings(max_examples=count * _times)


def mistakes(names: Iterable[str]) -> list[str]:
    """Those of the mistakes that are to be found; all of them with --mistakes."""
    return list(names)[:: 1 if _all_mistakes else ONE_MISTAKE_IN]


def seeds(count: int) -> list[int]:
    """Seeds for as many runs, the same ones every time; or several times as many others. Tests show them by name."""
    if not _are_new:
        return list(range(1, count + 1))
    return [random.getrandbits(32) for _ in range(count * _times)]
