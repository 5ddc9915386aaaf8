"""Brokers for the integration tests: one for everybody, and others made as a test needs them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, Worker, listening
from postgres import Factory, Postgres

from client.handler import Handler

GROUPS = {
    "default": {"autocommit": True, "max_size": 4},
    "transactions": {"autocommit": False, "max_size": 4},
}

StartBroker = Callable[..., Broker]
StartWorker = Callable[..., Worker]


# What carries the messages: our own ZeroMQ on a unix socket, or libzmq on a port of this machine.
TRANSPORTS = ("ipc", "tcp")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with `EVERY_TRANSPORT = True` has its tests of `broker` or `transport` once for each transport."""
    if getattr(metafunc.module, "EVERY_TRANSPORT", False) and "transport" in metafunc.fixturenames:
        metafunc.parametrize("transport", TRANSPORTS, indirect=True, scope="session")


@pytest.fixture(scope="session")
def transport(request: pytest.FixtureRequest) -> str:
    """One of TRANSPORTS, for `brokers.listening`; ipc where nobody asks for every one."""
    return str(getattr(request, "param", TRANSPORTS[0]))


@pytest.fixture(scope="session")
def broker(transport: str, postgres: Postgres) -> Iterator[Broker]:
    """One broker for everybody, with the groups `default` and `transactions`. Leave it running and its leases free."""
    broker = Broker({"main": postgres.parameters}, GROUPS, listening(transport))
    try:
        yield broker.start()
    finally:
        broker.close()


@pytest.fixture(scope="module")
def preparing_postgres(
    request: pytest.FixtureRequest, session_folder: Path, bindir: Callable[[], Path]
) -> Iterator[Postgres]:
    """A server of the module's own that prepares transactions."""
    factory = Factory(request.config.getoption("--postgres"), session_folder, bindir)
    try:
        yield factory(max_prepared_transactions="4")
    finally:
        factory.close()


@pytest.fixture
def start_broker(request: pytest.FixtureRequest) -> Iterator[StartBroker]:
    """Starts brokers that are the test's own; each must be able to stop in good order when the test is over.

    `start_broker(endpoints={'main': server.parameters}, groups={...}, broker={...}, start=True)`; what is left out is
    the session's PostgreSQL, the session's groups and the defaults.
    """
    with ExitStack() as cleanup:

        def start_broker(
            endpoints: Mapping[str, Mapping[str, Any]] | None = None,
            groups: Mapping[str, Mapping[str, Any]] | None = None,
            broker: Mapping[str, Any] | None = None,
            start: bool = True,
        ) -> Broker:
            if endpoints is None:
                endpoints = {"main": request.getfixturevalue("postgres").parameters}
            made = Broker(endpoints, GROUPS if groups is None else groups, broker)
            cleanup.callback(made.close)
            return made.start() if start else made

        yield start_broker


@pytest.fixture
def start_worker(broker: Broker) -> Iterator[StartWorker]:
    """Starts fresh Python processes, on the session's broker if no other address is given; ends them with the test."""
    with ExitStack() as cleanup:

        def start_worker(program: str, *arguments: str, address: str = broker.address, **variables: str) -> Worker:
            worker = Worker(program, *arguments, address=address, **variables)
            cleanup.callback(worker.close)
            return worker

        yield start_worker


@pytest.fixture
def db(broker: Broker) -> Handler:
    """A Handler in the session broker's autocommit group."""
    return broker.handler("default")


@pytest.fixture
def tx(broker: Broker) -> Iterator[Handler]:
    """A Handler in the session broker's group of transactions; what it left open is rolled back."""
    handler = broker.handler("transactions")
    try:
        yield handler
    finally:
        handler.rollback()
