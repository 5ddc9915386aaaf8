"""Backends that are lent to a lane, and what the core makes of them when they are its own again."""

from typing import Any

from model.lent import Fleet, Flight, Way
from world import World, failure

from client.wire.codec import encode
from client.wire.messages import TX_NONE, Query
from poold.core import effects
from poold.core.facts import Completion, StatementResult
from poold.core.records.backend import Backend
from poold.core.records.flow import Flow
from poold.core.state import BackendState as S
from poold.core.statements.proofs import Proof
from poold.core.statements.statement import PREPARED

INT4 = (23).to_bytes(4, "big")
SQL = b"SELECT name FROM item WHERE id = \0"
VALUE = (1).to_bytes(4, "big") + b"7"
ROW = StatementResult("SELECT 1", 1, b"\0\0", b"D\0\0\0\6\0\0", ())


class Lending(World):
    """A core with one client, and backends that are lent as soon as they have run the statement once."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(prepare="auto", **settings)
        self.broker.agenda.has_lane = True
        self.client()
        statement = self.broker.groups["default"].statements.find(SQL, INT4)
        statement.state, statement.proof, statement.is_harmless = PREPARED, Proof(True, is_plain_read=True), True
        for _ in range(5):
            statement.record(0.0001, 10)
        self.flow: Flow

    def lent(self) -> Backend:
        """Another backend that is lent, at rest."""
        request = self.ask()
        self.connect_all()
        number = self.running(request)
        self.end_one(number)
        for effect in self.taken(effects.Teach):
            self.flow = effect.flow
        assert self.state(number) is S.LENT
        return self.broker.backends[number]

    def ask(self) -> int:
        return self.query(statement=SQL, types=INT4, values=VALUE)

    def end_one(self, number: int) -> None:
        """What the backend runs first ends well."""
        self.broker.completed(number, Completion(TX_NONE, [ROW]), self.now)
        self.take()

    def flight(self) -> Flight:
        """A request of the lane's that is nowhere yet."""
        self._last_request += 1
        client = self.broker.clients[1]
        message = Query(self._last_request, "default", 0, False, SQL, INT4, VALUE, True, None, "")
        way = Way(self.flow, Fleet(self.flow.group))
        made = Flight(client, message, encode(message), way, self.now)
        client.requests[made.number] = made  # type: ignore[assignment]  # stands where the core's requests do
        return made

    def runs(self, backend: Backend) -> Flight:
        """A request that the lane runs on the backend."""
        flight = self.flight()
        flight.began = self.now
        backend.flights = (*backend.flights, flight)
        return flight


def test_the_end_of_a_drain_finds_what_the_lane_runs() -> None:
    world = Lending(drain_timeout=0.0, max_size=1)
    backend = world.lent()
    running = world.runs(backend)
    waiting = world.flight()
    waiting.is_waiting = True
    world.broker.groups["default"].queue.push(waiting)  # type: ignore[arg-type]
    world.broker.drain(world.now)
    world.broker.tick(world.now)  # the lane has not heard of it yet
    assert world.reply_to(running.number).outcome == "not executed"
    assert world.reply_to(waiting.number).outcome == "not executed"
    assert world.broker.handed_over(backend.number, world.now) == []  # and now it has
    world.broker.lent_back(backend.number, world.now)
    assert len(world.taken(effects.Stop)) == 1


def test_what_the_lane_gives_back_was_not_idle_meanwhile() -> None:
    world = Lending(max_size=1, max_idle=5.0)
    backend = world.lent()
    world.pass_time(60.0)
    backend.completed = world.now - 1.0  # the lane's last request ended then
    world.broker.lent_back(backend.number, world.now)
    world.pass_time(3.0)
    assert world.state(backend.number) is S.IDLE
    world.pass_time(3.0)
    assert backend.state is S.CLOSED


def test_a_read_that_waits_for_a_lock_steps_aside_although_the_lane_began_it() -> None:
    world = Lending(max_size=1)
    backend = world.lent()
    first = world.runs(backend)
    world.query(statement=b"SELECT 1")  # waits for a backend; who holds the lock may have sent it
    world.pass_time(0.02)
    world.broker.handed_over(backend.number, world.now)
    world.pass_time(1.0)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend.number)]
    world.broker.completed(backend.number, Completion(TX_NONE, [], failure("57014")), world.now)
    world.broker.cancelled(backend.number, world.now)
    assert not world.is_answered(first.number)
