"""Any order of what clients, servers and time may do to lane and core together, by a seed.

Each request is answered once, by what its own statement gives; what is answered otherwise says why, and only what the
world did to that request or to its neighbours may be the reason. After each step the lane holds nothing that it may not
hold.
"""

import random
import socket
from collections.abc import Callable

import pytest
from stage import HARMLESS, INT, OTHER, PLAIN_READ, READ, READY, WRITE, Client, Stage, error, is_right, message

from client.wire.codec import encode
from client.wire.messages import CancelRequest, Failure
from client.wire.zmtp import frame
from poold.core.state import BackendState
from poold.core.statements.proofs import Proof

STEPS = 500
SEEDS = 60
PATIENCE = 0.020
LONGEST_WAIT = 0.5
COLD = b"SELECT 1 AS cold, \0"
SPECIFIC = Proof(is_harmless=True, is_plain_read=True)
NOTICE = message(b"N", b"SNOTICE\0VNOTICE\0C00000\0Mlook\0\0")
STATUS = message(b"S", b"application_name\0other\0")


class World:
    """One broker, and what is known of each request: its statements, and whether trouble was made for it."""

    def __init__(self, seed: int, has_lane: bool = True) -> None:
        self.chance = random.Random(seed)
        choose = self.chance.choice
        self.stage = Stage(
            has_lane,
            max_size=choose([1, 2, 3]),
            pipeline_depth=choose([1, 2, 16]),
            max_waiting=choose([0, 0, 5]),
            broker={"max_client_requests": choose([0, 3])},
        )
        self.clients = [self.stage.client(pid=1000 + place // 2) for place in range(choose([1, 2, 5]))]
        for sql, proof in ((READ, PLAIN_READ), (OTHER, SPECIFIC), (WRITE, HARMLESS)):
            self.stage.promote(sql, proof=proof)
        # By request: its client and its statements. Enter when sent.
        self.sent: dict[int, tuple[Client, list[bytes]]] = {}
        self.troubled = False  # a server refused something, or was lost: failures are not the lane's alone
        self.withdrawn: set[int] = set()
        self.partly: dict[int, bytes] = {}  # what servers have still to say of an answer, by backend

    def step(self) -> None:
        actions: list[tuple[int, Callable[[], None]]] = [
            (25, self.send),
            (20, self.turn),
            (60, self.answer),
            (6, self.answer_in_parts),
            (1, self.fail),
            (1, self.remark),
            (2, self.cancel),
            (1, self.leave),
            (1, self.lose),
            (5, self.wait),
            (3, self.take_cancels),
            (1, self.change_names),
            (2, self.calm_down),
        ]
        weights = [weight for weight, _ in actions]
        self.chance.choices([action for _, action in actions], weights)[0]()
        self.check()

    # What clients do.

    def someone(self) -> Client | None:
        here = [client for client in self.clients if not client.is_gone and not client.has_left]
        return self.chance.choice(here) if here else None

    def send(self) -> None:
        client, stage, chance = self.someone(), self.stage, self.chance
        if client is None:
            return
        for _ in range(chance.choice([1, 1, 1, 1, 2, 4])):
            what = chance.randrange(10)
            over = {}
            if chance.random() < 0.2:
                over["timeout"] = chance.choice([0.5, 1.0, 5.0, 30])
            if chance.random() < 0.2:
                over["priority"] = chance.choice([0, 1, 2])
            if what < 6 or chance.random() < 0.5:
                sql = [chance.choice([READ, READ, OTHER])]
                number = stage.query(client, *sql, **over)
            elif what < 9:
                sql = [WRITE, *chance.choices([READ, WRITE], k=chance.randrange(3))]
                number = stage.transaction(client, *sql, **over)
            else:
                sql = [COLD]
                number = stage.query(client, COLD, types=INT, **over)
            self.sent[number] = client, sql
        if chance.random() < 0.6:
            stage.turn(client)

    def turn(self) -> None:
        client = self.chance.choice(self.clients)
        self.stage.turn(client)

    def cancel(self) -> None:
        open_ones = [(number, client) for number, (client, _) in self.sent.items() if self.is_open(number)]
        if open_ones:
            number, client = self.chance.choice(open_ones)
            if not client.has_left:
                self.withdrawn.add(number)
                client.write(frame(encode(CancelRequest(number))))
                self.stage.turn(client)

    def leave(self) -> None:
        client = self.someone()
        if client is not None and len(self.clients) > 1 and self.chance.random() < 0.3:
            client.has_left = True
            client.there.shutdown(1)
            self.stage.turn(client)

    # What servers do.

    def busy(self) -> int | None:
        found = [number for number, server in self.stage.servers.items() if server.units or number in self.partly]
        return self.chance.choice(found) if found else None

    def answer(self) -> None:
        number = self.busy()
        if number is None:
            return
        server = self.stage.servers[number]
        rest = self.partly.pop(number, b"")
        if not rest:
            rest = server.answer_of(server.units.popleft())
            while server.units and self.chance.random() < 0.5:
                rest += server.answer_of(server.units.popleft())
        server.say(rest)
        self.stage.receive(number)

    def answer_in_parts(self) -> None:
        number = self.busy()
        if number is None:
            return
        server = self.stage.servers[number]
        rest = self.partly.pop(number, b"") or server.answer_of(server.units.popleft())
        cut = self.chance.randrange(len(rest) + 1)
        server.say(rest[:cut])
        if rest[cut:]:
            self.partly[number] = rest[cut:]
        self.stage.receive(number)

    def fail(self) -> None:
        number = self.busy()
        if number is None or number in self.partly:
            return
        server = self.stage.servers[number]
        unit = server.units.popleft()
        whole = server.answer_of(unit)
        binds = [body for kind, body in unit if kind == b"B"]
        if not binds or any(kind not in (b"B", b"E", b"S") for kind, _ in unit):
            server.say(whole)
        else:
            self.troubled = True
            code = self.chance.choice([b"22012", b"40001", b"57014", b"23505"])
            server.say(message(b"2") + error(code, b"I" if len(binds) == 1 else b"E"))
        self.stage.receive(number)

    def remark(self) -> None:
        """A server says something that belongs to no answer, ahead of one."""
        number = self.busy()
        if number is None or number in self.partly:
            return
        server = self.stage.servers[number]
        server.say(self.chance.choice([NOTICE, STATUS]) + server.answer_of(server.units.popleft()))
        self.stage.receive(number)

    def lose(self) -> None:
        if self.stage.servers and self.chance.random() < 0.3:
            number = self.chance.choice(list(self.stage.servers))
            self.troubled = True
            self.partly.pop(number, None)
            self.stage.servers[number].end.shutdown(socket.SHUT_RDWR)
            while number in self.stage.servers:
                self.stage.receive(number)

    def take_cancels(self) -> None:
        self.stage.cancelled()

    def wait(self) -> None:
        self.stage.pass_time(self.chance.choice([0.0005, 0.0005, 0.001, 0.001, 0.004, 0.03]))

    def calm_down(self) -> None:
        """All is answered, and flows that surprised too often are the lane's again."""
        for number in list(self.partly):
            self.stage.servers[number].say(self.partly.pop(number))
            self.stage.receive(number)
        self.stage.answer_all()
        self.stage.cancelled()
        self.stage.answer_all()
        self.stage.now += 11
        self.stage.pass_time(0.001)

    def change_names(self) -> None:
        if self.chance.random() < 0.3:
            self.stage.broker.generations.begin_anew()
            for sql, proof in ((READ, PLAIN_READ), (OTHER, SPECIFIC), (WRITE, HARMLESS)):
                self.stage.promote(sql, proof=proof)

    # What has to hold.

    def is_open(self, number: int) -> bool:
        client, _ = self.sent[number]
        return all(reply.request != number for reply in client.replies if hasattr(reply, "request"))

    def check(self) -> None:
        stage = self.stage
        broker = stage.broker
        if stage.lane is not None:
            stage.lane.fold()
        flying = {id(each): each for client in broker.clients.values() for each in client.requests.values()}
        for number, backend in broker.backends.items():
            is_lent = backend.state is BackendState.LENT
            assert set(map(id, backend.flights)) <= flying.keys()
            assert is_lent or not backend.flights
            assert not (is_lent and backend.running)
            if backend.flights:
                assert stage.now - max(backend.flights[0].began, backend.completed) <= PATIENCE
            if len(backend.flights) > 1:
                assert all(each.flow.plan is None for each in backend.flights)
                assert all(each.flow.statements[0].proof.is_plain_read for each in backend.flights)
            assert number in stage.servers
        for each in stage.group.queue:
            assert id(each) in flying
            assert not (each.is_in_lane and stage.now - each.arrived > LONGEST_WAIT)
        for client in broker.clients.values():
            own = [each for each in client.requests.values() if not each.is_in_lane]
            assert client.bytes == sum(each.size for each in own)
        assert broker.accounts.bytes >= sum(client.bytes for client in broker.clients.values())

    def finish(self) -> None:
        """Let everything end, then look at all replies."""
        stage = self.stage
        for _ in range(200):
            for client in self.clients:
                stage.turn(client)
            for number in list(self.partly):
                stage.servers[number].say(self.partly.pop(number))
                stage.receive(number)
            stage.answer_all()
            stage.cancelled()
            stage.pass_time(0.03)
            if not any(client.requests for client in stage.broker.clients.values()):
                break
        self.check()
        for client in self.clients:
            stage.turn(client)
        for number, (client, statements) in self.sent.items():
            found = [reply for reply in client.replies if getattr(reply, "request", None) == number]
            if client.is_gone or client.has_left:
                assert len(found) <= 1
                continue
            assert len(found) == 1, f"request {number} got {len(found)} replies"
            if not is_right(found[0], number, statements):
                self.is_excused(number, found[0])

    def is_excused(self, number: int, reply: object) -> None:
        failure = reply if isinstance(reply, Failure) else getattr(reply, "failure", None)
        assert failure is not None, f"request {number} of {self.sent[number][1]} got {reply}"
        failure = Failure._make(failure)
        if failure.kind in ("too-many", "pool-timeout", "timeout"):
            return
        assert self.troubled or number in self.withdrawn or failure.sqlstate in (None, "57014"), failure


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_request_is_answered_once_and_rightly(seed: int) -> None:
    world = World(seed)
    try:
        for _ in range(STEPS):
            world.step()
        world.finish()
    finally:
        world.stage.close()


def test_the_worlds_use_the_lane() -> None:
    counts = {"requests": 0, "handed_over": 0, "given_back": 0}
    for seed in range(10):
        world = World(seed)
        for _ in range(STEPS):
            world.step()
        assert world.stage.lane is not None
        for name, count in world.stage.lane.counts.items():
            counts[name] += count
        world.stage.close()
    assert counts["requests"] > 100
    assert counts["handed_over"] > 20


__all__ = ["READY"]
