"""The questions to the catalogs that a proof rests on: each is one statement, with the OIDs of a tree as its values.

A question works on PostgreSQL 13 to 18, for every role, on standbys, and under any search_path, as all names and
operators are qualified. The text below is written with plain names and operators; `_qualified` adds the schemas.

Its rows are (kind, detail). The detail is the name of an object, to be shown to an operator, an OID, or the text of a
tree:

    F  a function of unknown effect: neither built in nor an allowed function of an extension, or not found
    B  a built-in function that leaves something, or that runs whatever is named to it
    S  nextval
    P  a built-in function that a plain read does not call
    T  a type, D a domain, M an access method, K a foreign key's action, G a trigger, R a relation: not provable
    f, o, m  the OID of a function, operator, or type of a written column that what was asked about leads to
    H  a relation that has children or partitions, and its events; A the parent of a partition that is written
    L  more relations or types than MAX_RELATIONS or MAX_TYPES
    X  the tree of a check, generated column, index, statistics object or partition key, which needs a proof as well
    U  the equality names all columns of a unique index
    I  a parameter's type is interval or contains it, O it is a domain or contains one

An object is built in if its OID is below 16384 (FirstNormalObjectId). Harmless functions are:
- A built-in function that is not volatile, or is in VOLATILE; that is not in REFUSED; and that takes no cstring and no
  internal: `domain_in('x', 'some.domain'::regtype, -1)` would run a check that the tree does not show. It must not
  return trigger, nor void, as functions that return void are called for an effect only.
- A function of an extension in C or internal that is IMMUTABLE. STABLE ones in C are not, as they may run any SQL
  (crosstab of tablefunc does), except those of pg_trgm and unaccent, which read a setting or a dictionary. STABLE ones
  in internal are, as they are PostgreSQL's own code (citextrecv). VOLATILE ones are not, except those of pgcrypto and
  uuid-ossp, which are volatile only as they use randomness and time.
- An aggregate whose functions are harmless. Functions in SQL and all other languages are not.
Built-in functions find others by the catalogs: comparison of arrays and records finds operator classes, to_json finds
casts to json, output of a row finds the output functions of its columns. So the questions follow these as well.

A plain read calls immutable functions, and stable ones that depend on nothing but data, time and settings. As no list
tells which these are, a stable function must be parallel safe, have arguments, neither take nor return names and OIDs
of objects (oid, name, reg*, xid, snapshots), and its name must not begin with pg_ or has_. Those in PLAIN pass anyway,
those in NOT_PLAIN do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from poold.core.statements.parsetree import UnreadableTree

MAX_RELATIONS = 1_000  # with partitions and children
MAX_TYPES = 2_000
# Bytes of an answer, most of which are trees of checks and indexes.
MAX_ANSWER = 400_000

INTERVALS = (1186, 1187)  # interval and interval[]
FIRST_CATALOG = 10_000  # types below this OID have no parts except elements of arrays, and none is a domain
_FIRST_USER = 16_384  # FirstNormalObjectId

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

# If an OID leads to others, these are returned, to be asked about next, instead of joined: few statements need that,
# and to plan one question that could do everything takes ten times as long.
_RELATIONS = """
few AS MATERIALIZED (SELECT i.oid, i.ev, 0 AS num
    FROM ROWS FROM (unnest($relations::oid[]), unnest($events::int4[])) i(oid, ev))"""
# The same with all partitions and children, asked for relations that have any.
_FAMILIES = """
rel AS (
    SELECT i.oid, i.ev FROM ROWS FROM (unnest($relations::oid[]), unnest($events::int4[])) i(oid, ev)
    UNION SELECT i.inhrelid, r.ev FROM rel r JOIN :pg_inherits i ON i.inhparent = r.oid),
few AS MATERIALIZED (
    SELECT x.oid, bit_or(x.ev) AS ev, max(x.num) AS num
    FROM (SELECT r.oid, r.ev, row_number() OVER () AS num FROM rel r LIMIT $max_relations) x GROUP BY x.oid)"""
_IN_RELATIONS = """
SELECT 'R', CASE WHEN k.oid IS NULL THEN 'uses a relation that is gone'
    WHEN k.relkind = 'f' THEN 'uses the foreign table ' || k.relname::text
    WHEN k.relpersistence = 't' THEN 'uses the temporary table ' || k.relname::text
    WHEN f.ev <> 0 AND f.oid < 16384 THEN 'writes the system catalog ' || k.relname::text
    WHEN k.relam >= 16384 THEN 'uses ' || k.relname::text || ', whose access method is not known'
    ELSE 'uses or writes ' || k.relname::text || ', which is no table' END
