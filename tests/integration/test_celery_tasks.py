"""The example of Celery tasks: run at once, in this process."""

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from brokers import ROOT, Broker
from celery.signals import task_retry

from client.errors import PoolTimeout

StartBroker = Callable[..., Broker]

FOLDER = ROOT / "examples" / "celery_tasks"


@pytest.fixture
def tasks(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, on the session's broker, with two accounts; its tasks run in this process, at once."""
    monkeypatch.setenv("POOLD_ADDRESS", broker.address)
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("tasks")
    try:
        module.app.conf.task_always_eager = True
        module.create_tables.delay()
        module.db.query("INSERT INTO accounts VALUES (1, 500), (2, 500)")
        yield module
    finally:
        module.db.query("DROP TABLE IF EXISTS accounts, transfers")
        del sys.modules["tasks"]


def test_money_moves_and_none_is_lost(tasks: ModuleType) -> None:
    assert tasks.transfer.delay(1, 2, 100).get() is True
    assert [row.balance for row in tasks.db.query("SELECT balance FROM accounts ORDER BY id")] == [400, 600]
    assert tasks.total.delay().get() == "1000"


def test_a_task_that_is_delivered_twice_works_once(tasks: ModuleType) -> None:
    assert [tasks.transfer.apply((1, 2, 100), task_id="same").get() for _ in range(2)] == [True, False]
    assert tasks.db.query("SELECT balance FROM accounts WHERE id = 2")[0].balance == 600


def test_a_task_that_cannot_succeed_is_not_repeated(tasks: ModuleType) -> None:
    with pytest.raises(Exception, match="accounts_balance_check") as caught:
        tasks.transfer.delay(1, 2, 501).get()
    assert caught.value.outcome == "failed"
    assert tasks.db.query("SELECT count(*) FROM transfers")[0][0] == 0


def test_a_task_comes_back_if_all_backends_are_taken(
    tasks: ModuleType, start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = start_broker(groups={"default": {"max_size": 1, "queue_timeout": 0.2}})
    somebody = small.handler(autocommit=False)
    somebody.query("SELECT 1")
    reasons: list[Any] = []

    def goes_away(sender: Any, reason: Any, **_: Any) -> None:
        reasons.append(reason.exc)
        somebody.rollback()

    task_retry.connect(goes_away)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(tasks, "db", small.handler())
            assert tasks.total.delay().get() == "1000"
    finally:
        task_retry.disconnect(goes_away)
    assert [type(reason) for reason in reasons] == [PoolTimeout]
