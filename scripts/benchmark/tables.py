"""pgbench's tables and statements: https://www.postgresql.org/docs/current/pgbench.html"""

from collections.abc import Iterator
from random import Random

# Rows for each unit of scale.
ACCOUNTS = 100_000
TELLERS = 10
BRANCHES = 1

SELECT = "SELECT abalance FROM pgbench_accounts WHERE aid = %s"
# pgbench's "TPC-B (sort of)": one transaction.
TPCB = (
    "UPDATE pgbench_accounts SET abalance = abalance + %(delta)s WHERE aid = %(aid)s",
    "SELECT abalance FROM pgbench_accounts WHERE aid = %(aid)s",
    "UPDATE pgbench_tellers SET tbalance = tbalance + %(delta)s WHERE tid = %(tid)s",
    "UPDATE pgbench_branches SET bbalance = bbalance + %(delta)s WHERE bid = %(bid)s",
    "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) "
    "VALUES (%(tid)s, %(bid)s, %(aid)s, %(delta)s, CURRENT_TIMESTAMP)",
)

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
