"""What a program may hand to another process or to a cache: it comes out as it went in, or is refused with a reason."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker, Worker

import client
from client import Handler, UsageError, dbapi
from client.errors import KINDS, DBConnectionError, DBError, error_from, place_of
from client.wire.messages import FAILED, plain_failure

BYTES = r"""
    SELECT '\x01ff'::bytea AS one, ARRAY['\x01'::bytea, NULL] AS some, ARRAY[ARRAY['\x02'::bytea]] AS nested,
           ''::bytea AS empty, NULL::bytea AS nothing, int4range(1, 5) AS range, now() AS moment, '[1]'::jsonb AS json
"""
TWINS: tuple[Callable[[Any], Any], ...] = (
    lambda thing: pickle.loads(pickle.dumps(thing)),
    lambda thing: pickle.loads(pickle.dumps(thing, 0)),
    copy.copy,
    copy.deepcopy,
)
every_twin = pytest.mark.parametrize("twin", TWINS, ids=["pickle", "old-pickle", "copy", "deepcopy"])


@every_twin
def test_rows_with_bytes_come_out_as_they_went_in(db: Handler, twin: Callable[[Any], Any]) -> None:
    row = db.query(BYTES).first()
    other = twin(row)
    assert (type(other), other, other._asdict()) == (type(row), row, row._asdict())
    assert [type(each) for each in other] == [type(each) for each in row]
    assert type(other.one) is type(other.some[0]) is type(other.nested[0][0]) is memoryview
    assert (bytes(other.one), bytes(other.empty), other.nothing, other.some[1]) == (b"\1\xff", b"", None, None)
    assert [bytes(each.one) for each in twin([row, row])] == [b"\1\xff"] * 2
    result = db.query(BYTES)
    assert twin(result).first() == result.first()


def test_a_row_goes_to_another_process(db: Handler, start_worker: Callable[..., Worker]) -> None:
    worker = start_worker(
        "import pickle\n"
        "row = pickle.loads(bytes.fromhex(sys.stdin.readline()))\n"
        "tell([bytes(row.one).hex(), bytes(row['some'][0]).hex(), row._fields if '_fields' in row else len(row)])\n"
    )
    worker.say(pickle.dumps(db.query(BYTES).first()).hex())
    assert worker.hear() == ["01ff", "01", 8]


@every_twin
def test_what_a_transaction_block_has_given_comes_out_as_it_went_in(db: Handler, twin: Callable[[Any], Any]) -> None:
    with db.transaction() as tx:
        read = tx.query(BYTES)
        dicts = tx.query("SELECT 1 AS id")
        with tx.savepoint() as undone:
            failed = tx.query("SELECT 1 / 0")
        with tx.savepoint() as done:
            tx.query("SELECT 1")
    assert twin(read)["one"] == read["one"]
    assert twin(read).fetchall() == [read[0]]
    assert twin(dicts).column("id") == [1]
    assert type(twin(read)) is type(read)
    with pytest.raises(psycopg2.errors.DivisionByZero) as caught:
        twin(failed).result()
    assert (caught.value.statement_index, caught.value.statement) == (2, "SELECT 1 / 0")
    assert str(twin(undone).error) == str(undone.error)
    assert twin(done).error is None
    with db.transaction(rows="dict") as tx:
        of_dicts = tx.query("SELECT 1 AS id")
    assert twin(of_dicts).first() == {"id": 1}


def test_inside_its_block_a_result_is_its_own_copy_and_cannot_be_pickled(db: Handler) -> None:
    with db.transaction() as tx:
        first = tx.query("SELECT 7 AS id")
        with tx.savepoint() as savepoint:
            parts = (first, first[0], first["id"], first.column("id"), savepoint)
            for part in parts:
                assert copy.copy(part) is part
                assert copy.deepcopy([part])[0] is part
                with pytest.raises(UsageError, match="pickle it after that"):
                    pickle.dumps(part)
        second = tx.query("SELECT %(id)s + 1 AS id", copy.deepcopy({"id": first["id"]}))
    assert second["id"] == 8


@every_twin
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_errors_of_every_class_come_out_as_they_went_in(twin: Callable[[Any], Any], kind: str) -> None:
    failure = plain_failure(kind, FAILED, "it failed")._replace(notices=("NOTICE:  n\n",), diag={"severity": "ERROR"})
    for place in (None, place_of(1, 3, b"SELECT \0")):
        for sqlstate in (None, "23505", "XX999"):
            error = error_from(failure._replace(sqlstate=sqlstate), place)
            error.add_note("rolling back failed as well")
            other = twin(error)
            assert type(other) is type(error)
            assert (str(other), other.args, other.failure) == (str(error), error.args, error.failure)
            assert (other.place, other.statement_index, other.outcome) == (place, error.statement_index, FAILED)
            assert (other.pgcode, other.pgerror, other.notices) == (error.pgcode, error.pgerror, error.notices)
            assert other.__notes__ == ["rolling back failed as well"]


@every_twin
@pytest.mark.parametrize(
    "kind",
    sorted(
        {each for each in vars(client).values() if isinstance(each, type) and issubclass(each, DBError)} - {DBError},
        key=str,
    ),
)
def test_errors_that_were_made_of_a_text_come_out_as_they_went_in(
    twin: Callable[[Any], Any], kind: type[DBError]
) -> None:
    error = kind("what was wrong")
    assert (type(twin(error)), str(twin(error))) == (kind, "what was wrong")


@every_twin
def test_an_error_keeps_whether_somebody_was_kept_out(twin: Callable[[Any], Any]) -> None:
    error = DBConnectionError("no entry")
    error.is_kept_out = True
    assert twin(error).is_kept_out


@every_twin
def test_diagnostics_descriptions_and_notices_come_out_as_they_went_in(db: Handler, twin: Callable[[Any], Any]) -> None:
    described = db.query("SELECT relname FROM pg_class").description
    assert described is not None
    (column,) = twin(described)
    assert (column, column.table_oid, column.table_column) == (*described, 1259, 2)
    db.query("DO $$ BEGIN RAISE NOTICE 'n'; END $$")
    assert list(twin(db.notices)) == ["NOTICE:  n\n"]
    with pytest.raises(psycopg2.errors.DivisionByZero) as caught:
        db.query("SELECT 1 / 0")
    error = caught.value
    if twin is not TWINS[1]:  # which knows no slots
        assert twin(error.diag).sqlstate == error.diag.sqlstate == "22012"
    assert twin(error).diag.message_primary == "division by zero"


@every_twin
def test_what_is_tied_to_its_process_says_so(db: Handler, broker: Broker, twin: Callable[[Any], Any]) -> None:
    with db.session() as session:
        things = [db, session, db.stream("SELECT 1"), db.transaction()]
        for thing in things:
            with pytest.raises(TypeError, match="can be neither pickled nor copied"):
                twin(thing)
    connection = dbapi.connect(address=broker.address)
    for tied in (connection, connection.cursor()):
        with pytest.raises(TypeError):
            twin(tied)
    connection.close()