FROM few f LEFT JOIN :pg_class k ON k.oid = f.oid
WHERE k.oid IS NULL OR k.relpersistence = 't' OR f.ev <> 0 AND (f.oid < 16384 OR k.relkind <> ALL ('{r,p}'))
OR k.relkind <> ALL ('{r,p,m,S}') OR k.relam >= 16384 AND NOT EXISTS (
    SELECT FROM :pg_depend d WHERE d.classid = 2601 AND d.objid = k.relam AND d.refclassid = 3079 AND d.deptype = 'e')
UNION ALL SELECT 'L', '' WHERE (SELECT max(f.num) FROM few f) >= $max_relations
UNION ALL SELECT DISTINCT 'X', x.tree FROM few f CROSS JOIN LATERAL (
    SELECT c.conbin::text FROM :pg_constraint c WHERE c.conrelid = f.oid AND c.contype = 'c'
    UNION ALL SELECT x.tree FROM :pg_index i CROSS JOIN unnest(ARRAY[i.indexprs::text, i.indpred::text]) x(tree)
    WHERE i.indrelid = f.oid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
    UNION ALL SELECT p.partexprs::text FROM :pg_partitioned_table p WHERE p.partrelid = f.oid
    UNION ALL SELECT d.adbin::text FROM :pg_attrdef d JOIN :pg_attribute a ON a.attrelid = d.adrelid
    AND a.attnum = d.adnum WHERE d.adrelid = f.oid AND a.attgenerated <> ''
    UNION ALL SELECT (to_jsonb(s) ->> 'stxexprs') FROM :pg_statistic_ext s WHERE s.stxrelid = f.oid) x(tree)
WHERE f.oid >= 16384 AND x.tree IS NOT NULL
UNION ALL SELECT DISTINCT 'f', p.amproc::oid::text FROM few f JOIN :pg_partitioned_table t ON t.partrelid = f.oid
CROSS JOIN unnest(t.partclass::oid[]) i(oid) JOIN :pg_opclass o ON o.oid = i.oid
JOIN :pg_amproc p ON p.amprocfamily = o.opcfamily WHERE p.amproc::oid >= 16384"""
_HAS_CHILDREN = """
SELECT 'H', (k.oid::text || ' ') || f.ev::text FROM few f JOIN :pg_class k ON k.oid = f.oid WHERE k.relhassubclass"""
_IN_WRITTEN = """
SELECT CASE WHEN g.tgisinternal THEN 'K' ELSE 'G' END, g.tgname::text FROM few f
JOIN :pg_trigger g ON g.tgrelid = f.oid WHERE ((g.tgtype::int4 & f.ev) <> 0) AND g.tgenabled <> 'D'
AND (NOT g.tgisinternal OR g.tgfoid <> ALL ('{CHECKS}'))
UNION ALL SELECT DISTINCT 'm', a.atttypid::text FROM few f JOIN :pg_attribute a ON a.attrelid = f.oid
WHERE f.ev <> 0 AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 10000
UNION ALL SELECT DISTINCT 'o', x.oid::text FROM few f JOIN :pg_constraint c ON c.conrelid = f.oid
CROSS JOIN unnest(((c.conpfeqop || c.conppeqop) || c.conffeqop) || c.conexclop) x(oid)
WHERE f.ev <> 0 AND (c.contype = 'f' OR x.oid >= 16384)
UNION ALL SELECT DISTINCT 'o', x.oid::text FROM few f JOIN :pg_trigger g ON g.tgrelid = f.oid
JOIN :pg_constraint c ON c.oid = g.tgconstraint CROSS JOIN unnest((c.conpfeqop || c.conppeqop) || c.conffeqop) x(oid)
WHERE ((g.tgtype::int4 & f.ev) <> 0) AND g.tgisinternal
UNION ALL SELECT DISTINCT 'f', p.amproc::oid::text FROM few f JOIN :pg_index n ON n.indrelid = f.oid
CROSS JOIN unnest(n.indclass::oid[]) i(oid) JOIN :pg_opclass o ON o.oid = i.oid
JOIN :pg_amproc p ON p.amprocfamily = o.opcfamily WHERE f.ev <> 0 AND p.amproc::oid >= 16384
UNION ALL SELECT 'M', k.relname::text FROM few f JOIN :pg_index n ON n.indrelid = f.oid
JOIN :pg_class k ON k.oid = n.indexrelid WHERE f.ev <> 0 AND k.relam >= 16384 AND NOT EXISTS (
    SELECT FROM :pg_depend d WHERE d.classid = 2601 AND d.objid = k.relam AND d.refclassid = 3079 AND d.deptype = 'e')
