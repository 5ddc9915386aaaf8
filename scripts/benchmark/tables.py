"""pgbench's tables and statements, https://www.postgresql.org/docs/current/pgbench.html, and a few of our own."""

from collections.abc import Iterator
from random import Random

# Rows for each unit of scale.
ACCOUNTS = 100_000
TELLERS = 10
BRANCHES = 1

SELECT = "SELECT abalance FROM pgbench_accounts WHERE aid = %s"
# pgbench's "TPC-B (sort of)": one transaction, of whose statements one returns a row.
TPCB_READ = "SELECT abalance FROM pgbench_accounts WHERE aid = %(aid)s"
TPCB = (
    "UPDATE pgbench_accounts SET abalance = abalance + %(delta)s WHERE aid = %(aid)s",
    TPCB_READ,
    "UPDATE pgbench_tellers SET tbalance = tbalance + %(delta)s WHERE tid = %(tid)s",
    "UPDATE pgbench_branches SET bbalance = bbalance + %(delta)s WHERE bid = %(bid)s",
    "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) "
    "VALUES (%(tid)s, %(bid)s, %(aid)s, %(delta)s, CURRENT_TIMESTAMP)",
)

# Before a measurement that writes, as pgbench does before each of its runs: else the tables that every transaction
# updates grow with each measurement, and whoever comes later pays for it.
TIDYING = ("VACUUM pgbench_branches", "VACUUM pgbench_tellers", "TRUNCATE pgbench_history")
HISTORY_LENGTH = "SELECT count(*) FROM pgbench_history"

# A transaction of 20 statements: this pair for each of 10 accounts, as a program does that works with objects.
READ_ACCOUNT = "SELECT aid, bid, abalance FROM pgbench_accounts WHERE aid = %(aid)s"
CHANGE_ACCOUNT = "UPDATE pgbench_accounts SET abalance = abalance + %(delta)s WHERE aid = %(aid)s"
LONG_ACCOUNTS = 10

# It takes 20 ms of nobody's processor: so it shows how long short statements wait behind it, not a lack of processors.
SLOW = "SELECT pg_sleep(0.02)"
SHORT, STALLED = "SELECT pg_sleep(0.001)", "SELECT pg_sleep(0.5)"

# A report's worth of rows.
REPORT = "SELECT * FROM bench_report"
REPORT_ROWS = 1000
REPORT_COLUMNS = 10
# Every note but each tenth is there.
REPORT_VALUES = REPORT_ROWS * REPORT_COLUMNS - REPORT_ROWS // 10

_TABLES = (
    "CREATE TABLE pgbench_branches (bid int NOT NULL, bbalance int, filler char(88))",
    "CREATE TABLE pgbench_tellers (tid int NOT NULL, bid int, tbalance int, filler char(84))",
    "CREATE TABLE pgbench_accounts (aid int NOT NULL, bid int, abalance int, filler char(84))",
    "CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))",
)
_KEYS = (
    "ALTER TABLE pgbench_branches ADD PRIMARY KEY (bid)",
    "ALTER TABLE pgbench_tellers ADD PRIMARY KEY (tid)",
    "ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid)",
)


def loading(scale: int) -> Iterator[str]:
    """The statements that make and fill the tables, each to be run by itself."""
    yield from _TABLES
    yield f"INSERT INTO pgbench_branches SELECT n, 0, '' FROM generate_series(1, {BRANCHES * scale}) n"
    yield (
        f"INSERT INTO pgbench_tellers SELECT n, (n - 1) / {TELLERS} + 1, 0, '' "
        f"FROM generate_series(1, {TELLERS * scale}) n"
    )
    yield (
        f"INSERT INTO pgbench_accounts SELECT n, (n - 1) / {ACCOUNTS} + 1, 0, '' "
        f"FROM generate_series(1, {ACCOUNTS * scale}) n"
    )
    yield from _KEYS
    yield "VACUUM ANALYZE"


def loading_report() -> Iterator[str]:
    """The statements that make and fill REPORT's table, each to be run by itself."""
    yield (
        "CREATE TABLE bench_report (id int PRIMARY KEY, customer bigint NOT NULL, quantity int NOT NULL, "
        "total numeric(12, 2) NOT NULL, weight double precision NOT NULL, name text NOT NULL, "
        "made timestamptz NOT NULL, due date NOT NULL, paid bool NOT NULL, note text)"
    )
    yield (
        "INSERT INTO bench_report SELECT n, 4000000000 + n, n % 97, n * 1.37, n / 7.0, 'customer number ' || n, "
        "timestamptz '2024-01-01 00:00:00.123456+00' + n * interval '37 minutes', date '2024-01-01' + n, n % 3 = 0, "
        f"CASE WHEN n % 10 > 0 THEN 'leave at the back door, ring twice' END FROM generate_series(1, {REPORT_ROWS}) n"
    )
    yield "VACUUM ANALYZE bench_report"


def random_account(scale: int, chance: Random) -> int:
    """The key of an account."""
    # random() is a third of randint()'s cost, which would count as the client's.
    return int(chance.random() * ACCOUNTS * scale) + 1


def random_transfer(scale: int, chance: Random) -> dict[str, int]:
    """The parameters of one TPCB transaction."""
    return {
        "aid": random_account(scale, chance),
        "tid": chance.randint(1, TELLERS * scale),
        "bid": chance.randint(1, BRANCHES * scale),
        "delta": chance.randint(-5000, 5000),
    }


def random_changes(scale: int, chance: Random) -> list[dict[str, int]]:
    """The parameters for the pairs of a long transaction.

    In the order of their keys: two transactions that took the same two accounts crosswise would deadlock.
    """
    keys = sorted(random_account(scale, chance) for _ in range(LONG_ACCOUNTS))
    return [{"aid": aid, "delta": chance.randint(-5000, 5000)} for aid in keys]
