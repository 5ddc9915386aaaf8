"""Event scripts: each test tells what happened, in order, and looks at what the core made of it."""

import pytest
from units import sent
from world import BEGUN, OK, ROLLED_BACK, World, executed, failure

from client.wire.messages import (
    NOT_EXECUTED,
    TX_ACTIVE,
    TX_BROKEN,
    TX_FAILED,
    TX_LOST,
    TX_NONE,
    UNKNOWN,
    Commit,
    Failure,
    Query,
    Rollback,
)
from poold.core import effects
from poold.core.facts import Completion, Loss
from poold.core.pools.lifecycle import RESET_TIMEOUT
from poold.core.reception import LEASE_PENDING_LIMIT
from poold.core.requests.runs import CANCEL_TIMEOUT
from poold.core.state import BackendState as S
from poold.core.work.settings import SERVER_GRACE
from poold.core.work.time_limits import GUARD


def refused(world: World, request: int, client: int = 1) -> Failure:
    reply = world.reply_to(request, client)
    assert isinstance(reply, Failure)
    return reply


# Requests in an autocommit group.


def test_a_request_opens_a_backend_runs_there_and_is_answered_with_its_result() -> None:
    world = World()
    world.client()
    request = world.query(statement=b"SELECT 42")
    (connect,) = world.taken(effects.Connect)
    world.broker.opened(connect.backend, world.now)
    assert world.taken(effects.Execute) == [executed(connect.backend, b"SELECT 42")]
    world.complete(connect.backend)
    assert world.outcome(request) == OK
    assert world.state(connect.backend) is S.IDLE


def test_an_idle_backend_is_used_before_another_is_opened() -> None:
    world = World()
    world.client()
    world.query()
    world.connect_all()
    world.finish(1)
    world.query()
    assert len(world.taken(effects.Connect)) == 1


def test_requests_wait_in_order_and_the_next_one_starts_when_a_backend_comes_free() -> None:
    world = World(max_size=1)
    world.client()
    first, second, third = world.query(), world.query(), world.query()
    world.connect_all()
    world.finish(first)
    assert world.running(second)
    assert not world.is_answered(third)
    world.finish(second)
    world.finish(third)
    assert all(world.outcome(request) == OK for request in (first, second, third))


def test_an_error_of_postgresql_reaches_its_caller_and_leaves_the_backend_free() -> None:
    world = World()
    world.client()
    request = world.query()
    world.connect_all()
    world.finish(request, reply=failure())
    assert refused(world, request).sqlstate == "22012"
    assert world.broker.groups["default"].count(S.IDLE) == 1


def test_an_unknown_group_is_refused_by_name() -> None:
    world = World()
    world.client()
    answer = refused(world, world.query(group="nope"))
    assert answer.kind == "unconfigured-group"
    assert "default" in answer.message


def test_a_statement_that_leaves_a_transaction_open_is_rolled_back_and_refused() -> None:
    world = World()
    world.client()
    request = world.query(statement=b"BEGIN")
    world.connect_all()
    backend = world.running(request)
    world.complete(backend, TX_ACTIVE)
    assert refused(world, request).kind == "usage"
    assert world.resets() == [backend]
    world.complete(backend, TX_NONE)
    assert world.state(backend) is S.IDLE


def test_a_backend_still_in_a_transaction_after_its_reset_is_closed() -> None:
    world = World(shows_resets=True)
    world.client()
    request = world.query()
    world.connect_all()
    backend = world.running(request)
    world.complete(backend, TX_ACTIVE)
    assert [unit[0].split(b";")[0] for unit in sent(world, backend)[1:]] == [b"ROLLBACK", b"CLOSE ALL"]
    world.complete(backend, TX_FAILED)
    world.complete(backend, TX_FAILED)
    assert world.taken(effects.Close)[0].backend == backend
    assert backend not in world.broker.backends


def test_a_backend_left_unusable_is_closed_and_replaced_for_those_who_wait() -> None:
    world = World(max_size=1)
    world.client()
    first, second = world.query(), world.query()
    world.connect_all()
    world.finish(first, TX_BROKEN, reply=failure(transaction=TX_BROKEN))
    assert refused(world, first).transaction == TX_NONE, "broken never leaves the broker"
    world.connect_all()
    world.finish(second)
    assert world.outcome(second) == OK


