"""Which statements lose nothing by a generic plan, as their trees tell.

INSERT ... VALUES has nothing to plan, unless it contains ON CONFLICT or a subquery. A statement on one plain table
whose WHERE clause is nothing but `column = value` for all columns of a unique index finds one row by that index,
whatever the values are. For any other statement the best plan may depend on the values. The catalogs are asked whether
there is such an index.
"""

from __future__ import annotations

from poold.core.statements.parsetree import NULL, Node, Value, numbers
from poold.core.statements.proof_query import Equality


def _is_plain(query: Node) -> bool:
    """Whether no subquery, WITH, set operation, policy, check option or grouping set takes part."""
    fields = query.fields
    return all(fields.get(flag) == "false" for flag in ("hasSubLinks", "hasRowSecurity", "hasModifyingCTE")) and all(
        fields.get(part, NULL) == NULL for part in ("cteList", "setOperations", "withCheckOptions", "groupingSets")
    )


def is_plain_insert(query: Node) -> bool:
    """Whether the query is an INSERT ... VALUES without ON CONFLICT, which has nothing to plan."""
    fields, entries = query.fields, query.fields.get("rtable")
    if fields.get("commandType") != "3" or fields.get("onConflict") != NULL or not _is_plain(query):
        return False
    if not isinstance(entries, list):
        return False
    kinds = [entry.fields.get("rtekind") for entry in entries if isinstance(entry, Node)]
    return kinds in (["0"], ["0", "5"]) and len(entries) == len(kinds)


def equality(query: Node) -> Equality | None:
    """The equality that is the whole WHERE clause of a query on one table; None if it is anything else."""
    fields, entries, tree = query.fields, query.fields.get("rtable"), query.fields.get("jointree")
    if fields.get("commandType") not in ("1", "2", "4") or not _is_plain(query) or not isinstance(tree, Node):
        return None
    if not isinstance(entries, list) or len(entries) != 1:
        return None
    entry, sources = entries[0], tree.fields.get("fromlist")
    if not isinstance(entry, Node) or not isinstance(sources, list) or len(sources) != 1:
        return None
    if entry.fields.get("rtekind") != "0" or entry.fields.get("relkind") != "r":
        return None
    if any(entry.fields.get(part, NULL) != NULL for part in ("securityQuals", "tablesample")):
        return None
    columns = []
    clauses = [tree.fields.get("quals")]
    while clauses:
        clause = clauses.pop()
        if not isinstance(clause, Node):
            return None
        arguments = clause.fields.get("args")
        if clause.kind == "BOOLEXPR" and clause.fields.get("boolop") == "and" and isinstance(arguments, list):
            clauses += arguments
        elif clause.kind == "OPEXPR" and isinstance(arguments, list) and len(arguments) == 2:
            places = [_column(argument) for argument in arguments]
            if sorted(place > 0 for place in places) != [False, True] or min(places) < 0:
                return None
            operators, collations = clause.fields.get("opno", NULL), clause.fields.get("inputcollid", NULL)
            columns.append((max(places), *numbers(operators), *(numbers(collations) or (0,))))
        else:
            return None
    if not columns or len({attno for attno, *_ in columns}) != len(columns):
        return None
    relations = list(numbers(entry.fields.get("relid", NULL)))
    if len(relations) != 1 or any(len(column) != 3 for column in columns):
        return None
    return Equality(relations[0], [(attno, operator, collation) for attno, operator, collation in columns])


def _column(value: Value) -> int:
    """The number of the table's column that the value is; 0 for a parameter or a constant, -1 for anything else."""
    if isinstance(value, Node) and value.kind == "RELABELTYPE":
        value = value.fields.get("arg", NULL)
    if not isinstance(value, Node):
        return -1
    if value.kind == "CONST" or (value.kind == "PARAM" and value.fields.get("paramkind") == "0"):
        return 0
    if value.kind != "VAR" or value.fields.get("varlevelsup") != "0":
        return -1
    places = list(numbers(value.fields.get("varattno", NULL)))
    return places[0] if len(places) == 1 and places[0] > 0 else -1
