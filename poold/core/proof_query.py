"""The question to the catalogs that a proof rests on: one statement, with the OIDs of a tree in it.

It works on PostgreSQL 13 to 18, for every role, on standbys, and under any search_path: all names are qualified, and
operators too. The text below is written with plain operators; `_qualified` makes the rest.

Its rows are (kind, detail); the detail is the name of an object, for an operator, or the text of a tree:

    F  a function that nobody can see into: neither built in nor an allowed function of an extension, or not found
    B  a built-in function that leaves something, or that runs whatever is named to it
    S  nextval
    P  a built-in function that a plain read does not call
    T  a type, D a domain, M an access method, K a foreign key's action, G a trigger, R a relation: not provable
    L  more relations or types than MAX_RELATIONS or MAX_TYPES
    X  the tree of a check, generated column, index, statistics object or partition key, which needs a proof as well
    U  the equality names all columns of a unique index
    I  a parameter's type is interval or contains it, O it is a domain or contains one

Built in is what has an OID below 16384 (FirstNormalObjectId). What is harmless:
- A built-in function is, if it is not volatile or in VOLATILE, not in REFUSED, and takes no cstring and no internal:
  `domain_in('x', 'some.domain'::regtype, -1)` would run a check that the tree does not show. It returns no void, which
  nobody calls but for an effect, and no trigger.
- A function of an extension is, if it is in C or internal and IMMUTABLE. STABLE ones in C may run any SQL (crosstab of
  tablefunc does), so they are not, nor are VOLATILE ones, but for those in EXTENSIONS, which were read.
- An aggregate is what its functions are. Functions in SQL and all other languages are not.
Built-in functions reach others by catalog: comparison of arrays and records reaches operator classes, to_json reaches
casts to json, output of a row reaches the output functions of its columns. Hence the closures.

A plain read calls immutable functions and stable ones that depend on nothing but data, time and settings. No list says
which these are: they are parallel safe, have arguments, neither take nor return names and OIDs of objects (oid, name,
reg*, xid, snapshots), and their names do not begin with pg_ or has_; PLAIN are exempt, NOT_PLAIN is not of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

MAX_RELATIONS = 1_000  # with partitions and children
MAX_TYPES = 2_000

INSERT, DELETE, UPDATE = 4, 8, 16  # as in pg_trigger.tgtype

# random, with bounds, random_normal, gen_random_uuid, uuidv4, uuidv7, clock_timestamp, timeofday
_RANDOM_AND_TIME = "1598,6339,6340,6341,6212,3432,6428,6429,6430,2649,274"
_NAMES = {
    "NEXTVAL": "1574",
    "VOLATILE": f"1574,{_RANDOM_AND_TIME}",
    # *_to_xml, *_to_xmlschema, *_to_xml_and_xmlschema run queries and take names; pg_input_is_valid and
    # pg_input_error_info run the input function of any type, satisfies_hash_partition the hash functions of any table.
    "REFUSED": "2923,2924,2925,2926,2927,2928,2929,2930,2933,2934,2935,2936,2937,2938,6210,6211,5028",
    # now, transaction_timestamp, statement_timestamp, current_database, version
    "PLAIN": f"{_RANDOM_AND_TIME},1299,2647,2648,861,89",
    "NOT_PLAIN": "2077,3294",  # current_setting
    # void, trigger, event_trigger, handlers of languages, foreign data, samples, indexes and tables, internal
    "EFFECTS": "2278,2279,3838,2280,3115,3310,325,269,2281",
    "INNER": "2275,2281",  # cstring, internal
    # oid, name, xid, xid8, cid, tid, pg_lsn, snapshots, reg*
    "OBJECTS": "26,19,28,5069,29,27,3220,2970,5038,24,2202,2203,2204,2205,2206,3734,3769,4089,4096,4191",
    # Foreign keys' checks and what deferred uniqueness needs. The others act: CASCADE, SET NULL, SET DEFAULT.
    "CHECKS": "1644,1645,1648,1649,1654,1655,1250",
}  # fmt: skip

_TEXT = """
WITH RECURSIVE
tree AS (SELECT i.oid, i.ev FROM ROWS FROM (unnest($relations::oid[]), unnest($events::int4[])) i(oid, ev)),
rel AS (
    SELECT * FROM tree
    UNION SELECT i.inhrelid, r.ev FROM rel r JOIN :pg_inherits i ON i.inhparent = r.oid),