def test_a_number_that_is_not_answered_yet_is_not_taken_twice() -> None:
    world = World()
    world.client()
    request = world.query()
    world.query(request=request)
    (reply,) = world.taken(effects.Reply)
    assert reply.body.request == 0, "the first request's own reply is still to come"
    world.connect_all()
    world.finish(request)
    assert world.outcome(request) == OK


def test_a_request_of_an_unknown_client_is_ignored() -> None:
    world = World()
    world.query(client=7)
    assert world.take() == []


@pytest.mark.parametrize(("group", "lease"), [("default", 5), ("tx", 0)])
def test_the_client_decides_whether_it_wants_a_transaction(group: str, lease: int) -> None:
    world = World()
    world.client()
    world.query(group=group, lease=lease, begin=lease > 0)
    assert bool(world.broker.clients[1].leases) is (lease > 0)


# Limits of the queue.


def test_more_than_max_waiting_requests_are_refused_with_the_pools_state() -> None:
    world = World(max_size=1, max_waiting=2)
    world.client()
    waiting = [world.query() for _ in range(2)]
    answer = refused(world, world.query())
    assert answer.kind == "too-many-requests"
    assert answer.outcome == NOT_EXECUTED
    assert "max_waiting = 2" in answer.message
    assert "2 requests waiting" in answer.message
    assert not any(world.is_answered(request) for request in waiting)


def test_max_waiting_zero_is_no_limit() -> None:
    world = World(max_size=1, max_waiting=0)
    world.client()
    requests = [world.query() for _ in range(50)]
    assert not any(world.is_answered(request) for request in requests)


def test_a_request_that_waits_for_queue_timeout_leaves_unexecuted() -> None:
    world = World(max_size=1, queue_timeout=3.0)
    world.client()
    running, waiting = world.query(), world.query()
    world.connect_all()
    world.pass_time(2.9)
    assert not world.is_answered(waiting)
    world.pass_time(0.2)
    answer = refused(world, waiting)
    assert (answer.kind, answer.outcome) == ("pool-timeout", NOT_EXECUTED)
    assert "queue_timeout" in answer.message
    world.finish(running)
    assert len(world.taken(effects.Execute)) == 1


def test_a_requests_own_timeout_counts_where_it_is_shorter() -> None:
    world = World(max_size=1, queue_timeout=3.0)
    world.client()
    world.query()
    waiting = world.query(timeout=1.0)
    world.connect_all()
    world.pass_time(1.0)
    assert "the request's timeout" in refused(world, waiting).message


def test_an_unreachable_endpoint_is_named_with_its_error_when_the_wait_is_over() -> None:
    world = World(queue_timeout=5.0)
    world.client()
    request = world.query()

    def fail_all() -> None:
        for backend in list(world.broker.backends.values()):
            if backend.state is S.CONNECTING:
                world.broker.connect_failed(backend.number, "connection refused", world.now)

    for _ in range(60):
        fail_all()
        world.pass_time(0.1)
    answer = refused(world, request)
    assert answer.kind == "offline"
    assert "main: connection refused" in answer.message


# Time and cancels.


def test_a_running_statement_is_cancelled_at_its_requests_deadline_and_its_backend_survives() -> None:
    world = World()
    world.client()
    request = world.query(timeout=2.0)
    world.connect_all()
    backend = world.running(request)
    world.pass_time(2.0 + SERVER_GRACE)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]
    assert world.state(backend) is S.CANCELLING
    world.complete(backend, reply=failure("57014", message="canceling statement"))
    assert "timeout of 2 s" in refused(world, request).message
    assert world.state(backend) is S.SETTLING
    world.broker.cancelled(backend, world.now)
    assert world.state(backend) is S.IDLE


def test_a_backend_runs_nothing_while_a_cancel_may_still_hit_it() -> None:
    world = World(max_size=1)
    world.client()
    request, waiting = world.query(timeout=1.0), world.query()
    world.connect_all()
    backend = world.running(request)
    world.pass_time(1.0 + SERVER_GRACE)
    world.complete(backend)
    assert world.outcome(request) == OK, "the statement was faster than its cancel"
    assert len(world.taken(effects.Execute)) == 1
    world.broker.cancelled(backend, world.now)
    assert world.running(waiting) == backend


