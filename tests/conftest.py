"""What all tests share: PostgreSQL servers.

This folder is on the import path of the tests: `from postgres import ...`, `from waiting import wait_until`.
"""

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from examples import choose
from postgres import Factory, Postgres, runnable_bindir, server_folder

# The primary of everybody, once it runs.
PRIMARY = pytest.StashKey[Postgres]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        choices=("embedded", "testcontainers"),
        default="embedded",
        help="where the tests' PostgreSQL servers come from: programs on this machine, or containers",
    )
    parser.addoption(
        "--examples",
        type=int,
        metavar="N",
        help="try N times as many generated examples, other ones each time (default: the same few every time)",
    )
    parser.addoption(
        "--mistakes",
        action="store_true",
        help="plant every known mistake into the core, which the simulation must find (default: one in five of them)",
    )
    parser.addoption(
        "--chaos-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="how long the chaos on real servers lasts (default: 60); it plays at least one round of all faults",
    )
    parser.addoption(
        "--alarms",
        type=int,
        default=1000,
        metavar="N",
        help="how many exceptions of signal handlers leave calls in the middle (default: 1000; 20 or more a second)",
    )
    parser.addoption(
        "--pairs",
        type=int,
        default=1000,
        metavar="N",
        help="how many writes each are read again at once, with replicas that are behind (default: 1000)",
    )
    parser.addoption(
        "--upstream",
        action="store_true",
        help="run other projects' own tests too; their sources are fetched with pip, and kept in .cache/upstream",
    )
    parser.addoption(
        "--chaos-seed", type=int, metavar="N", help="what chance begins with in the chaos; printed by each run"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Many tests have no broker on purpose; how long programs wait for one is for tests about that.
    os.environ["POOLD_CONNECT_WAIT"] = "0.5"
    # A shell starts what it runs in the background with SIGINT ignored, and what is ignored stays so in all children:
    # the programs that tests interrupt would not notice.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    choose(config.getoption("--examples"), config.getoption("--mistakes"))


@pytest.fixture(scope="session")
def upstream(request: pytest.FixtureRequest) -> None:
    """Skips who asks for it, unless --upstream is given: for tests of other projects."""
    if not request.config.getoption("--upstream"):
        pytest.skip("asks a package index; give --upstream")


@pytest.fixture(scope="session")
def session_folder() -> Iterator[Path]:
    """The folder of all servers' data, one folder each; everybody may enter it."""
    with server_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def bindir(session_folder: Path) -> Callable[[], Path]:
    """PostgreSQL's programs, looked for when first called: tests against containers need none."""
    return functools.cache(lambda: runnable_bindir(session_folder))


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest, session_folder: Path, bindir: Callable[[], Path]) -> Iterator[Postgres]:
    """One primary for everybody, on a unix socket and on 127.0.0.1. Leave it running and clean up after yourself."""
    factory = Factory(request.config.getoption("--postgres"), session_folder, bindir)
    try:
        request.config.stash[PRIMARY] = factory()
        yield request.config.stash[PRIMARY]
    finally:
        factory.close()


@pytest.fixture(scope="module", autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the module that leaves something on the primary of everybody: another one may want the same name.

    What a module with `CLEAN_UP = "DROP TABLE ..."` has made is removed by that.
    """
    before = _on_primary(request.config)
    yield
    if PRIMARY in request.config.stash and hasattr(request.module, "CLEAN_UP"):
        request.config.stash[PRIMARY].execute(request.module.CLEAN_UP)
    left = [each for each in _on_primary(request.config) if each not in before]
    assert not left, f"left on everybody's server: {', '.join(left)}"


def _on_primary(config: pytest.Config) -> list[str]:
    primary = config.stash.get(PRIMARY, None)
    return primary.contents() if primary else []


@pytest.fixture
def fresh_postgres(
    request: pytest.FixtureRequest, session_folder: Path, bindir: Callable[[], Path]
) -> Iterator[Factory]:
    """Makes servers that are the test's own: `fresh_postgres()`, `fresh_postgres.standby(primary)`."""
    factory = Factory(request.config.getoption("--postgres"), session_folder, bindir)
    try:
        yield factory
    finally:
        factory.close()
