"""Proofs of what a statement does, from its rewritten parse tree and the catalogs.

Names prove nothing (every extension brings its own `=`), and a plan proves nothing (it hides what is folded or pruned).
The tree that PostgreSQL logs for debug_print_rewritten has OIDs, with views, rules, policies and defaults applied, and
before constant folding. An `Examination` reads it and asks the catalogs about everything that it names. Then it reads
the trees of the relations (checks, generated columns, expressions of indexes and partition keys), and asks about what
is new in these or in the answer: nearly always there are one or two questions. `proof_query` says what passes.

A relation that is only read is examined with its checks and indexes too, as the planner runs IMMUTABLE functions in
their expressions if the arguments are constant. So reading a table with an index on a user's function is not proven.

A proof holds for the catalogs as they were when asked. It says nothing about the planner's hooks or other code that a
superuser has loaded into the server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from poold.core.statements import generic_plans, parsetree, proof_query
from poold.core.statements.parsetree import NULL, Node, UnreadableTree, Value, numbers
from poold.core.statements.proof_query import DELETE, FIRST_CATALOG, INSERT, INTERVALS, UPDATE, Equality, Question

# Different OIDs in one tree; a report over ten tables names a hundred.
MAX_OIDS = 500
# Questions for one statement: relations, the types of their columns, these types' functions, what these name.
MAX_ROUNDS = 4

_FIRST_USER = 16_384  # FirstNormalObjectId
# The types of constants, found by their text as even a tree that cannot be read must tell them.
_CONSTANTS = re.compile(r":consttype (\d+)")
_SAMPLERS = ("3313", "3314")  # bernoulli, system


@dataclass(frozen=True, slots=True)
class Proof:
    """What is proven about a statement. A field that is False is not proven."""

    # It leaves nothing in the session but sequences' values, and calls no unknown code.
    is_harmless: bool = False
    # Harmless; it writes nothing, locks no rows, and asks for no locks, transaction ids or the server's own state.
    is_plain_read: bool = False
    # Harmless but for nextval, also by serial and identity columns: currval and lastval of the session change.
    uses_sequences: bool = False
    # A generic plan is as good as one for given values: see `generic_plans`.
    may_be_generic: bool = False
    # It may call a function of unknown effect: neither built in nor an allowed C function.
    calls_unknown: bool = False
    # Tells an operator why it is not harmless or, if it is, why it is no plain read.
    why: str = ""


UNPROVEN = Proof(why="not examined")

# What the rows of an answer mean: kind -> (why it is not harmless, whether something unknown is called).
_REASONS = {
    "F": ("calls the function {}, which is neither built in nor an immutable C function of an extension", True),
    "B": ("calls {}, which may leave something in the session or run anything", False),
    "T": ("uses the type {}, whose functions are not known", True),
    "D": ("makes or writes a value of the domain {}, whose checks may call anything", True),
    "M": ("uses {}, whose access method is neither built in nor an extension's", True),
    "K": ("changes other tables by a foreign key's action (trigger {})", True),
    "G": ("runs the trigger {}", True),
    "R": ("{}", False),
    "L": ("uses too many relations or types to be examined", True),
}


class Examination:
    """The proof of one statement: while `question()` returns one, ask it and give the rows to `answered`."""

    def __init__(self, tree: str, parameter_types: Sequence[int] = ()) -> None:
        """tree is the DETAIL of the log message "rewritten parse tree:", parameter_types are OIDs. Never raises."""
        self._why = ""
        self._why_not_plain = ""
        self._calls_unknown = False
        self._uses_sequences = False
        self._generic = False
        self._equality: Equality | None = None
        self._named = _Named()
        self._asked = _Named()
        self._parents: dict[int, int] = {}  # relations whose children are to be asked about, with events
        self._rounds = 0
        types = set(parameter_types)
        self._has_interval = bool(types & set(INTERVALS))
        self._has_domain = False
        inputs = {(oid, "p") for oid in types} | {(int(oid), "c") for oid in _CONSTANTS.findall(tree)}
        self._inputs = sorted((oid, tag) for oid, tag in inputs if oid >= FIRST_CATALOG)
        if len(self._inputs) > MAX_OIDS:
            self._inputs, self._has_domain = [], True
            self._refuse("has constants and parameters of too many types to be examined")
        try:
            self._read(tree)
        except UnreadableTree as error:
            self._refuse(str(error))
        self._question: Question | None = None
        self._ask()

    @property
    def proof(self) -> Proof:
        """What is proven; nothing (UNPROVEN) until `question()` is None."""
        if self._question is not None:
            return UNPROVEN
        if self._why:
            return Proof(may_be_generic=self._generic, calls_unknown=self._calls_unknown, why=self._why)
        return Proof(
            is_harmless=True,
            is_plain_read=not self._why_not_plain,
            uses_sequences=self._uses_sequences,
            may_be_generic=self._generic,
            why=self._why_not_plain,
        )

    @property
    def holds_interval(self) -> bool:
        """Whether a parameter's type is interval or an array, composite, range or domain of it; True while unknown."""
        return self._has_interval or self._question is not None

    @property
    def has_domain(self) -> bool:
        """Whether the type of a parameter or a constant is or contains a domain; True while unknown.

        A domain's checks run when a value is read, and a constant is read when the statement is parsed; the same holds
        for the comparison functions of a range. Besides, a cast to a domain cuts a literal to the length of its base
        type, but not a parameter.
        """
        return self._has_domain or self._question is not None

    def question(self) -> Question | None:
        """What to ask next; None if the proof is decided."""
        return self._question

    def answered(self, rows: bytes) -> None:
        """Take the answer to `question()`: its DataRow messages, headers included."""
        self._question = None
        self._rounds += 1
        trees: list[str] = []
        self._named, self._parents = _Named(), {}
        try:
            for kind, detail in proof_query.rows_of(rows):
                self._learn(kind, detail, trees)
            if not self._why:
                self._read_expressions(trees)
        except UnreadableTree as error:
            self._refuse(str(error))
        except ValueError:  # of int()
            self._refuse("the catalogs gave an answer that poold does not know")
        self._inputs = []
        self._equality = None
        self._ask()

    def _learn(self, kind: str, detail: str, trees: list[str]) -> None:
        if kind in _REASONS:
            text, is_unknown = _REASONS[kind]
            self._calls_unknown |= is_unknown
            self._why = self._why or text.format(detail[:200])
        elif kind == "P":
            self._not_plain(f"calls {detail[:200]}, which may ask for more than data")
        elif kind == "S":
            self._uses_sequences = True
            self._not_plain("advances a sequence")
        elif kind == "X":
            trees.append(detail)
        elif kind == "f":
            self._named.functions.add(int(detail))
        elif kind == "o":
            self._named.operators.add(int(detail))
        elif kind == "m":
            self._named.types.add((int(detail), "m"))
        elif kind == "H":
            oid, events = map(int, detail.split(" "))
            self._parents[oid] = events
        elif kind == "A":
            # A parent's partition key is part of its partitions' constraints.
            self._named.relate(detail, 0)
        elif kind == "U":
            self._generic = True
        elif kind == "I":
            self._has_interval = True
        elif kind == "O":
            self._has_domain = True
        else:
            raise UnreadableTree("the catalogs gave an answer that poold does not know")

    def _ask(self) -> None:
        """Set the next question, None if nothing is left to ask."""
        if self._why:
            self._named = _Named()
        new = self._named.without(self._asked)
        if len(new) > MAX_OIDS:
            self._refuse("names too many functions, operators, types and relations to be examined")
            new = _Named()
        with_children = bool(self._parents) and not self._why
        if with_children:
            new.relations = self._parents | new.relations
        if not new and not self._inputs:
            self._question = None
            return
        if self._rounds >= MAX_ROUNDS:
            self._refuse("needs more questions to the catalogs than expected")
            return
        self._asked.add(new)
        self._question = proof_query.question(
            sorted(new.functions),
            sorted(new.operators),
            sorted(new.types) + self._inputs,
            sorted(new.relations.items()),
            with_children,
            self._equality,
        )

    def _refuse(self, why: str) -> None:
        """Note that the statement is not harmless, for a reason that ends the examination."""
        self._why = self._why or why
        self._calls_unknown = True

    def _not_plain(self, why: str) -> None:
        self._why_not_plain = self._why_not_plain or why

    def _read(self, tree: str) -> None:
        """Collect the OIDs that the statement's tree names."""
        (queries,), nodes = parsetree.read(parsetree.unwrapped(tree))
        if not isinstance(queries, list) or not queries:
            raise UnreadableTree("does nothing that could be examined")
        if not all(isinstance(query, Node) and query.kind == "QUERY" for query in queries):
            raise UnreadableTree("its tree is not that of a query")
        for node in nodes:
            self._collect(node)
        if len(queries) == 1 and isinstance(queries[0], Node):
            self._generic = generic_plans.is_plain_insert(queries[0])
            self._equality = generic_plans.equality(queries[0])

    def _read_expressions(self, trees: Sequence[str]) -> None:
        """Collect the OIDs that the trees of checks, generated columns, indexes and partition keys name."""
        if sum(map(len, trees)) > parsetree.MAX_CHARACTERS:
            raise UnreadableTree("writes tables with too many checks and indexes to be examined")
        for tree in trees:
            _, nodes = parsetree.read(tree)
            for node in nodes:
                if node.kind in ("QUERY", "RANGETBLENTRY"):
                    raise UnreadableTree("writes a table whose checks or indexes contain a query")
                self._collect(node)

    def _collect(self, node: Node) -> None:
        fields = node.fields
        for field, what in parsetree.OIDS[node.kind]:
            value = fields.get(field, NULL)
            if what == "f":
                self._named.functions.update(numbers(value))
            elif what == "o":
                self._named.operators.update(numbers(value))
            else:
                kind = "r" if what == "t" else "m"
                self._named.types.update((oid, kind) for oid in numbers(value))
        special = _SPECIAL.get(node.kind)
        if special is not None:
            special(self, fields)

    def _query(self, fields: dict[str, Value]) -> None:
        command = fields.get("commandType")
        if fields.get("utilityStmt") != NULL:
            raise UnreadableTree("is a utility statement")
        if fields.get("rowMarks") != NULL:
            self._not_plain("locks rows")
        if command == "1":
            if fields.get("resultRelation") != "0":
                raise UnreadableTree("its tree is not in the form that poold knows")
            return
        self._not_plain("writes")
        events = _events(fields)
        entries = fields.get("rtable")
        if not isinstance(entries, list):
            raise UnreadableTree("its tree is not in the form that poold knows")
        # PostgreSQL 17 and 18 name the target of MERGE twice; the two differ if it is a view.
        targets = {*numbers(fields.get("resultRelation", NULL)), *numbers(fields.get("mergeTargetRelation", NULL))}
        if not targets:
            raise UnreadableTree("its tree is not in the form that poold knows")
        for target in targets:
            entry = entries[target - 1] if 0 < target <= len(entries) else None
            if not isinstance(entry, Node) or entry.fields.get("rtekind") != "0":
                raise UnreadableTree("its tree is not in the form that poold knows")
            kind = entry.fields.get("relkind")
            if kind not in ("r", "p"):
                raise UnreadableTree("writes what is no table")
            # An UPDATE may move rows between partitions, by deleting and inserting them.
            done = events | INSERT | DELETE if kind == "p" and events & UPDATE else events
            self._named.relate(entry.fields.get("relid", NULL), done)

    def _entry(self, fields: dict[str, Value]) -> None:
        kind = fields.get("rtekind")
        if kind == "0":
            self._relation(fields)
        elif kind not in ("1", "2", "3", "5", "6", "8", "9"):
            raise UnreadableTree("reads from something that poold does not know")

    def _relation(self, fields: dict[str, Value]) -> None:
        kind = fields.get("relkind")
        # v: a view that is written through, as views that are read are subqueries in the tree. c: EXCLUDED of ON
        # CONFLICT, which stands for the table that is written.
        if kind in ("v", "c"):
            return
        if kind == "f":
            raise UnreadableTree("uses a foreign table")
        if kind not in ("r", "p", "m", "S"):
            raise UnreadableTree("reads from something that poold does not know")
        if kind == "S":
            self._not_plain("reads a sequence")
        for oid in numbers(fields.get("relid", NULL)):
            if oid < _FIRST_USER:
                self._not_plain("reads system catalogs")
        self._named.relate(fields.get("relid", NULL), 0)

    def _sample(self, fields: dict[str, Value]) -> None:
        if fields.get("tsmhandler") not in _SAMPLERS:
            raise UnreadableTree("takes a sample by a method that poold does not know")

    def _next_value(self, _fields: dict[str, Value]) -> None:
        self._uses_sequences = True
        self._not_plain("advances a sequence")


