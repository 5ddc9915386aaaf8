"""Whether a statement that failed had no effect, if it may have committed a part of its work by itself.

A statement that PostgreSQL can plan is a part of one transaction, and its failure undoes it. Outside of a transaction
block everything else may end transactions as it goes: procedures and DO blocks, strings of several statements, CREATE
INDEX CONCURRENTLY, VACUUM. Nothing in their errors tells. The session's own count of transactions does, the virtual
transaction number, which pg_locks shows to everybody: asked before, in a unit of its own ahead of the statement, which
costs no round trip, and again where the statement failed, before its client is told. Each question is a transaction as
well; one that comes in between, the statement's own, is undone whole, and of more nobody knows what they did.

Inside a transaction block there is nothing to ask: CALL and DO cannot commit there, only a string that has COMMIT in
it can. A lost backend cannot be asked; then the outcome of all of these is unknown.

A session that listens, or has to read what others have changed in the catalogs, counts some transactions of its own:
the error is on the careful side.

https://www.postgresql.org/docs/current/view-pg-locks.html, column virtualtransaction
"""

from __future__ import annotations

import re
from itertools import islice

from client.wire.messages import FAILED, TX_BROKEN, UNKNOWN, Failure, ResultMessage
from poold.core.effects import Plain, Unit
from poold.core.facts import Completion
from poold.core.records.request import Request
from poold.core.statements import literals
from poold.core.statements.sql import MAX_TOKENS, tokens
from poold.core.statements.statement import Statement
from poold.core.work import settings
from poold.core.work.references import only_cell

# Whatever the session's search_path is. The function behind pg_locks: to expand the view costs a quarter of it all.
QUESTION = (
    b"SELECT virtualtransaction FROM pg_catalog.pg_lock_status() WHERE locktype OPERATOR(pg_catalog.=) 'virtualxid' "
    b"AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
)

# Most statements are one of these, and need not be read.
_ALONE = re.compile(rb"\s*+(?:DELETE|INSERT|MERGE|SELECT|TABLE|UPDATE|VALUES|WITH)\b", re.IGNORECASE)
# Verbs that may commit a transaction block, besides PREPARE TRANSACTION.
_COMMITTING = (b"COMMIT", b"END")

# What has effects that no transaction undoes: DROP DATABASE leaves one that nobody can use, a subscription its slot.
_OUTSIDE = re.compile(rb"\b(?:DATABASE|SUBSCRIPTION|TABLESPACE|SYSTEM)\b", re.IGNORECASE)
# Classes of codes that come at any time: no connection, no room, cancelled, no file, a bug.
_INTERRUPTIONS = ("08", "53", "57", "58", "XX")

_CUT_OFF = "what it had done by then outside of its transaction may have stayed"
_IN_PARTS = "it ran in more than one transaction: what it did in earlier ones may have been committed"
_NOT_TOLD = "it may have committed a part of its work before it failed, PostgreSQL could not tell"


def may_commit(statement: Statement) -> bool:
    """Whether it may commit by itself outside of a transaction block, as far as its text tells."""
    found = statement.may_commit
    if found is None:
        text = statement.sql
        found = not (_ALONE.match(text) and b";" not in text.rstrip(b"; \t\r\n"))
        if found:
            traits = statement.examine()
            is_mark = traits.controls_transaction and not traits.is_several  # BEGIN, COMMIT: nothing of its own
            found = not (traits.is_plain or traits.is_empty or is_mark) or not traits.is_read
        statement.may_commit = found
    return found


def may_end_block(statement: bytes) -> bool:
    """Whether several statements, one of which may commit the transaction block that they are sent in, or begin."""
    count, verb, is_committing, is_start = 0, b"", False, True
    read = tokens(statement, is_skimmed=True)
    for kind, text, _, _ in islice(read, MAX_TOKENS):
        word = text.upper() if kind == "word" else b""
        if text == b";":
            is_start = True
        elif is_start:
            count, verb, is_start = count + 1, word, False
            is_committing |= verb in _COMMITTING
        else:
            is_committing |= verb == b"PREPARE" and word == b"TRANSACTION"
            verb = b""
    return (count > 1 and is_committing) or next(read, None) is not None


def number_in(done: Completion) -> bytes:
    """What the last command of the unit, the question, was answered; b"" if it was not."""
    return b"" if done.failure is not None else only_cell(done.results[-1].rows or b"")


def is_one_step(before: bytes, after: bytes) -> bool | None:
    """Whether at most one transaction lies between the two that these numbers were asked in; None if nobody knows."""
    (session, _, first), (other, _, second) = before.partition(b"/"), after.partition(b"/")
    if session != other or not first.isdigit() or not second.isdigit():
        return None
    return 0 < int(second) - int(first) <= 2


def judged(request: Request, reply: ResultMessage | Failure, done: Completion) -> ResultMessage | Failure:
    """The reply to a statement that may commit by itself: no effect is claimed only of what had certainly none."""
    if type(reply) is not Failure or reply.outcome != FAILED:
        return reply
    statement = request.statement
    assert statement is not None
    if request.ended is not None:
        if request.is_in_one_step and not _is_cut_off(statement, reply):
            return reply
        why = _CUT_OFF if request.is_in_one_step else _NOT_TOLD if request.is_in_one_step is None else _IN_PARTS
    elif may_end_block(statement.sql):
        why = _NOT_TOLD
    elif request.is_counted and done.transaction == TX_BROKEN and not statement.examine().is_several:
        why = _NOT_TOLD  # code that nobody can read, on a connection that cannot be asked
    else:
        return reply
    return reply._replace(outcome=UNKNOWN, message=f"{reply.message.rstrip()} ({why})")


def _is_cut_off(statement: Statement, reply: Failure) -> bool:
    """Whether it works outside of its transaction, on files or another server, and was ended in the middle of that."""
    is_outside = statement.examine().verb in ("ALTER", "CREATE", "DROP") and _OUTSIDE.search(statement.sql) is not None
    return is_outside and (reply.sqlstate or "")[:2] in _INTERRUPTIONS


# Settings of what may commit by itself.

# A statement of the broker's own, with NUL for its parameters: it lasts until the session is reset.
SET = b"SELECT pg_catalog.set_config(\0, \0, false)"


def settings_before(request: Request) -> Unit:
    """The unit ahead of a statement that would end a transaction with its settings in it, and the question with it."""
    found = [Plain(literals.render(SET, bytes(8), _sized(pair))) for pair in settings.pairs(request.settings)]
    return (*found, Plain(QUESTION))


def _sized(pair: tuple[bytes, bytes]) -> bytes:
    return b"".join(len(each).to_bytes(4, "big") + each for each in pair)