few AS MATERIALIZED (
    SELECT x.oid, bit_or(x.ev) AS ev, bool_or(x.num >= $max_relations) AS many
    FROM (SELECT r.oid, r.ev, row_number() OVER () AS num FROM rel r LIMIT $max_relations) x GROUP BY x.oid),
above AS (
    SELECT f.oid FROM few f WHERE f.ev <> 0
    UNION SELECT i.inhparent FROM above a JOIN :pg_class k ON k.oid = a.oid JOIN :pg_inherits i ON i.inhrelid = k.oid
    WHERE k.relispartition),
trg AS MATERIALIZED (
    SELECT g.tgname, g.tgfoid, g.tgisinternal, g.tgconstraint FROM few f JOIN :pg_trigger g ON g.tgrelid = f.oid
    WHERE ((g.tgtype::int4 & f.ev) <> 0) AND g.tgenabled <> 'D'),
con AS MATERIALIZED (
    SELECT f.ev, c.contype, c.conbin, c.conpfeqop, c.conppeqop, c.conffeqop, c.conexclop
    FROM few f JOIN :pg_constraint c ON c.conrelid = f.oid
    UNION ALL SELECT 1, c.contype, NULL, c.conpfeqop, c.conppeqop, c.conffeqop, NULL
    FROM trg g JOIN :pg_constraint c ON c.oid = g.tgconstraint),
par AS (
    SELECT p.partclass, p.partexprs FROM (SELECT oid FROM few UNION SELECT oid FROM above) f
    JOIN :pg_partitioned_table p ON p.partrelid = f.oid),
idx AS MATERIALIZED (
    SELECT f.ev, i.indexrelid, i.indclass, i.indexprs, i.indpred FROM few f JOIN :pg_index i ON i.indrelid = f.oid),
ty AS (
    SELECT s.oid, s.tag FROM (
        SELECT i.oid, i.tag FROM ROWS FROM (unnest($types::oid[]), unnest($tags::text[])) i(oid, tag)
        UNION ALL SELECT a.atttypid, 'm' FROM few f JOIN :pg_attribute a ON a.attrelid = f.oid
        WHERE f.ev <> 0 AND a.attnum > 0 AND NOT a.attisdropped) s
    UNION SELECT p.oid, y.tag FROM ty y JOIN :pg_type t ON t.oid = y.oid CROSS JOIN LATERAL (
        SELECT t.typelem WHERE t.typelem <> 0
        UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
        UNION ALL SELECT a.atttypid FROM :pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT r.rngsubtype FROM :pg_range r WHERE t.typtype = 'r' AND r.rngtypid = t.oid
        UNION ALL SELECT d.refobjid FROM :pg_depend d WHERE t.typtype = 'm' AND d.classid = 1247 AND d.objid = t.oid
        AND d.refclassid = 1247 AND d.deptype = 'i') p(oid)),
tys AS MATERIALIZED (SELECT y.oid, y.tag, row_number() OVER () AS num FROM ty y LIMIT $max_types),
typ AS MATERIALIZED (
    SELECT y.tag, t.* FROM tys y JOIN :pg_type t ON t.oid = y.oid WHERE y.oid >= 10000 AND y.tag <> 'p'),
op0 AS (
    SELECT i.oid FROM unnest($operators::oid[]) i(oid)
    UNION SELECT unnest((c.conpfeqop || c.conppeqop) || c.conffeqop) FROM con c WHERE c.contype = 'f' AND c.ev <> 0
    UNION SELECT unnest(c.conexclop) FROM con c WHERE c.ev <> 0),
