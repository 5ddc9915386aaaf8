"""The simulator's worlds hold, are the same every time, and show mistakes that are put into the core."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from examples import mistakes, seeds

from simulation import runner
from simulation.mutations_of_clusters import MUTATIONS, SHOWN_IN_CLUSTERS
from simulation.mutations_of_copying import MISTAKES
from simulation.mutations_of_operations import BLUNDERS
from simulation.mutations_of_reloads import SLIPS
from simulation.mutations_of_statements import SHOWN_IN
from simulation.mutations_of_the_lane import SHOWN_IN_LANES
from simulation.scenario import CLUSTER, COPY, LANE, OPERATED

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate.py"
# For each seed: 204,000 in all.
STEPS = 51_000
SEEDS = 4
# The rarest mistake takes some 75,000 on average, most a few thousand.
STEPS_UNTIL_FOUND = 600_000


@cache
def _ran(seed: int) -> runner.Summary:
    return runner.run(seed, STEPS)


@pytest.mark.parametrize("seed", seeds(SEEDS))
def test_all_holds_in_every_world(seed: int) -> None:
    summary = _ran(seed)
    assert summary.steps >= STEPS


def test_a_run_meets_every_kind_of_outcome_and_fault() -> None:
    """What never happens is not tested: a scenario that went quiet would show here."""
    summary = _ran(1)
    kinds = {kind for kind, _ in summary.outcomes}
    assert kinds == {"query", "in lease", "in session", "commit", "rollback", "release", "message"}
    for kind in kinds:
        assert summary.outcomes[kind, "done"] > 10
    assert summary.outcomes["message", "commit-unknown, unknown"]
    assert summary.outcomes["query", "connection, unknown"]
    assert summary.outcomes["in session", "connection, unknown"]
    assert summary.outcomes["in session", "transaction-lost, not executed"]
    assert summary.outcomes["query", "usage, not executed"]
    assert summary.tally["client is dropped"]
    assert summary.tally["schema is changed"]
    assert summary.unknown
    assert len(summary.tally) >= 22


@pytest.mark.parametrize("seed", seeds(2))
def test_all_holds_in_every_world_with_a_lane(seed: int) -> None:
    summary = runner.run(seed, STEPS, kind=LANE)
    assert summary.tally["lane starts"] > 500
    assert summary.tally["lane hands over"] > 10
    assert summary.tally["lane gives back"] > 100
    assert summary.tally["lane gives up"]


@pytest.mark.parametrize("seed", seeds(1))
def test_all_holds_in_every_cluster(seed: int) -> None:
    summary = runner.run(seed, STEPS, kind=CLUSTER)
    assert summary.tally["promotion"] > 10
    assert summary.outcomes["query", "done"] > 1000


@pytest.mark.parametrize("seed", seeds(1))
def test_all_holds_where_data_is_copied(seed: int) -> None:
    summary = runner.run(seed, STEPS, kind=COPY)
    assert summary.outcomes["query", "done"] > 100
    assert summary.tally["cancel hits"]


@pytest.mark.parametrize("seed", seeds(2))
def test_all_holds_whatever_an_operator_orders(seed: int) -> None:
    summary = runner.run(seed, STEPS, kind=OPERATED)
    assert summary.outcomes["query", "done"] > 1000
    assert summary.tally["lane starts"] > 30
    for order in ("reconnect", "pause", "resume", "kill", "reload"):
        assert summary.tally[order] > 20


def test_the_same_seed_makes_the_same_world_in_any_process() -> None:
    shown = [_simulated("7", "--steps", "10000", hash_seed=each) for each in ("1", "2")]
    assert shown[0] == shown[1]
    assert "hash " in shown[0]
    assert shown[0] != _simulated("8", "--steps", "10000", hash_seed="1")


def _simulated(*arguments: str, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


_SHOWN_IN = {**SHOWN_IN, **SHOWN_IN_LANES, **SHOWN_IN_CLUSTERS}


@pytest.mark.parametrize("name", mistakes(MUTATIONS))
def test_a_mistake_in_the_core_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[name](monkeypatch)
    with pytest.raises(runner.Broken):
        runner.run(1, STEPS_UNTIL_FOUND, kind=_SHOWN_IN.get(name, ""))


@pytest.mark.parametrize("name", mistakes(MISTAKES))
def test_a_mistake_about_copies_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MISTAKES[name](monkeypatch)
    with pytest.raises(runner.Broken):
        runner.run(1, STEPS_UNTIL_FOUND, kind=COPY)


@pytest.mark.parametrize("name", mistakes(BLUNDERS))
def test_a_mistake_about_orders_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BLUNDERS[name](monkeypatch)
    with pytest.raises(runner.Broken):
        runner.run(1, STEPS_UNTIL_FOUND, kind=OPERATED)


@pytest.mark.parametrize("name", mistakes(SLIPS))
def test_a_mistake_about_reloads_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    SLIPS[name](monkeypatch)
    with pytest.raises(runner.Broken):
        runner.run(1, STEPS_UNTIL_FOUND, kind=OPERATED)


def test_what_does_not_hold_is_shown_with_the_command_that_shows_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    MUTATIONS["a request that is withdrawn is not answered"](monkeypatch)
    shown = CliRunner().invoke(main, ["1", "--steps", str(STEPS)])
    assert shown.exit_code == 1
    assert shown.output.startswith("seed 1\n")
    place = re.search(r"^step (\d+) of world (\d+): AssertionError", shown.output, re.MULTILINE)
    command = re.search(r"scripts/simulate (.*) --trace$", shown.output, re.MULTILINE)
    assert place is not None
    assert command is not None
    again = CliRunner().invoke(main, command[1].split())
    assert again.exit_code == 1
    assert place[0] in again.output
    assert again.output.splitlines()[-4].startswith(f"{place[1]} "), "the last line of the trace is that step"


def test_a_run_that_holds_is_summed_up() -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    shown = CliRunner().invoke(main, ["1", "--steps", "5000"])
    assert shown.exit_code == 0
    summary = runner.run(1, 5000)
    assert f"{summary.steps} steps in {summary.worlds} worlds" in shown.output
    assert shown.output.splitlines()[-1] == f"hash {summary.hash}"