UNION ALL SELECT 'A', i.inhparent::text FROM few f JOIN :pg_class k ON k.oid = f.oid
JOIN :pg_inherits i ON i.inhrelid = f.oid WHERE f.ev <> 0 AND k.relispartition"""
_TYPES = """
ty AS (
    SELECT i.oid, i.tag FROM ROWS FROM (unnest($types::oid[]), unnest($tags::text[])) i(oid, tag)
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
    SELECT y.tag, t.* FROM tys y JOIN :pg_type t ON t.oid = y.oid WHERE y.oid >= 10000 AND y.tag <> ALL ('{p,c}'))"""
_IN_TYPES = """
SELECT 'L', '' WHERE (SELECT max(y.num) FROM tys y) >= $max_types
UNION ALL SELECT 'T', t.typname::text FROM typ t WHERE NOT t.typisdefined OR t.oid >= 16384 AND (t.typtype = 'p'
OR t.typtype = 'm' AND NOT EXISTS (SELECT FROM :pg_depend d WHERE d.classid = 1247 AND d.objid = t.oid
AND d.refclassid = 1247 AND d.deptype = 'i'))
UNION ALL SELECT 'D', t.typname::text FROM typ t WHERE t.typtype = 'd' AND t.tag = 'm'
UNION ALL SELECT DISTINCT 'f', x.oid::text FROM (
    SELECT i.oid FROM typ t CROSS JOIN unnest(ARRAY[t.typinput::oid, t.typoutput, t.typreceive, t.typsend,
    t.typmodin, t.typmodout]) i(oid)
    UNION ALL SELECT c.castfunc FROM typ t JOIN :pg_cast c ON c.castsource = t.oid WHERE c.casttarget = 114
    UNION ALL SELECT i.oid FROM typ t JOIN :pg_range r ON r.rngtypid = t.oid
    CROSS JOIN unnest(ARRAY[r.rngcanonical::oid, r.rngsubdiff]) i(oid)
    UNION ALL SELECT p.amproc::oid FROM typ t JOIN :pg_range r ON r.rngtypid = t.oid
    JOIN :pg_opclass o ON o.oid = r.rngsubopc JOIN :pg_amproc p ON p.amprocfamily = o.opcfamily) x(oid)
