"""psycopg2's own tests, with client.dbapi in the place of psycopg2; run by `pytest --upstream`."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from brokers import Broker, environment
from postgres import Factory
from upstream.psycopg2_tests import LEFT_OUT, LEFT_OUT_PLAIN, MODULES, NOT_RUN, left_out, source
from upstream.sources import ROOT

# What a module's tests may take; the longest takes a fifth.
LONGEST = 100.0
RUNNER = ROOT / "tests/upstream/psycopg2_runner.py"


@pytest.fixture(scope="module")
def folder(upstream: None) -> Path:
    """psycopg2's source."""
    return source()


@pytest.fixture(scope="module")
def address(request: pytest.FixtureRequest, session_folder: Path, bindir: Callable[[], Path]) -> Iterator[str]:
    """The address of a broker whose server takes two-phase commits, and ends what waits for a lock."""
    factory = Factory(request.config.getoption("--postgres"), session_folder, bindir)
    with ExitStack() as cleanup:
        cleanup.callback(factory.close)
        server = factory(max_prepared_transactions="10", lock_timeout="5000")
        endpoint = {**server.parameters, "query_timeout": LONGEST}  # in a session it bounds a COPY too
        broker = Broker({"main": endpoint}, {"default": {"autocommit": True, "max_size": 12}})
        cleanup.callback(broker.close)
        yield broker.start().address


@pytest.mark.parametrize(("module", "kind"), [(module, kind) for module, kinds in MODULES.items() for kind in kinds])
def test_what_psycopg2_tests_holds_here(folder: Path, address: str, module: str, kind: str) -> None:
    missing = left_out(module, kind)
    command = [sys.executable, str(RUNNER), str(folder), address, kind, module, *missing]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LONGEST, env=environment(PYTHONPATH=str(ROOT)), check=False
    )
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    assert done.returncode == 0, done.stderr[-2000:]
    failed = [f"{name}\n{why}" for name, outcome, why in told if outcome == "failed"]
    assert not failed, "\n".join(failed)
    assert {name for name, outcome, _ in told if outcome == "left out"} == set(missing), "a test has another name"
    print(module, kind, dict(Counter(outcome for _, outcome, _ in told)))
    assert any(outcome == "passed" for _, outcome, _ in told)


def test_every_test_module_of_psycopg2_is_run_or_said_not_to_be(folder: Path) -> None:
    assert {path.stem for path in folder.glob("tests/test_*.py")} == {*MODULES, *NOT_RUN}


def test_nothing_of_the_standards_own_tests_is_left_out() -> None:
    assert not [name for name in {**LEFT_OUT, **LEFT_OUT_PLAIN} if "dbapi20" in name]