def test_a_cancel_without_effect_is_repeated() -> None:
    world = World()
    world.client()
    request = world.query(timeout=1.0)
    world.connect_all()
    backend = world.running(request)
    world.pass_time(1.0 + SERVER_GRACE)
    world.broker.cancelled(backend, world.now)
    assert world.state(backend) is S.ACTIVE
    world.pass_time(0.1)
    assert len(world.taken(effects.Cancel)) == 2


def test_a_server_that_answers_no_cancel_is_given_up_and_the_client_is_told_that_nobody_knows() -> None:
    world = World()
    world.client()
    request = world.query(timeout=1.0)
    world.connect_all()
    backend = world.running(request)
    world.pass_time(1.0 + SERVER_GRACE + CANCEL_TIMEOUT)
    assert world.taken(effects.Close)[0].backend == backend
    answer = refused(world, request)
    assert (answer.kind, answer.outcome) == ("connection", UNKNOWN)


def test_without_a_timeout_the_broker_cancels_what_the_server_should_have_ended() -> None:
    world = World(endpoint_settings={"query_timeout": 5.0})
    world.client()
    world.query()
    world.connect_all()
    world.pass_time(5.0 + GUARD - 0.1)
    assert world.taken(effects.Cancel) == []
    world.pass_time(0.2)
    assert len(world.taken(effects.Cancel)) == 1


def test_without_query_timeout_a_statement_may_run_for_ever() -> None:
    world = World(endpoint_settings={"query_timeout": 0.0})
    world.client()
    world.query()
    world.connect_all()
    world.pass_time(86400.0)
    assert world.taken(effects.Cancel) == []


def test_a_deadline_of_an_earlier_statement_does_not_hit_a_later_one() -> None:
    world = World(endpoint_settings={"query_timeout": 0.0})
    world.client()
    first = world.query(timeout=2.0)
    world.connect_all()
    world.finish(first)
    second = world.query()
    world.pass_time(10.0)
    assert world.taken(effects.Cancel) == []
    assert world.running(second)


def test_a_withdrawn_request_that_waits_is_never_run() -> None:
    world = World(max_size=1)
    world.client()
    running, waiting = world.query(), world.query()
    world.connect_all()
    world.broker.cancel(1, waiting, world.now)
    assert refused(world, waiting).outcome == NOT_EXECUTED
    world.finish(running)
    assert len(world.taken(effects.Execute)) == 1


def test_a_withdrawn_request_that_runs_is_cancelled_and_still_answered_once() -> None:
    world = World()
    world.client()
    request = world.query()
    world.connect_all()
    backend = world.running(request)
    world.broker.cancel(1, request, world.now)
    world.broker.cancel(1, request, world.now)
    assert len(world.taken(effects.Cancel)) == 1
    world.complete(backend, reply=failure("57014"))
    assert refused(world, request).sqlstate == "57014"


def test_a_cancel_for_a_request_that_is_answered_already_does_nothing() -> None:
    world = World()
    world.client()
    request = world.query()
    world.connect_all()
    world.finish(request)
    world.broker.cancel(1, request, world.now)
    assert world.taken(effects.Cancel) == []


# Clients that die.


def test_the_statement_of_a_client_that_died_is_cancelled_and_nobody_is_answered() -> None:
    world = World()
    world.client()
    request = world.query()
    world.connect_all()
    backend = world.running(request)
    world.broker.client_gone(1, world.now)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]
    world.complete(backend, reply=failure("57014"))
    world.broker.cancelled(backend, world.now)
    assert world.state(backend) is S.IDLE
    assert world.taken(effects.Reply) == []


def test_what_a_client_that_died_had_waiting_is_forgotten() -> None:
    world = World(max_size=1)
    world.client(1)
    world.client(2)
    running, _ = world.query(1), world.query(2)
    world.connect_all()
    world.broker.client_gone(2, world.now)
    world.finish(running)
    assert len(world.taken(effects.Execute)) == 1
    assert len(world.broker.groups["default"].queue) == 0


def test_the_lease_of_a_client_that_died_is_rolled_back() -> None:
    world = World()
    world.client()
    backend = world.begin(lease=1)
    world.broker.client_gone(1, world.now)
    assert world.resets() == [backend]
    world.complete(backend, TX_NONE)
    assert world.state(backend) is S.IDLE