ops AS MATERIALIZED (
    SELECT i.oid FROM op0 i
    UNION SELECT x.oid FROM op0 i JOIN :pg_operator o ON o.oid = i.oid CROSS JOIN unnest(ARRAY[o.oprcom, o.oprnegate])
    x(oid) WHERE x.oid >= 16384),
cls AS (
    SELECT unnest(i.indclass::oid[]) AS oid FROM idx i WHERE i.ev <> 0
    UNION SELECT unnest(p.partclass::oid[]) FROM par p
    UNION SELECT r.rngsubopc FROM typ t JOIN :pg_range r ON r.rngtypid = t.oid
    UNION SELECT c.oid FROM :pg_opclass c JOIN tys y ON y.oid = c.opcintype WHERE c.oid >= 16384 AND y.tag <> 'p'),
fam AS MATERIALIZED (
    SELECT c.opcfamily AS oid FROM cls i JOIN :pg_opclass c ON c.oid = i.oid
    UNION SELECT m.amopfamily FROM ops i JOIN :pg_amop m ON m.amopopr = i.oid),
fn0 AS MATERIALIZED (
    SELECT i.oid FROM unnest($functions::oid[]) i(oid)
    UNION SELECT coalesce(o.oprcode::oid, 0) FROM ops i LEFT JOIN :pg_operator o ON o.oid = i.oid
    UNION SELECT o.oprcode::oid FROM fam f JOIN :pg_amop m ON m.amopfamily = f.oid AND m.amopopr >= 16384
    JOIN :pg_operator o ON o.oid = m.amopopr
    UNION SELECT p.amproc::oid FROM fam f JOIN :pg_amproc p ON p.amprocfamily = f.oid
    WHERE p.amproc::oid >= 16384
    UNION SELECT c.castfunc FROM typ t JOIN :pg_cast c ON c.castsource = t.oid AND c.casttarget = 114
    WHERE c.castfunc >= 16384
    UNION SELECT x.oid FROM typ t CROSS JOIN unnest(ARRAY[t.typinput::oid, t.typoutput, t.typreceive, t.typsend,
    t.typmodin, t.typmodout]) x(oid) WHERE x.oid >= 16384
    UNION SELECT x.oid FROM typ t JOIN :pg_range r ON r.rngtypid = t.oid
    CROSS JOIN unnest(ARRAY[r.rngcanonical::oid, r.rngsubdiff]) x(oid) WHERE x.oid >= 16384),
fns AS (
    SELECT oid FROM fn0
    UNION SELECT x.oid FROM fn0 i JOIN :pg_aggregate a ON a.aggfnoid::oid = i.oid CROSS JOIN unnest(ARRAY[
    a.aggtransfn::oid, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn,
    a.aggmfinalfn]) x(oid) WHERE i.oid >= 16384 AND x.oid >= 16384
    UNION SELECT o.oprcode::oid FROM fn0 i JOIN :pg_aggregate a ON a.aggfnoid::oid = i.oid
    JOIN :pg_operator o ON o.oid = a.aggsortop WHERE o.oid >= 16384),
fun AS MATERIALIZED (
    SELECT i.oid AS asked, p.*, (
        SELECT e.extname FROM :pg_depend d JOIN :pg_extension e ON e.oid = d.refobjid WHERE i.oid >= 16384
        AND d.classid = 1255 AND d.objid = i.oid AND d.refclassid = 3079 AND d.deptype = 'e' LIMIT 1) AS extension
    FROM fns i LEFT JOIN :pg_proc p ON p.oid = i.oid)