WHERE x.oid >= 16384
UNION ALL SELECT 'I', '' FROM tys y WHERE y.tag = 'p' AND y.oid = 1186
UNION ALL SELECT 'O', '' FROM tys y JOIN :pg_type t ON t.oid = y.oid WHERE y.tag = ANY ('{p,c}') AND (t.typtype = 'd'
OR EXISTS (SELECT FROM :pg_range r JOIN :pg_opclass o ON o.oid = r.rngsubopc
    JOIN :pg_amproc p ON p.amprocfamily = o.opcfamily WHERE r.rngtypid = t.oid AND p.amproc::oid >= 16384))"""
# Functions of the types' default operator classes, which functions on arrays, records and ranges find by themselves.
_CLASSES_OF_TYPES = """
SELECT DISTINCT 'f', p.amproc::oid::text FROM :pg_opclass o JOIN :pg_amproc p ON p.amprocfamily = o.opcfamily
WHERE o.oid >= 16384 AND o.opcdefault AND o.opcintype = ANY ($classes::oid[]) AND p.amproc::oid >= 16384"""
_CLASSES_OF_CLOSURE = """
SELECT DISTINCT 'f', p.amproc::oid::text FROM :pg_opclass o JOIN :pg_amproc p ON p.amprocfamily = o.opcfamily
WHERE o.oid >= 16384 AND o.opcdefault AND o.opcintype = ANY (ARRAY(SELECT y.oid FROM tys y))
AND p.amproc::oid >= 16384"""
_FUNCTIONS = """
fun AS MATERIALIZED (
    SELECT i.oid AS asked, p.oid, p.proname, p.provolatile, p.prolang, p.prokind, p.prorettype, p.proargtypes,
    p.proparallel, p.pronargs, CASE WHEN i.oid >= 16384 THEN (
        SELECT e.extname::text FROM :pg_depend d JOIN :pg_extension e ON e.oid = d.refobjid WHERE d.classid = 1255
        AND d.objid = i.oid AND d.refclassid = 3079 AND d.deptype = 'e' LIMIT 1) END AS extension
    FROM (SELECT j.oid FROM unnest($functions::oid[]) j(oid) UNION SELECT coalesce(o.oprcode::oid, 0)
    FROM unnest($operators::oid[]) j(oid) LEFT JOIN :pg_operator o ON o.oid = j.oid) i
    LEFT JOIN :pg_proc p ON p.oid = i.oid)"""
_IN_FUNCTIONS = """
SELECT x.kind, coalesce(f.proname::text, 'that is gone') FROM fun f CROSS JOIN LATERAL (VALUES
('F', f.oid IS NULL OR f.oid >= 16384 AND NOT (f.prokind = 'a' OR f.prolang = ANY ('{12,13}') AND
f.extension IS NOT NULL AND (f.provolatile = 'i' OR f.provolatile = 's' AND f.prolang = 12
OR f.provolatile = 's' AND f.extension = ANY ('{pg_trgm,unaccent}')
OR f.provolatile = 'v' AND f.extension = ANY ('{pgcrypto,uuid-ossp}')))),
('B', f.oid < 16384 AND (f.provolatile = 'v' AND f.oid <> ALL ('{VOLATILE}') OR f.oid = ANY ('{REFUSED}')
OR f.prorettype = ANY ('{EFFECTS}') OR f.proargtypes::oid[] && '{INNER}')),
('S', f.oid = NEXTVAL),
('P', f.oid < 16384 AND NOT (f.provolatile = 'i'
OR f.oid = ANY ('{PLAIN}') OR f.provolatile = 's' AND f.proparallel = 's' AND f.pronargs > 0
AND f.oid <> ALL ('{NOT_PLAIN}') AND NOT (f.proargtypes::oid[] && '{OBJECTS}') AND f.prorettype <> ALL ('{OBJECTS}')
AND f.proname::text !~ '^(pg|has)_'))) x(kind, holds) WHERE x.holds"""
# The functions and operators that the planner and the executor find by an operator: those of its families.
_IN_OPERATORS = """
SELECT DISTINCT 'f', p.amproc::oid::text FROM :pg_amop m JOIN :pg_amproc p ON p.amprocfamily = m.amopfamily
WHERE m.amopopr = ANY ($operators::oid[]) AND p.amproc::oid >= 16384
UNION ALL SELECT DISTINCT 'o', n.amopopr::text FROM :pg_amop m JOIN :pg_amop n ON n.amopfamily = m.amopfamily
WHERE m.amopopr = ANY ($operators::oid[]) AND n.amopopr >= 16384"""
_IN_USERS_OPERATORS = """
SELECT DISTINCT 'o', x.oid::text FROM :pg_operator o CROSS JOIN unnest(ARRAY[o.oprcom, o.oprnegate]) x(oid)
WHERE o.oid = ANY ($operators::oid[]) AND o.oid >= 16384 AND x.oid >= 16384"""
_IN_AGGREGATES = """
SELECT DISTINCT 'f', x.oid::text FROM :pg_aggregate a CROSS JOIN unnest(ARRAY[
a.aggtransfn::oid, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn,
a.aggmfinalfn]) x(oid) WHERE a.aggfnoid::oid = ANY ($functions::oid[]) AND a.aggfnoid::oid >= 16384 AND x.oid <> 0
UNION ALL SELECT DISTINCT 'o', a.aggsortop::text FROM :pg_aggregate a
WHERE a.aggfnoid::oid = ANY ($functions::oid[]) AND a.aggfnoid::oid >= 16384 AND a.aggsortop <> 0"""
# Whether the equality names all columns of a unique index, each with the index's operator and collation.
_UNIQUE = """
SELECT 'U', '' FROM :pg_index i JOIN :pg_class k ON k.oid = i.indrelid
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


class Question(NamedTuple):
    """A statement and its values.

    The values differ from tree to tree, but there are few templates. To plan one takes ten times as long as to answer
    it, so they are worth preparing.
    """

    template: bytes  # with NUL for each parameter
    values: tuple[bytes, ...]  # as text

    @property
    def text(self) -> bytes:
        """The statement with literals in place."""
        first, *others = self.template.split(b"\0")
        return first + b"".join(b"'%b'%b" % pair for pair in zip(self.values, others, strict=True))


def _qualified(text: str) -> str:
    """The text with constants and OIDs filled in and all relations, types, functions and operators qualified."""
    text = text.replace("$max_relations", str(MAX_RELATIONS)).replace("$max_types", str(MAX_TYPES))
    for name, oids in _NAMES.items():
        text = re.sub(rf"\b{name}\b", oids, text)
    text = re.sub(r":(pg_\w+)", r"pg_catalog.\1", text)
    text = re.sub(r"::(oid|int4|text)\b", r"::pg_catalog.\1", text)
    text = re.sub(r"(?<![.\w])(unnest|bit_or|row_number|max|to_jsonb|generate_series)\(", r"pg_catalog.\1(", text)
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r" (<>|>=|=|<|>|&&|&|\|\||->>|!~|-) ", r" OPERATOR(pg_catalog.\1) ", text)


