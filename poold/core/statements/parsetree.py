"""Reader of PostgreSQL's node trees, as text: what debug_print_rewritten logs, and columns of type pg_node_tree.

The format is that of PostgreSQL's `nodeToString` (src/backend/nodes/outfuncs.c): a node is `{KIND :field value ...}`, a
list `( ... )`, NULL `<>`, a constant's bytes `4 [ 1 0 0 0 ]`. Words end at blanks, braces and parentheses; a backslash
escapes the character behind it. A word may begin with a colon (an alias, for example): only the position tells a
field's name from its value.

The reader is a whitelist. A kind, a field or a shape that it does not know raises, as such a part may call anything.
KINDS has the fields of PostgreSQL 13 to 18 together, whatever the version of the server.

A tree is read without recursion, and its size is limited before it is read, as nobody else is served meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# A typical tree of 5 kB has 40 nodes; a report over ten joined tables, a thousand.
MAX_NODES = 5_000
# Characters. A constant has up to five for each of its bytes. Reading that many takes 30 to 60 milliseconds.
MAX_CHARACTERS = 200_000

NULL = "<>"

# (a field's name or "", what begins or ends there or a word)
_PIECE = re.compile(
    r"(?::(\w+) +)?(-?\d+ \[[-\d ]*\]|\{[A-Z0-9_]*|[()}]|(?:\\.|[^\\ \n\t(){}])+)", re.DOTALL | re.ASCII
)
# The server cuts lines at blanks, and in the middle of a word only if a line of 78 bytes has no blank but its first.
_LONGEST_WORD = 76
_LONGEST_WIDE_WORD = 18  # of characters with up to four bytes

# The fields of each kind, and which of them hold OIDs: f of functions, o of operators, t of types of values that exist
# already, m of types of values that are made there (so that input functions and checks of domains may run).
_FIELDS = """
AGGREF aggfnoid=f aggtype=m aggcollid inputcollid aggtranstype aggargtypes=t aggdirectargs args aggorder aggdistinct
  aggfilter aggstar aggvariadic aggkind aggpresorted agglevelsup aggsplit aggno aggtransno location
ALIAS aliasname colnames
ARRAYCOERCEEXPR arg elemexpr resulttype=m resulttypmod resultcollid coerceformat location
ARRAYEXPR array_typeid=t array_collid element_typeid=t elements multidims list_start list_end location
BOOLEANTEST arg booltesttype location
BOOLEXPR boolop args location
CASEEXPR casetype=t casecollid arg args defresult location
CASETESTEXPR typeId=t typeMod collation
CASEWHEN expr result location
COALESCEEXPR coalescetype=t coalescecollid args location
COERCEVIAIO arg resulttype=m resultcollid coerceformat location
COLLATEEXPR arg collOid location
COMMONTABLEEXPR ctename aliascolnames ctematerialized ctequery search_clause cycle_clause location cterecursive
  cterefcount ctecolnames ctecoltypes=t ctecoltypmods ctecolcollations
CONST consttype=m consttypmod constcollid constlen constbyval constisnull location constvalue
CONVERTROWTYPEEXPR arg resulttype=m convertformat location
CTECYCLECLAUSE cycle_col_list cycle_mark_column cycle_mark_value cycle_mark_default cycle_path_column location
  cycle_mark_type=t cycle_mark_typmod cycle_mark_collation cycle_mark_neop=o
