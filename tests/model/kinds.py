"""What the model's statements are, whatever anybody thinks of them; and an examiner that finds it out.

The server tells of each statement that it parses, if it is to, by a name. By that the examiner knows its kind, after as
many questions to the catalogs as the kind takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from poold.core.statements.literals import split_values
from poold.core.statements.proof_query import Question
from poold.core.statements.proofs import UNPROVEN, Proof

_READ = Proof(is_harmless=True, is_plain_read=True)
_CODE = Proof(why="calls a function that nobody knows", calls_unknown=True)


@dataclass(frozen=True)
class Kind:
    """What one statement is, and does."""

    proof: Proof = UNPROVEN  # all that is true of it
    questions: int = 0  # to the catalogs until that is known
    holds_interval: bool = False  # a parameter is an interval
    names_moment: bool = False  # a constant is read when it is parsed
    runs_when_parsed: bool = False  # to read a constant runs code
    draws: bool = False  # asks a sequence for its next value
    asks: bool = False  # may ask what sequences gave last
    drops_names: bool = False  # all prepared statements
    replaces_name: bool = False  # one of them by another, if there is one
    makes_name: bool = False
    changes_schema: bool = False
    commits_in_parts: bool = False  # where it runs outside of a transaction block

    @property
    def is_harmless(self) -> bool:
        """Whether whoever comes next finds nothing of it in the session."""
        return self.proof.is_harmless

    @property
    def is_plain_read(self) -> bool:
        """Whether it may run any number of times, and beside others."""
        return self.proof.is_plain_read


UPDATE = b"UPDATE a SET x = y WHERE id = \0 RETURNING id"
READ_B = b"SELECT id FROM b WHERE id = \0"
READ_C = b"SELECT id FROM c WHERE id = \0"
DRAW = b"SELECT id FROM g WHERE id = \0 AND nextval('s') > 0"
ASK = b"SELECT id FROM w WHERE id = \0"  # a view over lastval()
FUNCTION = b"SELECT id FROM h WHERE id = \0 AND h()"
INTERVAL = b"SELECT id FROM i WHERE id = \0 AND d"
DOMAIN = b"SELECT id FROM q WHERE id = \0 AND a = '{1}'"
MOMENT = b"SELECT id FROM n WHERE id = \0 AND t < 'now'"
LOCK = b"LOCK TABLE b /* \0 */"
SCHEMA = b"ALTER TABLE a /* \0 */"
COPY_IN = b"COPY a FROM STDIN /* \0 */"
COPY_OUT = b"COPY a TO STDOUT /* \0 */"
DO_SCHEMA = b"DO 'schema' /* \0 */"
DO_DROP = b"DO 'drop' /* \0 */"
DO_REPLACE = b"DO 'replace' /* \0 */"
IN_PARTS = b"CALL parts() /* \0 */"

_UNKNOWN = Kind(asks=True)
_KINDS = {
    UPDATE: Kind(Proof(is_harmless=True), questions=2),
    READ_B: Kind(Proof(is_harmless=True, is_plain_read=True, may_be_generic=True), questions=1),
    READ_C: Kind(_READ),
    DRAW: Kind(Proof(is_harmless=True, uses_sequences=True), questions=3, draws=True),
    ASK: Kind(questions=1, asks=True),
    FUNCTION: Kind(_CODE, asks=True, drops_names=True, makes_name=True),
    INTERVAL: Kind(_READ, questions=1, holds_interval=True),
    MOMENT: Kind(_READ, names_moment=True),
    DOMAIN: Kind(_CODE, questions=1, runs_when_parsed=True, asks=True),
    SCHEMA: Kind(changes_schema=True),
    DO_SCHEMA: Kind(asks=True, changes_schema=True),
    DO_DROP: Kind(asks=True, drops_names=True),
    DO_REPLACE: Kind(asks=True, replaces_name=True),
    IN_PARTS: Kind(asks=True, commits_in_parts=True),
}
COPIES = (COPY_IN, COPY_OUT)
# Statements that a client may send at any time, besides those that leave something.
CODE = (DO_SCHEMA, DO_DROP, DO_REPLACE, IN_PARTS)


def kind_of(template: bytes) -> Kind:
    """The kind of the statement with this template; those that are not listed are unknown."""
    return _KINDS.get(template, _UNKNOWN)


def template_of(numbered: bytes) -> bytes:
    """The template of the text that is prepared."""
    return numbered.replace(b"$1", b"\0")


def is_clients(numbered: bytes) -> bool:
    """Whether the text that is prepared is a client's statement."""
    return b"id = $1" in numbered or b"* $1" in numbered


# Before the tree in a notice's text: what libpq's own programs show.
NOTICE = "LOG:  rewritten parse tree:\nDETAIL:  {QUERY %s}"
QUESTION = b"SELECT catalogs "


class Examiner:
    """Finds out what a statement is, from its tree and answers to questions."""

    def __init__(self, tree: str, types: Sequence[int]) -> None:
        assert len(types) == 1, "each of the model's statements has one parameter"
        name = tree.strip().removeprefix("{QUERY ").removesuffix("}")
        self._kind = kind_of(bytes.fromhex(name))
        self._left = self._kind.questions
        self.proof = UNPROVEN
        self.holds_interval = True  # as far as anybody knows
        self.has_domain = True
        self._learn()

    def question(self) -> Question | None:
        """What to ask next; there are so many values that they cannot be a client's statement's, nor a setting's."""
        return Question(QUESTION + b"\0, \0, \0", (b"%d" % self._left, b"", b"")) if self._left else None

    def answered(self, rows: bytes) -> None:
        """The answer: what was asked."""
        (cell,) = split_values(rows[7:], 1)
        assert cell == b"%d" % self._left, "an answer to another question"
        self._left -= 1
        self._learn()

    def _learn(self) -> None:
        if not self._left:
            self.proof, self.holds_interval = self._kind.proof, self._kind.holds_interval
            self.has_domain = self._kind.runs_when_parsed


def tree_of(numbered: bytes) -> str:
    """What the server tells of a statement that it parses."""
    return NOTICE % template_of(numbered).hex()
