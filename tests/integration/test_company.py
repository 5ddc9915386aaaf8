"""Nobody waits behind what may wait for a lock, gets somebody else's cancel, or has what he does done twice.

Whatever shares a backend's pipeline was put there by the broker; the clients know nothing of each other. So a holder
of a lock may be put behind whoever waits for it, which PostgreSQL cannot see as the deadlock that it is.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from brokers import Broker
from crowd import Crowd
from examples import seeds
from postgres import Factory, Postgres
from someone import Someone, attempt
from waiting import wait_until

from client import Handler
from client.values.result import Result

GROUPS = {
    "default": {"min_size": 4, "max_size": 4},
    "single": {"min_size": 1, "max_size": 1},
    "pair": {"min_size": 2, "max_size": 2},
    "transactions": {"autocommit": False, "min_size": 2, "max_size": 2},
}
# Of a statement that nobody lets go on; long before it the others have their answers, where all is well.
QUERY_TIMEOUT = 5.0
COUNTERS = 400
# Raised by functions themselves, after what no rollback takes back. 40001 and 40P01 have a message run again, which is
# what they are for.
CODES = ("0A000", "26000", "42P05", "XX000", "22P02", "22003", "42P01", "42703", "42804", "42883", "42704", "42P18",
         "25006", "25P02", "34000", "3F000", "08006", "08P01", "53300", "53400", "54001", "55000", "55P03", "57014",
         "57P01", "57P03", "58000", "P0001", "XX001", "XX002", "F0000", "72000")  # fmt: skip
LOST_RACES = ("40001", "40P01")
TABLES = """
CREATE TABLE rows (id int PRIMARY KEY, v int DEFAULT 0);
INSERT INTO rows SELECT generate_series(1, 1000);
CREATE TABLE doomed (id int PRIMARY KEY);
INSERT INTO doomed VALUES (8), (9), (10);
CREATE TABLE children (id int REFERENCES rows, what text);
CREATE TABLE elsewhere (id int PRIMARY KEY, v int);
INSERT INTO elsewhere SELECT n, n FROM generate_series(1, 100) n;
CREATE TABLE locked (id int PRIMARY KEY, v int);
INSERT INTO locked SELECT n, -n FROM generate_series(1, 100) n;
CREATE FUNCTION take(key int) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock(key); RETURN key; END $$;
CREATE FUNCTION take_quietly(key int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock(key); RETURN key; END $$;
CREATE FUNCTION take_row(which int) RETURNS int LANGUAGE plpgsql AS
    $$ DECLARE found int; BEGIN SELECT v INTO found FROM rows WHERE id = which FOR UPDATE; RETURN found; END $$;
CREATE VIEW taken AS SELECT id, take(id) AS key FROM rows;
CREATE FUNCTION takes(a int, b int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN take(b) = a; END $$;
CREATE OPERATOR <#> (FUNCTION = takes, LEFTARG = int, RIGHTARG = int);
CREATE TYPE key AS (n int);
CREATE FUNCTION take_as_cast(key) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN take($1.n); END $$;
CREATE CAST (key AS int) WITH FUNCTION take_as_cast;
CREATE FUNCTION is_taken(key int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN take(key) = key; END $$;
CREATE DOMAIN taking AS int CHECK (is_taken(VALUE));

CREATE FUNCTION catches(who text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(0.001);
    RETURN who || ' ran';
EXCEPTION WHEN query_canceled THEN
    RETURN who || ' was cancelled';
END $$;
CREATE TABLE caught (who text, what text);
CREATE FUNCTION catch_in_trigger() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.what := catches(NEW.who); RETURN NEW; END $$;
CREATE TRIGGER catch BEFORE INSERT ON caught FOR EACH ROW EXECUTE FUNCTION catch_in_trigger();

-- What no rollback takes back: how often each request has run.
DO $$ BEGIN FOR n IN 1..400 LOOP EXECUTE format('CREATE SEQUENCE counter_%s', n); END LOOP; END $$;
CREATE FUNCTION act(n int, code text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval(('counter_' || n)::regclass);
    IF code = 'sleep' THEN PERFORM pg_sleep(0.002);
    ELSIF code <> '' THEN RAISE 'of its own' USING ERRCODE = code; END IF;
    RETURN 'acted ' || n;
END $$;
CREATE TABLE acts (n int, code text);
CREATE FUNCTION count_act() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM nextval(('counter_' || NEW.n)::regclass); RETURN NEW; END $$;
CREATE TRIGGER count_act BEFORE INSERT ON acts FOR EACH ROW EXECUTE FUNCTION count_act();
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.code = 'notice' THEN RAISE NOTICE 'at commit %', NEW.n;
    ELSIF NEW.code <> '' THEN RAISE 'at commit' USING ERRCODE = NEW.code; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON acts DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION at_commit();
"""
READ = "SELECT v FROM elsewhere WHERE id = %s"
READ_LOCKED = "SELECT v FROM locked WHERE id = %s"
ACT, INSERT = "SELECT act(%s, %s) AS it", "INSERT INTO acts VALUES (%s, %s)"


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, session_folder: Any, bindir: Any) -> Iterator[Postgres]:
    factory = Factory(request.config.getoption("--postgres"), session_folder, bindir)
    try:
        made = factory()
        made.execute(TABLES)
        yield made
    finally:
        factory.close()


@pytest.fixture(scope="module")
def broker(server: Postgres) -> Iterator[Broker]:
    made = Broker({"main": {**server.parameters, "query_timeout": QUERY_TIMEOUT}}, GROUPS)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
def eyes(server: Postgres) -> Iterator["Eyes"]:
    made = Eyes(server)
    try:
        yield made
    finally:
        made.close()


class Eyes:
    """Sees who waits for a lock, and how often what has run."""

    def __init__(self, server: Postgres) -> None:
        self._connection = server.connect(application_name="the test's own eyes")

    def waiting(self) -> int:
        """How many of poold's backends wait for a lock."""
        return int(self._cell("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'poold' "
                              "AND wait_event_type = 'Lock'"))  # fmt: skip

    def runs(self, counter: int) -> int:
        """How often it has been counted up."""
        return int(self._cell(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM counter_{counter}"))

    def rows(self, counter: int) -> int:
        return int(self._cell(f"SELECT count(*) FROM acts WHERE n = {counter}"))

    def _cell(self, sql: str) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            row = cursor.fetchone()
            assert row is not None
            return row[0]

    def close(self) -> None:
        self._connection.close()


_counters = itertools.count(1)


def counter() -> int:
    """One that has never been used."""
    number = next(_counters)
    assert number <= COUNTERS
    return number


def make_known(db: Handler, statement: str, *params: Any) -> None:
    """Let the broker see it often: short, and so one that may share a backend if it is of that kind."""
    for each in itertools.islice(itertools.cycle(params), 25):
        db.query(statement, each)


# Locks.

# Statements that wait where their row, or the key 7, is taken; and what is taken from them.
ROW, KEY = "SELECT v FROM rows WHERE id = 7 FOR UPDATE", "SELECT pg_advisory_xact_lock(7)"
# There again, whoever has deleted it before.
DOOMED = "INSERT INTO doomed VALUES (7) ON CONFLICT DO NOTHING; COMMIT; BEGIN; SELECT id FROM doomed FOR UPDATE"
WAITERS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("UPDATE rows SET v = v + 1 WHERE id = %s", ROW, (7,)),
    ("UPDATE rows SET v = v + 1 WHERE id = %s RETURNING v", ROW, (7,)),
    ("WITH w AS (UPDATE rows SET v = v + 1 WHERE id = %s RETURNING v) SELECT v FROM w", ROW, (7,)),
    ("DELETE FROM doomed WHERE id = %s", DOOMED, (7,)),
    ("SELECT v FROM rows WHERE id = %s FOR UPDATE", ROW, (7,)),
    ("SELECT v FROM rows WHERE id = %s FOR NO KEY UPDATE", ROW, (7,)),
    ("SELECT v FROM rows WHERE id = %s FOR SHARE", ROW, (7,)),
    ("SELECT v FROM rows WHERE id = %s FOR KEY SHARE", ROW, (7,)),
    ("SELECT v FROM (SELECT * FROM rows WHERE id = %s FOR SHARE) x", ROW, (7,)),
    ("INSERT INTO children VALUES (%s, 'x')", ROW, (7,)),
    ("INSERT INTO rows VALUES (%s) ON CONFLICT (id) DO UPDATE SET v = 0", ROW, (7,)),
    ("MERGE INTO rows USING (SELECT %s AS k) s ON id = k WHEN MATCHED THEN UPDATE SET v = 0", ROW, (7,)),
    ("SELECT take_row(%s)", ROW, (7,)),
    ("SELECT v + take_row(%s) FROM elsewhere WHERE id = 1", ROW, (7,)),
    ("SELECT pg_advisory_xact_lock(%s)", KEY, (7,)),
    ("SELECT pg_advisory_xact_lock_shared(%s)", KEY, (7,)),
    ("SELECT take(%s)", KEY, (7,)),
    ("SELECT take_quietly(%s)", KEY, (7,)),
    ("SELECT id FROM rows WHERE id = take_quietly(%s)", KEY, (7,)),
    ("SELECT key FROM taken WHERE id = %s", KEY, (7,)),
    ("SELECT id FROM rows WHERE id = %s AND id <#> id", KEY, (7,)),
    ("SELECT ROW(%s)::key::int AS it", KEY, (7,)),
    ("SELECT %s::taking AS it", KEY, (7,)),
    ("SELECT sum(take(id)) FROM rows WHERE id = %s", KEY, (7,)),
]
# READ is a plain read, the locked table's are plain reads as well, but wait all the same.
READS = [(READ, (number,)) for number in range(1, 7)]


def check_reads(answers: list[Any]) -> None:
    assert [attempt(lambda answer=answer: answer[0][0]) for answer in answers] == [n for _, (n,) in READS], answers  # type: ignore[misc]


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize(("statement", "taken", "params"), WAITERS, ids=[sql for sql, _, _ in WAITERS])
def test_nobody_waits_behind_what_waits_for_a_lock(
    server: Postgres, broker: Broker, eyes: Eyes, statement: str, taken: str, params: Any, seed: int
) -> None:
    place = random.Random(f"{seed} {statement}").choice((0, 0, 3, 6))
    db = broker.handler()
    make_known(db, statement, (8,), (9,), (10,))
    make_known(db, READ, (1,), (2,), (3,))
    holder = server.connect()
    try:
        holder.cursor().execute("BEGIN; " + taken)
        with Crowd(broker, 8) as crowd:
            questions: list[Any] = list(READS)
            questions.insert(place, (statement, params))
            crowd.ask(questions)
            check_reads([crowd.answer(each) for each in range(7) if each != place])
            wait_until(eyes.waiting, 5, "the one that waits")
            # And who comes later.
            for number in (11, 12, 13):
                crowd.ask_alone(7, (READ, (number,)))
                assert crowd.answer(7)[0][0] == number  # type: ignore[index]
            assert eyes.waiting() == 1, "it waits still, as all others have their answers"
            holder.cursor().execute("ROLLBACK")
            assert isinstance(crowd.answer(place), Result)
    finally:
        holder.close()


@pytest.mark.parametrize("group", ["default", "pair"])
@pytest.mark.parametrize("how", ["lease", "session"])
def test_who_holds_a_lock_reads_elsewhere_while_others_wait_for_it(
    broker: Broker, eyes: Eyes, group: str, how: str
) -> None:
    update = "UPDATE rows SET v = v + 1 WHERE id = %s"
    db = broker.handler(group)
    make_known(db, update, (20,), (21,))
    make_known(db, READ, (1,), (2,))
    for _ in range(3):
        holder = broker.handler("transactions") if how == "lease" else broker.handler("transactions").session()
        with holder, Crowd(broker, 8, group) as crowd:
            holder.query(update, (7,))
            crowd.ask([(update, (7,)), *READS])
            check_reads([crowd.answer(each) for each in range(1, 7)])
            wait_until(eyes.waiting, 5, "the other one's UPDATE to wait")
            assert db.query(READ, (50,))[0][0] == 50, "the holder's own"
            assert eyes.waiting() == 1
            holder.commit()
            assert isinstance(crowd.answer(0), Result)


@pytest.mark.parametrize("group", ["default", "pair", "single"])
@pytest.mark.parametrize("order", ["ahead", "behind", "amid"])
def test_a_table_that_is_locked_keeps_nobody_from_reading_another(
    broker: Broker, eyes: Eyes, group: str, order: str
) -> None:
    db, tx = broker.handler(group), broker.handler("transactions")
    make_known(db, READ_LOCKED, (1,), (2,))
    make_known(db, READ, (1,), (2,))
    # The holder's own reads elsewhere are among READS; until it has them it does not end.
    place = {"ahead": 0, "amid": 3, "behind": 6}[order]
    with tx, Crowd(broker, 8, group) as crowd:
        tx.query("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
        questions: list[Any] = list(READS)
        questions.insert(place, (READ_LOCKED, (5,)))
        crowd.ask(questions)
        check_reads([crowd.answer(each) for each in range(7) if each != place])
        crowd.ask_alone(7, (READ, (60,)))
        late = crowd.answer(7)
        assert isinstance(late, Result), f"{late!r}\n{broker.log()}"
        assert late[0][0] == 60
        tx.query("UPDATE locked SET v = v WHERE id = 5")
        tx.commit()
        found = crowd.answer(place)
        assert isinstance(found, Result), f"it has waited until its time was up, and so have those behind it: {found!r}"
        assert found[0][0] == -5


@pytest.mark.parametrize("count", [2, 5])
def test_several_that_wait_for_a_locked_table_all_get_their_answers(broker: Broker, count: int) -> None:
    db, tx = broker.handler("pair"), broker.handler("transactions")
    make_known(db, READ_LOCKED, (1,), (2,))
    make_known(db, READ, (1,), (2,))
    with tx, Crowd(broker, 16, "pair") as crowd:
        tx.query("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
        questions = [question for n in range(1, count + 1) for question in ((READ_LOCKED, (n,)), (READ, (n,)))]
        crowd.ask(questions)
        free = [crowd.answer(2 * n + 1) for n in range(count)]
        assert [attempt(lambda each=each: each[0][0]) for each in free] == list(range(1, count + 1)), free  # type: ignore[misc]
        tx.commit()
        waited = [crowd.answer(2 * n) for n in range(count)]
        assert [attempt(lambda each=each: each[0][0]) for each in waited] == [-n for n in range(1, count + 1)], waited  # type: ignore[misc]


# Cancels.

CATCHERS = [
    "SELECT catches(%s) AS it",
    "SELECT upper(catches(%s)) AS it",
    "INSERT INTO caught (who) VALUES (%s) RETURNING what",
    "SELECT 'x' || catches(x) AS it FROM (SELECT %s AS x) s",
]


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("group", ["single", "default"])
@pytest.mark.parametrize("statement", CATCHERS)
def test_nobody_sees_a_cancel_of_somebody_else(broker: Broker, statement: str, group: str, seed: int) -> None:
    chance = random.Random(f"{seed} {statement} {group}")
    db = broker.handler(group)
    make_known(db, statement, ("a",))
    make_known(db, READ, (1,))
    with Crowd(broker, 6, group) as crowd:
        for _ in range(25):
            # The first one takes back what it asked, is gone, or has no more time; some of the others only read.
            how = chance.choice(["cancel", "cancel", "leave", "time"])
            first: Any = chance.choice(
                [(statement, ("a",)), (statement, ("a",)), (READ, (1,)), ("SELECT pg_sleep(1)", None)]
            )
            if how == "time":
                first = (*first, 0.01)
            questions = [
                first,
                *[(statement, (f"b{n}",)) if chance.random() < 0.7 else (READ, (n,)) for n in range(1, 6)],
            ]
            crowd.ask(questions)
            for _wait in range(chance.randrange(3)):
                broker.ask("ping")
            if how == "cancel":
                crowd.cancel(0)
            elif how == "leave":
                crowd.leave(0)
            for n in range(1, 6):
                answer = crowd.answer(n)
                assert isinstance(answer, Result), f"{questions[n]} beside {how} of {first}: {answer!r}"
                found = str(answer[0][0]).lower()
                expected = str(n) if questions[n][0] == READ else f"b{n} ran"
                assert found.removeprefix("x") == expected, f"{questions[n]} beside {how} of {first}"
            if how == "leave":
                crowd.come_back(0)
            else:
                crowd.answer(0)


@pytest.mark.parametrize("seed", seeds(2))
def test_who_stands_beside_one_that_is_cancelled_gets_his_own_answer(broker: Broker, seed: int) -> None:
    chance, db = random.Random(seed), broker.handler("single")
    slow = "SELECT v, pg_sleep(%s) FROM elsewhere WHERE id = 1"
    make_known(db, READ, (1,))
    make_known(db, slow, (0,))
    with Crowd(broker, 16, "single") as crowd:
        for _ in range(20):
            gone = chance.sample(range(16), 4)
            numbers = [chance.randrange(1, 100) for _ in range(16)]
            slow_ones = set(chance.sample(gone, 1))
            crowd.ask([(slow, (5,)) if n in slow_ones else (READ, (numbers[n],)) for n in range(16)])
            for n in gone:
                crowd.cancel(n)
            for n in range(16):
                answer = crowd.answer(n)
                if isinstance(answer, Result):
                    assert answer[0][0] == numbers[n]
                else:
                    assert n in gone
                    assert isinstance(answer, psycopg2.errors.QueryCanceled), answer


# Once, and no more.


@pytest.mark.parametrize("code", CODES + LOST_RACES)
def test_what_raises_an_error_of_its_own_has_run_once_on_every_path(broker: Broker, eyes: Eyes, code: str) -> None:
    db, tx, number = broker.handler("single"), broker.handler("transactions"), counter()
    expected = itertools.count(1)

    def check(path: str, found: Any) -> None:
        assert isinstance(found, psycopg2.Error), f"{path}: {found!r}"
        assert found.pgcode == code, path
        assert eyes.runs(number) - good == next(expected), path

    make_known(db, ACT, (number, ""))
    for _ in range(12):
        with tx:
            tx.query(ACT, (number, ""))
    good = eyes.runs(number)
    assert good == 37
    for run in range(4):
        check(f"query {run}", attempt(db.query, ACT, (number, code)))
    check("literals", attempt(db.query, ACT, (number, code), prepare=False))
    for run in range(3):
        check(f"message {run}", attempt(db.run, ["SELECT 1", (ACT, (number, code))], retries=0))
        check(f"transaction {run}", attempt(tx.query, ACT, (number, code)))
        tx.rollback()
    with db.session() as session:
        for run in range(3):
            check(f"session {run}", attempt(session.query, ACT, (number, code)))
        session.query("BEGIN")
        check("transaction in a session", attempt(session.query, ACT, (number, code)))
        session.rollback()


@pytest.mark.parametrize("code", CODES + LOST_RACES)
def test_what_fails_when_it_commits_has_run_once_on_every_path(broker: Broker, eyes: Eyes, code: str) -> None:
    db, tx, number = broker.handler("single"), broker.handler("transactions"), counter()
    expected = itertools.count(1)

    def check(path: str, found: Any) -> None:
        assert isinstance(found, psycopg2.Error), f"{path}: {found!r}"
        assert found.pgcode == code, path
        assert eyes.runs(number) - good == next(expected), path
        assert eyes.rows(number) == good, path

    make_known(db, INSERT, (number, ""))
    for _ in range(12):
        with tx:
            tx.query(INSERT, (number, ""))
    good = eyes.runs(number)
    assert good == 37
    for run in range(4):
        check(f"query {run}", attempt(db.query, INSERT, (number, code)))
    check("literals", attempt(db.query, INSERT, (number, code), prepare=False))
    for run in range(3):
        check(f"message {run}", attempt(db.run, ["SELECT 1", (INSERT, (number, code))], retries=0))
        tx.query(INSERT, (number, code))
        check(f"transaction {run}", attempt(tx.commit))
        tx.rollback()
    with db.session() as session:
        for run in range(3):
            check(f"session {run}", attempt(session.query, INSERT, (number, code)))


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("group", ["single", "default"])
@pytest.mark.parametrize("statement", [ACT, INSERT], ids=["function", "trigger"])
def test_each_runs_once_beside_cancels_and_errors(
    server: Postgres, broker: Broker, eyes: Eyes, statement: str, group: str, seed: int
) -> None:
    chance, db = random.Random(f"{seed} {group} {statement}"), broker.handler(group)
    numbers = [counter() for _ in range(8)]
    make_known(db, statement, *[(number, "") for number in numbers])
    make_known(db, READ, (1,))
    before = {number: eyes.runs(number) for number in numbers}
    codes = ["", "", "", "0A000", "26000", "XX000", "57014", *(["sleep", "sleep"] if statement == ACT else [])]
    with Crowd(broker, 8, group) as crowd:
        for _ in range(40):
            acts = [(number, chance.choice(codes)) for number in numbers]
            is_read = [chance.random() < 0.3 for _ in numbers]
            cancelled = set(chance.sample(range(8), 2))
            crowd.ask([(READ, (n + 1,)) if is_read[n] else (statement, acts[n]) for n in range(8)])
            for n in sorted(cancelled):
                crowd.cancel(n)
            for n, (number, code) in enumerate(acts):
                answer, runs = crowd.answer(n), eyes.runs(number) - before[number]
                before[number] += runs
                story = f"{acts[n]} {'cancelled' if n in cancelled else ''}: {answer!r}"
                if is_read[n]:
                    assert runs == 0, story
                    assert isinstance(answer, Result) or n in cancelled, story
                elif isinstance(answer, Result):
                    assert (runs, code in ("", "sleep")) == (1, True), story
                elif n in cancelled and answer.outcome == "not executed":
                    assert runs == 0, story
                elif n in cancelled:
                    assert runs <= 1, story
                else:
                    assert (runs, answer.pgcode) == (1, code), story  # type: ignore[attr-defined]


# Notices.


def test_notices_at_commit_reach_their_client_on_every_path(server: Postgres, broker: Broker) -> None:
    number = counter()
    own = server.connect()
    own.cursor().execute(INSERT, (number, "notice"))
    expected = own.notices
    own.close()
    assert expected == [f"NOTICE:  at commit {number}\n"]
    missing = []

    def check(path: str, db: Handler) -> None:
        if list(db.notices) != expected:
            missing.append((path, list(db.notices)))
        db.notices.clear()

    db, tx = broker.handler("single"), broker.handler("transactions")
    for run in range(12):
        found = db.query(INSERT, (number, "notice"))
        if list(found.notices) != expected:
            missing.append((f"result of query {run}", list(found.notices)))
        check(f"query {run}", db)
    for run in range(12):
        db.run([(INSERT, (number, "notice"))])
        check(f"message {run}", db)
    for run in range(12):
        with tx:
            tx.query(INSERT, (number, "notice"))
        check(f"transaction {run}", tx)
    with db.session() as session:
        for run in range(12):
            session.query(INSERT, (number, "notice"))
            check(f"session {run}", session)
        for run in range(3):
            session.query("BEGIN")
            session.query(INSERT, (number, "notice"))
            session.query("COMMIT")
            check(f"transaction {run} in a session", session)
            session.query("BEGIN")
            session.query(INSERT, (number, "notice"))
            session.commit()
            check(f"transaction {run} in a session, by commit()", session)
    assert not missing, missing


def test_notices_at_commit_reach_nobody_else(broker: Broker) -> None:
    number, db = counter(), broker.handler("single")
    make_known(db, INSERT, (number, ""))
    make_known(db, READ, (1,))
    with Crowd(broker, 8, "single") as crowd:
        for _ in range(20):
            crowd.ask([(INSERT, (number, "notice")) if n % 2 else (READ, (n + 1,)) for n in range(8)])
            for n, answer in enumerate(crowd.answers()):
                assert isinstance(answer, Result), answer
                assert list(answer.notices) == ([f"NOTICE:  at commit {number}\n"] if n % 2 else [])


def test_the_next_statement_runs_as_who_it_is_sent_by_whatever_stands_before_it(
    server: Postgres, broker: Broker
) -> None:
    server.execute("""
        CREATE ROLE somebody;
        CREATE FUNCTION become(is_so boolean) RETURNS int LANGUAGE plpgsql AS $$
        BEGIN
            IF is_so THEN PERFORM set_config('session_authorization', 'somebody', false); END IF;
            RETURN 1;
        END $$
    """)
    db, who = broker.handler("single"), server.parameters["user"]
    make_known(db, "SELECT become(%s)", (False,))
    make_known(db, "SELECT session_user::text || %s", ("",))
    with Someone() as somebody, Crowd(broker, 6, "single") as crowd:
        for _ in range(10):
            crowd.ask([("SELECT become(%s)", (True,)), *[("SELECT session_user::text || %s", ("",))] * 5])
            assert [attempt(lambda n=n: crowd.answer(n)[0][0]) for n in range(1, 6)] == [who] * 5  # type: ignore[misc]
            crowd.answer(0)
            assert somebody.do(lambda: db.query("SELECT session_user::text || %s", ("",))[0][0]) == who
