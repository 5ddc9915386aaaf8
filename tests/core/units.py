"""Units as PostgreSQL answers them, so that event scripts name statements and not commands.

What a unit holds is told by its texts: the SQL of what it runs, whether prepared or not, and words in capitals for what
has no result (PREPARE, DEALLOCATE, FLUSH). What PostgreSQL makes of it follows from the texts as well, unless a test
says otherwise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from world import BEGUN, OK, ROLLED_BACK, World, failure

from client.wire.messages import TX_ACTIVE, TX_FAILED, TX_NONE, Failure, Step, StepReference, TransactionResult
from poold.core.effects import Bind, Command, Deallocate, Execute, Flush, Plain, Prepare, SimpleQuery, Unit
from poold.core.facts import Completion, StatementResult
from poold.core.statements.catalog import COUNTS
from poold.core.statements.literals import numbered
from poold.core.statements.proofs import Proof
from poold.core.statements.statement import TRUSTED_AFTER, Statement, StatementState
from poold.core.work.outcomes import QUESTION
from poold.core.work.probe import _TELLING
from poold.core.work.script import XID

WRITTEN = StatementResult("INSERT 0 1", 1, None, b"", ())
_WORDS: dict[bytes, StatementResult] = {
    b"BEGIN": BEGUN,
    b"COMMIT": StatementResult("COMMIT", -1, None, b"", ()),
    b"ROLLBACK": ROLLED_BACK,
    b"SAVEPOINT": StatementResult("SAVEPOINT", -1, None, b"", ()),
    b"RELEASE": StatementResult("RELEASE", -1, None, b"", ()),
    b"INSERT": WRITTEN,
    b"UPDATE": StatementResult("UPDATE 1", 1, None, b"", ()),
    b"DELETE": StatementResult("DELETE 1", 1, None, b"", ()),
    b"CREATE": StatementResult("CREATE TABLE", -1, None, b"", ()),
    b"ALTER": StatementResult("ALTER TABLE", -1, None, b"", ()),
}
# Messages do not ask for their transaction's id, which most tests are not about.
UNTRACKED = {"track_outcome": False}


def table(columns: Mapping[str, int], *rows: Sequence[bytes | None]) -> StatementResult:
    """The outcome of a SELECT with these columns (name and type OID) and rows."""
    described = len(columns).to_bytes(2, "big")
    for name, oid in columns.items():
        described += name.encode() + b"\0" + bytes(6) + oid.to_bytes(4, "big") + bytes(8)
    return StatementResult(f"SELECT {len(rows)}", len(rows), described, b"".join(_data_row(row) for row in rows), ())


def _data_row(row: Sequence[bytes | None]) -> bytes:
    body = len(row).to_bytes(2, "big") + packed(*row)
    return b"D" + (len(body) + 4).to_bytes(4, "big") + body


def packed(*values: bytes | None) -> bytes:
    """Parameters as they travel."""
    return b"".join(b"\xff" * 4 if each is None else len(each).to_bytes(4, "big") + each for each in values)


def oids(*types: int) -> bytes:
    """Their types as they travel."""
    return b"".join(each.to_bytes(4, "big") for each in types)


def step(
    sql: bytes,
    *references: StepReference,
    types: bytes | None = None,
    values: bytes | None = None,
    prepare: bool = True,
    low: int = 0,
    high: int | None = None,
) -> tuple[Any, ...]:
    """A step as it comes from the wire; parameters are of unknown type and NULL where nothing else is said."""
    count = sql.count(0)
    found = Step(
        sql,
        oids(*[0] * count) if types is None else types,
        packed(*[None] * count) if values is None else values,
        prepare,
        tuple(tuple(each) for each in references),
        low,
        high,
    )
    return tuple(found)


READ, INSERT, UPDATE, DELETE = step(b"SELECT 1"), step(b"INSERT 1"), step(b"UPDATE 1"), step(b"DELETE 1")


def begin(world: World, *steps: Any, **over: Any) -> tuple[int, int]:
    """A message of client 1 that has just been started: its request, and its backend."""
    world.client()
    request = world.transaction(*steps, **over)
    world.connect_all()
    return request, world.running(request)


# A select by key.
PLAIN_READ = Proof(is_harmless=True, is_plain_read=True, may_be_generic=True)


def promote(
    world: World,
    sql: bytes,
    types: bytes = b"",
    is_short: bool = False,
    group: str = "default",
    proof: Proof = PLAIN_READ,
) -> Statement:
    """A statement that a probe has found to be one that can be prepared, with this proof."""
    statement = world.broker.groups[group].statements.find(sql, types)
    statement.numbered = numbered(sql)
    statement.state = StatementState.PREPARED
    statement.proof = proof
    statement.is_harmless = proof.is_harmless
    statement.runs_per_parse = 1000 if proof.may_be_generic else statement.runs_per_parse
    for _ in range(TRUSTED_AFTER if is_short else 0):
        statement.record(0.0001, 100)
    assert statement.is_short is is_short
    return statement


SHORT = b"SELECT 1"


def sharing(count: int, max_size: int = 1, **settings: Any) -> tuple[World, int, list[int]]:
    """A world with one backend that runs this many short statements of client 1, and their requests."""
    world = World(prepare="auto", max_size=max_size, **settings)
    world.client()
    promote(world, SHORT, is_short=True)
    requests = [world.query(statement=SHORT)]
    world.connect_all()
    requests += [world.query(statement=SHORT) for _ in range(count - 1)]
    world.take()
    (backend,) = world.broker.backends
    assert running(world, backend) == requests
    return world, backend, requests


def running(world: World, backend: int) -> list[int]:
    """The requests on the backend, in their order."""
    return [request.number for request in world.broker.backends[backend].running]


def current_unit(world: World, backend: int) -> Unit:
    """The unit that PostgreSQL works on, or the last one."""
    world.tell(backend)
    request = world.broker.backends[backend].request
    if request is not None:
        return request.unit
    return [each.unit for each in world.taken(Execute) if each.backend == backend][-1]


def texts(world: World, unit: Unit) -> list[bytes]:
    """The unit's commands as texts; what each probe begins with is left out."""
    return [text for command in unit if (text := _text(world, command)) not in (COUNTS, _TELLING)]