_SPECIAL = {
    "QUERY": Examination._query,
    "RANGETBLENTRY": Examination._entry,
    "TABLESAMPLECLAUSE": Examination._sample,
    "NEXTVALUEEXPR": Examination._next_value,
}


class _Named:
    """OIDs that a tree names: functions, operators, types with r (read) or m (made), relations with their events.

    Events are what is done to a relation, as bits of pg_trigger.tgtype; 0 if it is only read.
    """

    __slots__ = ("functions", "operators", "relations", "types")

    def __init__(self) -> None:
        self.functions: set[int] = set()
        self.operators: set[int] = set()
        self.types: set[tuple[int, str]] = set()
        self.relations: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.functions) + len(self.operators) + len(self.types) + len(self.relations)

    def relate(self, oid: Value, events: int) -> None:
        found = list(numbers(oid))
        if len(found) != 1:
            raise UnreadableTree("its tree is not in the form that poold knows")
        self.relations[found[0]] = self.relations.get(found[0], 0) | events

    def add(self, other: _Named) -> None:
        self.functions |= other.functions
        self.operators |= other.operators
        self.types |= other.types
        self.relations |= other.relations

    def without(self, other: _Named) -> _Named:
        new = _Named()
        new.functions = self.functions - other.functions
        new.operators = self.operators - other.operators
        new.types = self.types - other.types
        new.relations = {oid: events for oid, events in self.relations.items() if oid not in other.relations}
        return new


def _events(fields: dict[str, Value]) -> int:
    """The events of a query that writes: what it does to its table, as bits of pg_trigger.tgtype."""
    command = fields.get("commandType")
    if command == "2":
        return UPDATE
    if command == "4":
        return DELETE
    if command == "3":
        conflict = fields.get("onConflict")
        updates = isinstance(conflict, Node) and conflict.fields.get("action") != "1"
        return INSERT | UPDATE if updates else INSERT
    # 5 is MERGE from PostgreSQL 15 on. Before, it is a utility statement, which `_query` has refused.
    if command == "5" and fields.get("mergeActionList", NULL) != NULL:
        return INSERT | UPDATE | DELETE
    raise UnreadableTree("is a kind of statement that poold does not know")