def test_a_client_that_dies_during_a_statement_of_its_lease_has_it_cancelled_then_rolled_back() -> None:
    world = World()
    world.client()
    backend = world.begin(lease=1)
    world.query(1, "tx", lease=1)
    world.broker.client_gone(1, world.now)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]
    world.complete(backend, TX_FAILED, reply=failure("57014"))
    assert world.resets() == [], "the cancel may still arrive and would hit the ROLLBACK"
    world.broker.cancelled(backend, world.now)
    assert world.resets() == [backend]


def test_a_commit_on_its_way_is_not_cancelled_when_its_client_dies() -> None:
    world = World()
    world.client()
    backend = world.begin(lease=1)
    world.end(Commit, 1)
    world.broker.client_gone(1, world.now)
    assert world.taken(effects.Cancel) == []
    world.complete(backend, TX_NONE, command="COMMIT")
    assert world.state(backend) is S.IDLE


def test_a_client_that_dies_while_its_lease_waits_leaves_nothing_behind() -> None:
    world = World(max_size=1)
    world.client(1)
    world.client(2)
    world.begin(lease=1, client=1)
    world.query(2, "tx", lease=1, begin=True)
    world.end(Rollback, 1, client=2)
    world.broker.client_gone(2, world.now)
    assert len(world.broker.groups["tx"].queue) == 0
    assert world.broker.agenda.timers.next_deadline() is not None
    world.pass_time(100)


# Leases.


def test_a_lease_begins_with_its_first_statement_and_keeps_its_backend() -> None:
    world = World()
    world.client()
    request = world.query(1, "tx", lease=1, begin=True, statement=b"INSERT")
    world.connect_all()
    backend = world.running(request)
    assert world.taken(effects.Execute) == [executed(backend, b"BEGIN")]
    world.broker.completed(backend, Completion(TX_ACTIVE, [BEGUN]), world.now)
    assert world.taken(effects.Execute) == [executed(backend, b"BEGIN"), executed(backend, b"INSERT")]
    world.complete(backend, TX_ACTIVE)
    assert world.state(backend) is S.LEASED
    second = world.query(1, "tx", lease=1, statement=b"UPDATE")
    assert world.taken(effects.Execute)[-1] == executed(backend, b"UPDATE")
    world.complete(backend, TX_ACTIVE)
    assert world.outcome(second) == OK


def test_a_leased_backend_serves_nobody_else() -> None:
    world = World(max_size=1)
    world.client(1)
    world.client(2)
    world.begin(lease=1, client=1)
    other = world.query(2, "tx", lease=1, begin=True)
    assert not world.is_answered(other, 2)
    commit = world.end(Commit, 1, client=1)
    world.finish(commit, command="COMMIT")
    assert world.running(other), "the backend went on to who waited"


def test_a_commit_answered_with_rollback_is_an_error() -> None:
    world = World()
    world.client()
    backend = world.begin(lease=1)
    query = world.query(1, "tx", lease=1)
    world.complete(backend, TX_FAILED, reply=failure(transaction=TX_FAILED))
    assert refused(world, query).transaction == TX_FAILED
    commit = world.end(Commit, 1)
    world.complete(backend, TX_NONE, command="ROLLBACK")
    answer = refused(world, commit)
    assert (answer.sqlstate, answer.transaction) == ("25P02", TX_NONE)


def test_a_rollback_of_no_transaction_succeeds_and_a_commit_of_none_does_not() -> None:
    world = World()
    world.client()
    assert world.outcome(world.end(Rollback, 9)) == ROLLED_BACK
    assert refused(world, world.end(Commit, 9)).kind == "transaction-lost"


def test_a_later_statement_of_a_lost_lease_is_refused_until_rollback() -> None:
    world = World()
    world.client()
    backend = world.begin(lease=1)
    world.broker.lost(backend, Loss("server closed the connection"), world.now)
    answer = refused(world, world.query(1, "tx", lease=1))
    assert (answer.kind, answer.transaction) == ("transaction-lost", TX_LOST)
    assert "server closed the connection" in answer.message
    assert world.outcome(world.end(Rollback, 1)) == ROLLED_BACK
    assert "ended already" in refused(world, world.query(1, "tx", lease=1)).message