(
    _RELATIONS, _FAMILIES, _IN_RELATIONS, _HAS_CHILDREN, _IN_WRITTEN, _TYPES, _IN_TYPES, _CLASSES_OF_TYPES,
    _CLASSES_OF_CLOSURE, _FUNCTIONS, _IN_FUNCTIONS, _IN_OPERATORS, _IN_USERS_OPERATORS, _IN_AGGREGATES, _UNIQUE,
) = map(_qualified, (
    _RELATIONS, _FAMILIES, _IN_RELATIONS, _HAS_CHILDREN, _IN_WRITTEN, _TYPES, _IN_TYPES, _CLASSES_OF_TYPES,
    _CLASSES_OF_CLOSURE, _FUNCTIONS, _IN_FUNCTIONS, _IN_OPERATORS, _IN_USERS_OPERATORS, _IN_AGGREGATES, _UNIQUE,
))  # fmt: skip


def question(
    functions: Sequence[int],
    operators: Sequence[int],
    types: Sequence[tuple[int, str]],
    relations: Sequence[tuple[int, int]],
    with_children: bool,
    equality: Equality | None,
) -> Question:
    """The question about these OIDs.

    types come with r (read), m (made or written), p (a parameter's) or c (a constant's); relations with their events.
    with_children: include the relations' children and partitions.
    """
    closed = [(oid, tag) for oid, tag in types if oid >= FIRST_CATALOG]
    plain = [oid for oid, tag in types if oid < FIRST_CATALOG and tag not in ("p", "c")]
    values: dict[str, str] = {
        "functions": _array(functions),
        "operators": _array(operators),
        "types": _array([oid for oid, _ in closed]),
        "tags": "{" + ",".join(tag for _, tag in closed) + "}",
        "classes": _array(plain),
        "relations": _array([oid for oid, _ in relations]),
        "events": _array([events for _, events in relations]),
    }
    tables, parts = [], []
    if functions or operators:
        tables.append(_FUNCTIONS)
        parts.append(_IN_FUNCTIONS)
    if operators:
        parts.append(_IN_OPERATORS)
    if any(oid >= _FIRST_USER for oid in operators):
        parts.append(_IN_USERS_OPERATORS)
    if any(oid >= _FIRST_USER for oid in functions):
        parts.append(_IN_AGGREGATES)
    if relations:
        tables.append(_FAMILIES if with_children else _RELATIONS)
        parts.append(_IN_RELATIONS)
        if not with_children:
            parts.append(_HAS_CHILDREN)
        if any(events for _, events in relations):
            parts.append(_IN_WRITTEN)
    if closed:
        tables.append(_TYPES)
        parts += (_IN_TYPES, _CLASSES_OF_CLOSURE)
    if plain:
        parts.append(_CLASSES_OF_TYPES)
    if equality is not None:
        parts.append(_UNIQUE)
        values |= {
            "relation": str(equality.relation),
            "count": str(len(equality.columns)),
            "columns": _array([attno for attno, _, _ in equality.columns]),
            "equalities": _array([operator for _, operator, _ in equality.columns]),
            "collations": _array([collation for _, _, collation in equality.columns]),
        }
    text = f"WITH RECURSIVE {', '.join(tables)} " if tables else ""
    text += " UNION ALL ".join(parts)
    names = re.findall(r"\$(\w+)", text)
    return Question(re.sub(r"\$\w+", "\0", text).encode(), tuple(values[name].encode() for name in names))


def _array(numbers: Sequence[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


def rows_of(answer: bytes) -> Iterator[tuple[str, str]]:
    """The two cells of each row of an answer; raises UnreadableTree if there are others."""
    if len(answer) > MAX_ANSWER:
        raise UnreadableTree("has to do with too much in the catalogs to be examined")
    at = 0
    while at < len(answer):
        cells = []
        end = at + 1 + int.from_bytes(answer[at + 1 : at + 5], "big")
        if answer[at : at + 1] != b"D" or answer[at + 5 : at + 7] != b"\x00\x02" or end > len(answer):
            raise UnreadableTree("the catalogs gave an answer that poold does not know")
        at += 7
        for _ in range(2):
            length = int.from_bytes(answer[at : at + 4], "big", signed=True)
            if length < 0 or at + 4 + length > end:
                raise UnreadableTree("the catalogs gave an answer that poold does not know")
            cells.append(answer[at + 4 : at + 4 + length].decode("utf-8", "replace"))
            at += 4 + length
        at = end
        yield cells[0], cells[1]