CTESEARCHCLAUSE search_col_list search_breadth_first search_seq_column location
DISTINCTEXPR opno=o opfuncid=f opresulttype=m opretset opcollid inputcollid args location
FIELDSELECT arg fieldnum resulttype=t resulttypmod resultcollid
FIELDSTORE arg newvals fieldnums resulttype=t
FROMEXPR fromlist quals
FUNCEXPR funcid=f funcresulttype=m funcretset funcvariadic funcformat funccollid inputcollid args location
GROUPINGFUNC args refs cols agglevelsup location
GROUPINGSET kind content location
INFERENCEELEM expr infercollid inferopclass
JOINEXPR jointype isNatural larg rarg usingClause join_using_alias quals alias rtindex
JSONCONSTRUCTOREXPR type args func coercion returning absent_on_null unique location
JSONFORMAT format_type encoding location
JSONISPREDICATE expr format item_type unique_keys location
JSONRETURNING format typid=m typmod
JSONVALUEEXPR raw_expr formatted_expr format
MERGEACTION matched matchKind commandType override qual targetList updateColnos
MERGESUPPORTFUNC msftype msfcollid location
MINMAXEXPR minmaxtype=t minmaxcollid inputcollid op args location
NAMEDARGEXPR arg name argnumber location
NEXTVALUEEXPR seqid typeId
NULLIFEXPR opno=o opfuncid=f opresulttype=m opretset opcollid inputcollid args location
NULLTEST arg nulltesttype argisrow location
ONCONFLICTEXPR action arbiterElems arbiterWhere constraint onConflictSet onConflictWhere exclRelIndex exclRelTlist
OPEXPR opno=o opfuncid=f opresulttype=m opretset opcollid inputcollid args location
PARAM paramkind paramid paramtype=m paramtypmod paramcollid location
QUERY commandType querySource canSetTag utilityStmt resultRelation hasAggs hasWindowFuncs hasTargetSRFs hasSubLinks
  hasDistinctOn hasRecursive hasModifyingCTE hasForUpdate hasRowSecurity hasGroupRTE isReturn cteList rtable
  rteperminfos jointree mergeActionList mergeUseOuterJoin mergeTargetRelation mergeJoinCondition targetList override
  onConflict returningOldAlias returningNewAlias returningList groupClause groupDistinct groupingSets havingQual
  windowClause distinctClause sortClause limitOffset limitCount limitOption rowMarks setOperations constraintDeps
  withCheckOptions stmt_location stmt_len
RANGETBLENTRY alias eref rtekind relid inh relkind rellockmode perminfoindex tablesample subquery security_barrier
  jointype joinmergedcols joinaliasvars joinleftcols joinrightcols join_using_alias functions funcordinality tablefunc
  values_lists ctename ctelevelsup self_reference coltypes=t coltypmods colcollations enrname enrtuples groupexprs
  lateral inFromCl securityQuals requiredPerms checkAsUser selectedCols insertedCols updatedCols extraUpdatedCols
RANGETBLFUNCTION funcexpr funccolcount funccolnames funccoltypes=m funccoltypmods funccolcollations funcparams
RANGETBLREF rtindex
RELABELTYPE arg resulttype=t resulttypmod resultcollid relabelformat location
RETURNINGEXPR retlevelsup retold retexpr
ROWCOMPAREEXPR rctype cmptype opnos=o opfamilies inputcollids largs rargs
ROWEXPR args row_typeid=t row_format colnames location
ROWMARKCLAUSE rti strength waitPolicy pushedDown
RTEPERMISSIONINFO relid inh requiredPerms checkAsUser selectedCols insertedCols updatedCols
SCALARARRAYOPEXPR opno=o opfuncid=f hashfuncid=f negfuncid=f useOr inputcollid args location
SETOPERATIONSTMT op all larg rarg colTypes=t colTypmods colCollations groupClauses
SORTGROUPCLAUSE tleSortGroupRef eqop=o sortop=o reverse_sort nulls_first hashable
SQLVALUEFUNCTION op type=t typmod location
SUBLINK subLinkType subLinkId testexpr operName subselect location
SUBSCRIPTINGREF refcontainertype=t refelemtype=t refrestype=t reftypmod refcollid refupperindexpr reflowerindexpr
  refexpr refassgnexpr
TABLESAMPLECLAUSE tsmhandler args repeatable
TARGETENTRY expr resno resname ressortgroupref resorigtbl resorigcol resjunk
VAR varno varattno vartype=t vartypmod varcollid varnullingrels varlevelsup varreturningtype varnosyn varattnosyn
  location
WINDOWCLAUSE name refname partitionClause orderClause frameOptions startOffset endOffset runCondition
  startInRangeFunc=f endInRangeFunc=f inRangeColl inRangeAsc inRangeNullsFirst winref copiedOrder
WINDOWFUNC winfnoid=f wintype=m wincollid inputcollid args aggfilter runCondition winref winstar winagg location
WITHCHECKOPTION kind relname polname qual cascaded
"""
# Names of some kinds in older versions.
_OLD_NAMES = {
    "ARRAY": "ARRAYEXPR", "CASE": "CASEEXPR", "COALESCE": "COALESCEEXPR", "COLLATE": "COLLATEEXPR",
    "MINMAX": "MINMAXEXPR", "ROW": "ROWEXPR", "ROWCOMPARE": "ROWCOMPAREEXPR", "RTE": "RANGETBLENTRY",
    "WHEN": "CASEWHEN",
}  # fmt: skip


class UnreadableTree(Exception):
    """The text is no tree that this module can read; the exception's text tells an operator why."""