def test_a_statement_that_ends_its_transaction_itself_ends_the_lease() -> None:
    world = World()
    world.client()
    backend = world.begin(lease=1)
    world.query(1, "tx", lease=1, statement=b"COMMIT")
    world.complete(backend, TX_NONE, command="COMMIT")
    assert world.state(backend) is S.IDLE
    assert world.broker.clients[1].leases == {}


def test_requests_of_a_busy_lease_run_in_order() -> None:
    world = World()
    world.client()
    backend = world.begin(lease=1)
    first, second = world.query(1, "tx", lease=1), world.query(1, "tx", lease=1)
    rollback = world.end(Rollback, 1)
    world.complete(backend, TX_ACTIVE)
    assert world.running(second) == backend
    world.complete(backend, TX_ACTIVE)
    world.complete(backend, TX_NONE, command="ROLLBACK")
    assert [world.is_answered(request) for request in (first, second, rollback)] == [True, True, True]


def test_a_busy_lease_takes_a_bounded_number_of_requests() -> None:
    world = World()
    world.client()
    world.begin(lease=1)
    world.query(1, "tx", lease=1)
    for _ in range(LEASE_PENDING_LIMIT):
        assert not world.is_answered(world.query(1, "tx", lease=1))
    assert refused(world, world.query(1, "tx", lease=1)).kind == "usage"


def test_a_lease_number_cannot_be_begun_twice() -> None:
    world = World()
    world.client()
    world.begin(lease=1)
    assert refused(world, world.query(1, "tx", lease=1, begin=True)).kind == "protocol"


def test_a_rollback_overtakes_the_statement_that_still_waits_to_begin_its_lease() -> None:
    world = World(max_size=1)
    world.client(1)
    world.client(2)
    world.begin(lease=1, client=1)
    waiting = world.query(2, "tx", lease=1, begin=True)
    world.broker.cancel(2, waiting, world.now)
    rollback = world.end(Rollback, 1, client=2)
    assert refused(world, waiting, 2).outcome == NOT_EXECUTED
    assert world.outcome(rollback, 2) == ROLLED_BACK


@pytest.mark.parametrize(
    ("setting", "word"),
    [("idle_in_transaction_timeout", "idle_in_transaction_timeout"), ("lease_timeout", "lease_timeout")],
)
def test_a_lease_that_is_kept_too_long_is_rolled_back_and_its_client_is_told_why(setting: str, word: str) -> None:
    world = World(**{"idle_in_transaction_timeout": 0.0, "lease_timeout": 0.0, setting: 10.0})
    world.client()
    backend = world.begin(lease=1)
    world.pass_time(9.9)
    assert world.state(backend) is S.LEASED
    world.pass_time(0.2)
    assert world.resets() == [backend]
    assert word in refused(world, world.end(Commit, 1)).message


def test_lease_timeout_also_ends_a_lease_whose_statement_runs() -> None:
    world = World(lease_timeout=10.0, endpoint_settings={"query_timeout": 0.0})
    world.client()
    backend = world.begin(lease=1)
    request = world.query(1, "tx", lease=1)
    world.pass_time(10.1)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]
    world.complete(backend, TX_FAILED, reply=failure("57014", TX_FAILED))
    assert refused(world, request).kind == "transaction-lost"
    world.broker.cancelled(backend, world.now)
    assert world.resets() == [backend]


def test_lease_timeout_does_not_touch_a_commit_that_runs() -> None:
    world = World(lease_timeout=10.0, endpoint_settings={"query_timeout": 0.0})
    world.client()
    backend = world.begin(lease=1)
    commit = world.end(Commit, 1)
    world.pass_time(11)
    world.complete(backend, TX_NONE, command="COMMIT")
    assert world.outcome(commit)[0] == "COMMIT"


def test_a_working_lease_is_not_idle() -> None:
    world = World(idle_in_transaction_timeout=10.0, lease_timeout=0.0)
    world.client()
    backend = world.begin(lease=1)
    for _ in range(5):
        world.pass_time(6.0)
        world.query(1, "tx", lease=1)
        world.complete(backend, TX_ACTIVE)
    assert world.state(backend) is S.LEASED