def sent(world: World, backend: int | None = None) -> list[list[bytes]]:
    """All units so far as texts, of all backends or of one, without the questions of outcomes.py."""
    found = [texts(world, each.unit) for each in world.taken(Execute) if backend in (None, each.backend)]
    return [unit for unit in found if unit != [QUESTION]]


def _text(world: World, command: Command) -> bytes:
    match command:
        case SimpleQuery(sql) | Plain(sql):
            return sql
        case Bind(name):
            return _prepared(world, name).sql
        case Prepare(_, sql):
            return b"PREPARE " + sql
        case Deallocate(name):
            return b"DEALLOCATE " + _prepared(world, name).sql
        case Flush():
            return b"FLUSH"


def _prepared(world: World, name: bytes) -> Prepare:
    commands = [command for each in world.taken(Execute) for command in each.unit]
    return next(each for each in commands if type(each) is Prepare and each.name == name)


def outcome_of(sql: bytes) -> StatementResult:
    """What PostgreSQL usually makes of it."""
    if sql == XID:
        return table({"pg_current_xact_id": 5069}, [b"77"])
    return _WORDS.get(sql.split()[0], OK)


def completion(
    world: World,
    backend: int,
    given: Mapping[bytes, StatementResult] | None = None,
    fails: bytes = b"",
    error: Failure | None = None,
    is_bound: bool = True,
) -> Completion:
    """How the unit ends: each command gives what is given for it, until one fails; is_bound: after its Bind."""
    done = Completion(world.broker.backends[backend].transaction)
    for command in current_unit(world, backend):
        text = _text(world, command)
        runs = type(command) in (SimpleQuery, Plain, Bind)
        if fails and text == fails:
            done.bound += runs and is_bound
            if done.transaction != TX_NONE:
                done.transaction = TX_NONE if text == b"COMMIT" else TX_FAILED
            done.failure = (error or failure())._replace(transaction=done.transaction)
            return done
        if type(command) is Prepare:
            done.prepared.append(((given or {}).get(command.sql) or outcome_of(command.sql))[2])
        elif runs:
            done.bound += type(command) is not SimpleQuery
            done.results.append((given or {}).get(text) or outcome_of(text))
            if text.startswith(b"BEGIN"):
                done.transaction = TX_ACTIVE
            elif text in (b"COMMIT", b"ROLLBACK"):
                done.transaction = TX_NONE
            elif text.startswith(b"ROLLBACK TO"):
                done.transaction = TX_ACTIVE
    assert not fails, f"nothing in the unit is {fails!r}"
    return done


def answer(
    world: World,
    backend: int,
    given: Mapping[bytes, StatementResult] | None = None,
    fails: bytes = b"",
    error: Failure | None = None,
    is_bound: bool = True,
) -> None:
    """The unit that PostgreSQL works on ends, as `completion` tells; what follows is sent."""
    world.broker.completed(backend, completion(world, backend, given, fails, error, is_bound), world.now)
    world.take()


def committed(world: World, request: int, client: int = 1) -> TransactionResult:
    """The reply to a message whose transaction was committed."""
    reply = world.reply_to(request, client)
    assert isinstance(reply, TransactionResult)
    assert reply.failure is None, reply
    return reply


def failed(world: World, request: int, client: int = 1) -> tuple[Failure, int]:
    """Why a message that ran was not committed, and at which step."""
    reply = world.reply_to(request, client)
    assert isinstance(reply, TransactionResult)
    assert reply.failure is not None, reply
    assert reply.results == ()
    return Failure(*reply.failure), reply.step
