"""Chaos: how long, by which seed, and what it says in the end."""

import random

import pytest

# Per test: what it has to report.
REPORTS = pytest.StashKey[dict[str, list[str]]]()
SEED = pytest.StashKey[int]()
# What a test may take beyond its chaos: to begin, to recover from the last fault, to end.
MARGIN = 300.0


def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption("--chaos-seed")
    config.stash[SEED] = random.SystemRandom().randrange(10**6) if seed is None else seed
    config.stash[REPORTS] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "chaos_seconds" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(config.getoption("--chaos-seconds") + MARGIN))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, lines in config.stash[REPORTS].items():
        terminalreporter.section(f"{name}, --chaos-seed {config.stash[SEED]}")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def chaos_seconds(request: pytest.FixtureRequest) -> float:
    """How long the chaos lasts."""
    return float(request.config.getoption("--chaos-seconds"))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Decides everything that is left to chance. The seed is said in the end, and where the test fails."""
    seed = request.config.stash[SEED]
    print(f"--chaos-seed {seed}")
    return random.Random(seed)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> list[str]:
    """Lines for the end of the run, whether the test passes or not."""
    return request.config.stash[REPORTS].setdefault(request.node.name, [])