def test_a_lease_and_a_statement_that_are_due_together_do_not_hit_what_comes_after_them() -> None:
    limit = 5.0 + GUARD
    world = World(idle_in_transaction_timeout=limit, lease_timeout=0.0, endpoint_settings={"query_timeout": 5.0})
    world.client()
    backend = world.begin(lease=1)
    world.now += limit + 1.0
    world.broker.tick(world.now)
    assert world.resets() == [backend]
    assert world.state(backend) is S.RESETTING, "the reset has its own deadline, not the statement's"


# Connections that are lost.


def test_a_statement_on_a_lost_connection_may_have_run_and_its_client_is_told_so() -> None:
    world = World()
    world.client()
    request = world.query()
    world.connect_all()
    world.broker.lost(world.running(request), Loss("reset by peer"), world.now)
    answer = refused(world, request)
    assert (answer.kind, answer.outcome) == ("connection", UNKNOWN)
    assert "reset by peer" in answer.message


def test_a_statement_inside_a_transaction_on_a_lost_connection_has_certainly_no_effect() -> None:
    world = World()
    world.client()
    backend = world.begin(lease=1)
    request = world.query(1, "tx", lease=1, statement=b"UPDATE t SET a = 1")
    world.broker.lost(backend, Loss("reset"), world.now)
    answer = refused(world, request)
    assert (answer.kind, answer.outcome, answer.transaction) == ("transaction-lost", NOT_EXECUTED, TX_LOST)


def lost_in_a_transaction(statement: bytes) -> Failure:
    """The answer if the backend is lost while the statement runs in an open transaction."""
    world = World()
    world.client()
    backend = world.begin(lease=1)
    request = world.query(1, "tx", lease=1, statement=statement)
    world.take()
    world.broker.lost(backend, Loss("reset"), world.now)
    return refused(world, request)


@pytest.mark.parametrize(
    "statement",
    [
        b"CALL p()",
        b"DO 'BEGIN COMMIT; END'",
        b"INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
        b"SELECT CASE WHEN a THEN b END FROM t",
        b"SELECT 1 AS commit; SELECT ';commit'",
        b"SELECT 1 -- commit",
        b"PREPARE p AS SELECT 1",
    ],
)
def test_nor_has_one_with_the_words_that_end_a_transaction_where_they_end_none(statement: bytes) -> None:
    answer = lost_in_a_transaction(statement)
    assert (answer.kind, answer.outcome, answer.transaction) == ("transaction-lost", NOT_EXECUTED, TX_LOST)


@pytest.mark.parametrize("statement", [b"UPDATE t SET a=1; COMMIT", b"end", b"/* x */ END", b"PREPARE TRANSACTION 'x'"])
def test_a_statement_that_may_have_committed_is_not_called_rolled_back(statement: bytes) -> None:
    assert lost_in_a_transaction(statement).outcome == UNKNOWN


def test_a_commit_on_a_lost_connection_is_unknown_and_a_rollback_is_done() -> None:
    world = World()
    world.client()
    for lease, verb in ((1, Commit), (2, Rollback)):
        backend = world.begin(lease)
        request = world.end(verb, lease)
        world.take()
        world.broker.lost(backend, Loss("reset"), world.now)
        reply = world.reply_to(request)
        if verb is Commit:
            assert isinstance(reply, Failure)
            assert (reply.kind, reply.outcome, reply.transaction) == ("connection", UNKNOWN, TX_NONE)
        else:
            assert tuple(reply)[2:] == ROLLED_BACK


def test_an_idle_backend_that_is_lost_is_replaced_up_to_min_size() -> None:
    world = World(min_size=1)
    world.connect_all()
    (backend, _) = world.broker.backends
    world.broker.lost(backend, Loss("terminated"), world.now)
    assert len(world.broker.backends) == 2
    assert world.broker.groups["default"].count(S.CONNECTING) == 1


def test_facts_about_a_backend_that_is_gone_are_ignored() -> None:
    world = World()
    for fact in (
        lambda: world.broker.opened(99, 0.0),
        lambda: world.broker.connect_failed(99, "x", 0.0),
        lambda: world.broker.completed(99, Completion(TX_NONE), 0.0),
        lambda: world.broker.cancelled(99, 0.0),
        lambda: world.broker.lost(99, Loss("x"), 0.0),
    ):
        fact()
    assert world.take() == []


