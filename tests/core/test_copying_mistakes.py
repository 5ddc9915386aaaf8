"""Mistakes put into what the core does for COPY, to see that the state machine finds them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from simulation.mutations_of_copying import MISTAKES
from test_invariants import Machine

# The rarest one takes some hundred.
EXAMPLES = 600
TRIED = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    report_multiple_bugs=False,
    suppress_health_check=tuple(HealthCheck),
)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MISTAKES[name](monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011  any invariant may show it
        run_state_machine_as_test(Machine, settings=TRIED)
