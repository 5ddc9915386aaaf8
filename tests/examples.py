"""How many examples the tests by generated cases try, and which.

A plain run tries the same ones every time: what passes once passes again. `--examples=10` tries ten times as many, and
other ones each time; what that finds belongs into a test of its own.
"""

import random

from hypothesis import HealthCheck, Phase, settings

_times = 1
_are_new = False


def choose(times: int | None) -> None:
    """Set what examples() gives from now on; None: the same few every time."""
    global _times, _are_new
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


def seeds(count: int) -> list[int]:
    """Seeds for as many runs, the same ones every time; or several times as many others. Tests show them by name."""
    if not _are_new:
        return list(range(1, count + 1))
    return [random.getrandbits(32) for _ in range(count * _times)]