class Node:
    """A node of a tree. Its fields hold words (str), nodes, and lists of these."""

    __slots__ = ("fields", "kind")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.fields: dict[str, Value] = {}

    def __repr__(self) -> str:
        return f"{{{self.kind} {' '.join(self.fields)}}}"


Value = str | Node | list["Value"]


def _known(text: str) -> tuple[Mapping[str, frozenset[str]], Mapping[str, tuple[tuple[str, str], ...]]]:
    """By kind: its fields, and those fields that hold OIDs with the letter that tells of what."""
    fields, oids = {}, {}
    for entry in re.sub(r"\n +", " ", text).strip().splitlines():
        kind, *words = entry.split(" ")
        pairs = [word.partition("=") for word in words]
        fields[kind] = frozenset(name for name, _, _ in pairs)
        oids[kind] = tuple((name, what) for name, _, what in pairs if what)
    return fields, oids


KINDS, OIDS = _known(_FIELDS)


def unwrapped(detail: str) -> str:
    """The tree in a log message's DETAIL, whose lines the server has wrapped; raises UnreadableTree.

    A newline stands for a blank, except inside a word that is longer than a line. As the two cannot be told apart, such
    a word raises.
    """
    if len(detail) > MAX_CHARACTERS:
        raise UnreadableTree("its tree is too large to be examined")
    # A backslash before a newline is a blank or a newline in a name: both sides are one word.
    longest = max(map(len, detail.replace("\\\n", "__").replace("\n", " ").split(" ")))
    if longest > (_LONGEST_WORD if detail.isascii() else _LONGEST_WIDE_WORD):
        raise UnreadableTree("its tree has a word that is longer than a line of the server's log")
    return detail.replace("\n", " ")


def read(text: str) -> tuple[list[Value], list[Node]]:
    """Return a list of the one value that the text holds, and all nodes in it; raises UnreadableTree."""
    if len(text) > MAX_CHARACTERS or text.count("{") > MAX_NODES:
        raise UnreadableTree("its tree is too large to be examined")
    kinds, old_names = KINDS, _OLD_NAMES
    top: list[Value] = []
    nodes: list[Node] = []
    stack: list[list[Value] | Node] = []
    within: list[Value] | Node = top
    for name, piece in _PIECE.findall(text):
        first = piece[0]
        value: Value
        if first == "{":
            kind = piece[1:]
            kind = old_names.get(kind, kind)
            if kind not in kinds:
                raise UnreadableTree(f"its tree has a part that poold does not know, {kind[:40] or 'without a name'}")
            value = node = Node(kind)
            nodes.append(node)
        elif piece == "(":
            value = []
        elif first == "}" or piece == ")":
            if name or not stack or isinstance(within, Node) is not (first == "}"):
                raise UnreadableTree("its tree is not in the form that poold knows")
            within = stack.pop()
            continue
        else:
            value = piece
        if isinstance(within, Node):
            fields = within.fields
            if name not in kinds[within.kind] or name in fields:
                raise UnreadableTree(f"its tree has a field in {within.kind} that poold does not know")
            fields[name] = value
        elif name:
            raise UnreadableTree("its tree is not in the form that poold knows")
        else:
            within.append(value)
        if value is not piece:
            stack.append(within)
            assert not isinstance(value, str)
            within = value
    if stack or len(top) != 1:
        raise UnreadableTree("its tree is cut off or not in the form that poold knows")
    return top, nodes


def numbers(value: Value) -> Iterable[int]:
    """The OIDs of a field: one, or a list `(o 1 2)`; without zeros. Raises UnreadableTree if it holds anything else."""
    words = [value] if isinstance(value, str) else value if isinstance(value, list) else ["?"]
    if words == [NULL]:
        return ()
    if isinstance(value, list) and words[:1] in (["o"], ["i"]):
        words = words[1:]
    try:
        found = [int(word) for word in words]  # type: ignore[arg-type]  # a node raises TypeError
    except (ValueError, TypeError):
        raise UnreadableTree("its tree has something else where a number should be") from None
    return [number for number in found if number]