def test_a_reset_that_is_never_answered_closes_the_backend() -> None:
    world = World()
    world.client()
    backend = world.begin(lease=1)
    world.broker.client_gone(1, world.now)
    world.pass_time(RESET_TIMEOUT)
    assert world.taken(effects.Close)[0].backend == backend


# The end.


def test_a_drain_without_work_stops_at_once() -> None:
    world = World()
    world.broker.drain(world.now)
    assert world.take() == [effects.Stop()]
    assert world.take() == []


def test_a_drain_finishes_what_runs_and_refuses_what_waits_and_what_is_new() -> None:
    world = World(max_size=1)
    world.client()
    running, waiting = world.query(), world.query()
    world.connect_all()
    world.broker.drain(world.now)
    assert refused(world, waiting).kind == refused(world, world.query()).kind == "unserved"
    assert world.taken(effects.Stop) == []
    world.finish(running)
    assert len(world.taken(effects.Stop)) == 1
    assert world.outcome(running) == OK


def test_a_drain_lets_an_open_transaction_go_on_and_begins_none() -> None:
    world = World()
    world.client()
    backend = world.begin(lease=1)
    world.broker.drain(world.now)
    query = world.query(1, "tx", lease=1)
    world.complete(backend, TX_ACTIVE)
    assert world.outcome(query) == OK
    assert refused(world, world.query(1, "tx", lease=2, begin=True)).outcome == NOT_EXECUTED
    commit = world.end(Commit, 1)
    world.complete(backend, TX_NONE, command="COMMIT")
    assert world.outcome(commit)[0] == "COMMIT"
    assert len(world.taken(effects.Stop)) == 1


def test_a_drain_ends_at_drain_timeout_and_says_what_became_of_everything() -> None:
    world = World(max_size=1, drain_timeout=5.0)
    world.client()
    running, waiting = world.query(), world.query()
    world.connect_all()
    world.broker.drain(world.now)
    world.pass_time(5.0)
    assert refused(world, running).outcome == UNKNOWN
    assert refused(world, waiting).outcome == NOT_EXECUTED
    assert len(world.taken(effects.Stop)) == 1


def test_a_message_to_a_stopped_broker_is_refused() -> None:
    world = World()
    world.client()
    world.broker.stop(world.now)
    assert refused(world, world.query()).outcome == NOT_EXECUTED


def test_the_snapshot_shows_who_waits_for_how_long() -> None:
    world = World(max_size=1)
    world.client()
    world.query()
    world.connect_all()
    world.now = 1.0
    world.broker.request(1, Query(900, "default", 0, False, b"SELECT", b"", b"", True, None, "report"), world.now)
    world.now = 3.5
    group = world.broker.snapshot(world.now)["groups"]["default"]
    assert (group["waiting"], group["oldest_wait_ms"], group["oldest_tag"], group["oldest_pid"]) == (
        1, 2500.0, "report", 1001,
    )  # fmt: skip
    assert group["clients"] == 1
    assert group["endpoints"]["main"]["active"] == 1


# Clients that are silent.


def test_a_client_that_sends_nothing_for_long_is_disconnected() -> None:
    world = World(broker={"client_idle_timeout": 10.0})
    world.client()
    world.pass_time(9.0)
    world.finish(ask_and_connect(world))
    world.pass_time(9.9)
    assert world.taken(effects.Drop) == []
    world.pass_time(0.1)
    (drop,) = world.taken(effects.Drop)
    assert drop.client == 1
    assert "client_idle_timeout = 10 s" in drop.reason


def test_a_client_that_waits_is_not_silent_and_its_time_begins_with_the_answer() -> None:
    world = World(broker={"client_idle_timeout": 10.0}, endpoint_settings={"query_timeout": 0.0})
    world.client()
    request = ask_and_connect(world)
    world.pass_time(25.0)
    world.finish(request)
    world.pass_time(9.9)
    assert world.taken(effects.Drop) == []
    world.pass_time(0.2)
    assert len(world.taken(effects.Drop)) == 1


def test_nobody_is_disconnected_for_silence_where_there_is_no_limit() -> None:
    world = World()
    world.client()
    world.pass_time(100_000.0)
    assert world.taken(effects.Drop) == []


def ask_and_connect(world: World) -> int:
    request = world.query()
    world.connect_all()
    return request