SELECT 'F', coalesce(f.proname::text, 'that is gone') FROM fun f
WHERE f.oid IS NULL OR f.oid >= 16384 AND NOT (f.prokind = 'a' OR f.prolang = ANY ('{12,13}') AND
f.extension IS NOT NULL AND (f.provolatile = 'i'
OR f.provolatile = 's' AND f.extension::text = ANY ('{pg_trgm,unaccent}')
OR f.provolatile = 'v' AND f.extension::text = ANY ('{pgcrypto,uuid-ossp}')))
UNION ALL SELECT 'B', f.proname::text FROM fun f
WHERE f.oid < 16384 AND (f.provolatile = 'v' AND f.oid <> ALL ('{VOLATILE}') OR f.oid = ANY ('{REFUSED}')
OR f.prorettype = ANY ('{EFFECTS}') OR f.proargtypes::oid[] && '{INNER}')
UNION ALL SELECT 'T', t.typname::text FROM typ t WHERE NOT t.typisdefined OR t.oid >= 16384 AND (t.typtype = 'p'
OR t.typtype = 'm' AND NOT EXISTS (SELECT FROM :pg_depend d WHERE d.classid = 1247 AND d.objid = t.oid
AND d.refclassid = 1247 AND d.deptype = 'i'))
UNION ALL SELECT 'D', t.typname::text FROM typ t WHERE t.typtype = 'd' AND t.tag = 'm'
UNION ALL SELECT 'R', CASE WHEN k.oid IS NULL THEN 'uses a relation that is gone'
    WHEN k.relkind = 'f' THEN 'uses the foreign table ' || k.relname::text
    WHEN k.relpersistence = 't' THEN 'uses the temporary table ' || k.relname::text
    WHEN f.ev <> 0 AND f.oid < 16384 THEN 'writes the system catalog ' || k.relname::text
    ELSE 'uses or writes ' || k.relname::text || ', which is no table' END
FROM few f LEFT JOIN :pg_class k ON k.oid = f.oid
WHERE k.oid IS NULL OR k.relpersistence = 't' OR f.ev <> 0 AND (f.oid < 16384 OR k.relkind <> ALL ('{r,p}'))
OR k.relkind <> ALL ('{r,p,m,S}')
UNION ALL SELECT 'M', k.relname::text FROM (SELECT oid FROM few UNION SELECT indexrelid FROM idx) f
JOIN :pg_class k ON k.oid = f.oid WHERE k.relam >= 16384 AND NOT EXISTS (
    SELECT FROM :pg_depend d WHERE d.classid = 2601 AND d.objid = k.relam AND d.refclassid = 3079 AND d.deptype = 'e')
UNION ALL SELECT CASE WHEN g.tgisinternal THEN 'K' ELSE 'G' END, g.tgname::text FROM trg g
WHERE NOT g.tgisinternal OR g.tgfoid <> ALL ('{CHECKS}')
UNION ALL SELECT 'L', '' WHERE (SELECT bool_or(f.many) FROM few f) OR (SELECT max(y.num) FROM tys y) >= $max_types
UNION ALL SELECT 'S', '' FROM fun f WHERE f.oid = NEXTVAL
UNION ALL SELECT 'P', f.proname::text FROM fun f WHERE f.oid < 16384 AND NOT (f.provolatile = 'i'
OR f.oid = ANY ('{PLAIN}') OR f.provolatile = 's' AND f.proparallel = 's' AND f.pronargs > 0
AND f.oid <> ALL ('{NOT_PLAIN}') AND NOT (f.proargtypes::oid[] && '{OBJECTS}') AND f.prorettype <> ALL ('{OBJECTS}')
AND f.proname::text !~ '^(pg|has)_')
UNION ALL SELECT DISTINCT 'X', x.tree FROM (
    SELECT c.conbin::text FROM con c WHERE c.contype = 'c'
    UNION ALL SELECT i.indexprs::text FROM idx i UNION ALL SELECT i.indpred::text FROM idx i
    UNION ALL SELECT p.partexprs::text FROM par p
    UNION ALL SELECT d.adbin::text FROM few f JOIN :pg_attrdef d ON d.adrelid = f.oid
    JOIN :pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE a.attgenerated <> ''
    UNION ALL SELECT (to_jsonb(s) ->> 'stxexprs') FROM few f JOIN :pg_statistic_ext s ON s.stxrelid = f.oid) x(tree)
