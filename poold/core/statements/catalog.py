"""The question whether anything in the catalogs has changed.

Proofs hold, and names mean the same, as long as the catalogs do not change. PostgreSQL counts the rows of each catalog
that were inserted, updated and deleted; while the sum is the same nothing was created, altered or dropped. A session
reports its counts when it becomes idle, with a delay of up to ten seconds if it does so again and again.

https://www.postgresql.org/docs/current/monitoring-stats.html
"""

# pg_class, attribute, proc, type, operator, cast, constraint, trigger, rewrite, policy, index, inherits, attrdef,
# namespace, aggregate, opclass, amop, amproc, enum, range, collation, partitioned_table, opfamily, extension;
# authid and auth_members, as policies are for roles.
_CATALOGS = (
    "{1259,1249,1255,1247,2617,2605,2606,2620,2618,3256,2610,2611,2604,2615,2600,2616,2602,2603,3501,3541,3456,3350,"
    "2753,3079,1260,1261}"
)
# Seconds. A standby does not count what it replays: there the answer changes once in this time, and so all is proven
# again.
STANDBY_INTERVAL = 10
COUNTS = (
    "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.floor(pg_catalog.date_part('epoch', "
    f"pg_catalog.clock_timestamp()) OPERATOR(pg_catalog./) {STANDBY_INTERVAL})::pg_catalog.text "
    "ELSE pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(each) OPERATOR(pg_catalog.+) "
    "pg_catalog.pg_stat_get_tuples_updated(each) OPERATOR(pg_catalog.+) "
    "pg_catalog.pg_stat_get_tuples_deleted(each))::pg_catalog.text END "
    f"FROM pg_catalog.unnest('{_CATALOGS}'::pg_catalog.oid[]) AS each"
).encode()