WHERE x.tree IS NOT NULL
UNION ALL SELECT 'I', '' FROM tys y WHERE y.tag = 'p' AND y.oid = 1186
UNION ALL SELECT 'O', '' FROM tys y JOIN :pg_type t ON t.oid = y.oid WHERE y.tag = 'p' AND t.typtype = 'd'
"""
# A column's place in a unique index, and its equality with the index's operator and collation.
_UNIQUE = """
UNION ALL SELECT 'U', '' FROM :pg_index i JOIN :pg_class k ON k.oid = i.indrelid
JOIN :pg_class n ON n.oid = i.indexrelid
WHERE i.indrelid = $relation::oid AND k.relkind = 'r' AND NOT k.relhassubclass AND n.relam = 403 AND i.indisunique
AND i.indisvalid AND i.indisready AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
AND i.indnkeyatts::int4 = $count AND NOT EXISTS (
    SELECT FROM generate_series(0, $count - 1) x(n) WHERE NOT EXISTS (
        SELECT FROM ROWS FROM (unnest($columns::int4[]), unnest($equalities::oid[]), unnest($collations::oid[]))
        c(attno, opno, coll)
        JOIN :pg_opclass o ON o.oid = i.indclass[x.n]
        JOIN :pg_amop m ON m.amopfamily = o.opcfamily AND m.amopopr = c.opno
        WHERE c.attno = i.indkey[x.n]::int4 AND m.amopmethod = 403 AND m.amopstrategy::int4 = 3
        AND (i.indcollation[x.n] = c.coll OR i.indcollation[x.n] = 0::oid)))
"""


class Equality(NamedTuple):
    """A WHERE clause that is nothing but `column = value`, joined by AND."""

    relation: int
    columns: Sequence[tuple[int, int, int]]  # attribute number, operator, collation


def _qualified(text: str) -> str:
    """The text with the schema of each relation, type, function and operator in it."""
    for name, oids in _NAMES.items():
        text = re.sub(rf"\b{name}\b", oids, text)
    text = re.sub(r":(pg_\w+)", r"pg_catalog.\1", text)
    text = re.sub(r"::(oid|int4|text)\b", r"::pg_catalog.\1", text)
    text = re.sub(
        r"(?<![.\w])(unnest|bit_or|bool_or|row_number|max|to_jsonb|generate_series)\(", r"pg_catalog.\1(", text
    )
    text = re.sub(r" (<>|>=|=|<|>|&&|&|\|\||->>|!~|-) ", r" OPERATOR(pg_catalog.\1) ", text)
    return re.sub(r"\s+", " ", text).strip()


_QUERY = _qualified(_TEXT)
_UNIQUE_PART = _qualified(_UNIQUE)


def question(
    functions: Sequence[int],
    operators: Sequence[int],
    types: Sequence[tuple[int, str]],
    relations: Sequence[tuple[int, int]],
    equality: Equality | None,
) -> bytes:
    """The statement. types are with r (read), m (made or written) or p (a parameter's); relations with what is done."""
    values: dict[str, str] = {
        "functions": _array(functions),
        "operators": _array(operators),
        "types": _array([oid for oid, _ in types]),
        "tags": "'{" + ",".join(tag for _, tag in types) + "}'",
        "relations": _array([oid for oid, _ in relations]),
        "events": _array([events for _, events in relations]),
        "max_relations": str(MAX_RELATIONS),
        "max_types": str(MAX_TYPES),
    }
    text = _QUERY
    if equality is not None:
        text = f"{text} {_UNIQUE_PART}"
        values |= {
            "relation": str(equality.relation),
            "count": str(len(equality.columns)),
            "columns": _array([attno for attno, _, _ in equality.columns]),
            "equalities": _array([operator for _, operator, _ in equality.columns]),
            "collations": _array([collation for _, _, collation in equality.columns]),
        }
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], text).encode()


def _array(numbers: Sequence[int]) -> str:
    return "'{" + ",".join(map(str, numbers)) + "}'"
