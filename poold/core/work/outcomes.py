"""Whether a failed statement certainly had no effect, if it may have committed a part of its work by itself.

A statement that PostgreSQL can plan runs in one transaction, and its failure undoes it. Outside of a transaction block
all others may end transactions as they run: procedures and DO blocks, strings of several statements, CREATE INDEX
CONCURRENTLY, VACUUM. Their errors do not tell whether they did. The session's own count of transactions does: the
virtual transaction number, which pg_locks shows to everybody. It is asked for ahead of the statement, in a unit of its
own, which costs no round trip, and again if the statement failed, before its client is told. Each question is a
transaction as well. If there was at most one more in between, it was the statement's, and it was undone as a whole; if
there were more, nobody knows what they did.

Inside a transaction block there is nothing to ask: CALL and DO cannot commit there, only a string that contains COMMIT
can. A lost backend cannot be asked; then the outcome of all these statements is unknown.

A session that listens, or has to read what others have changed in the catalogs, counts some transactions of its own.
Then an outcome may be called unknown although the statement had no effect, which is the safe mistake.

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
from poold.core.work import labels, settings
from poold.core.work.references import only_cell

# Works under any search_path. Calls the function behind pg_locks: to expand the view costs a quarter of the whole.
QUESTION = (
    b"SELECT virtualtransaction FROM pg_catalog.pg_lock_status() WHERE locktype OPERATOR(pg_catalog.=) 'virtualxid' "
    b"AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
)

# Most statements are one of these, and need not be read.
_ALONE = re.compile(rb"\s*+(?:DELETE|INSERT|MERGE|SELECT|TABLE|UPDATE|VALUES|WITH)\b", re.IGNORECASE)
# Verbs that may commit a transaction block, besides PREPARE TRANSACTION.
_COMMITTING = (b"COMMIT", b"END")

# Objects of commands with effects that no transaction undoes: an interrupted DROP DATABASE leaves a database that
# nobody can use, a subscription may leave its slot.
_OUTSIDE = re.compile(rb"\b(?:DATABASE|SUBSCRIPTION|TABLESPACE|SYSTEM)\b", re.IGNORECASE)
# Classes of error codes that may come at any moment: connection, resources, cancel, files, internal errors.
_INTERRUPTIONS = ("08", "53", "57", "58", "XX")

_CUT_OFF = "what it had done by then outside of its transaction may have stayed"
_IN_PARTS = "it ran in more than one transaction: what it did in earlier ones may have been committed"
_NOT_TOLD = "it may have committed a part of its work before it failed, PostgreSQL could not tell"


def may_commit(statement: Statement) -> bool:
    """Whether the statement may commit by itself outside of a transaction block, as far as its text tells."""
    found = statement.may_commit
    if found is None:
        text = statement.sql
        found = not (_ALONE.match(text) and b";" not in text.rstrip(b"; \t\r\n"))
        if found:
            traits = statement.examine()
            is_mark = traits.controls_transaction and not traits.is_several  # BEGIN or COMMIT alone
            found = not (traits.is_plain or traits.is_empty or is_mark) or not traits.is_read
        statement.may_commit = found
    return found


def may_end_block(statement: bytes) -> bool:
    """Whether these are several statements and one may commit a transaction block; True if too long to read."""
    count, is_committing, is_read = _ends_in(statement)
    return (count > 1 and is_committing) or not is_read


def may_commit_block(statement: bytes) -> bool:
    """Whether one of these statements may commit the transaction block in which they run; True if too long to read."""
    _, is_committing, is_read = _ends_in(statement)
    return is_committing or not is_read


def _ends_in(statement: bytes) -> tuple[int, bool, bool]:
    """How many statements these are, whether one may commit a transaction block, and whether all was read."""
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
    return count, is_committing, next(read, None) is None


def number_in(done: Completion) -> bytes:
    """The answer to the question, which is the last command of its unit; b"" if the unit failed."""
    return b"" if done.failure is not None else only_cell(done.results[-1].rows or b"")


def is_one_step(before: bytes, after: bytes) -> bool | None:
    """Whether at most one transaction lies between the questions with these two answers; None if that is unknown."""
    (session, _, first), (other, _, second) = before.partition(b"/"), after.partition(b"/")
    if session != other or not first.isdigit() or not second.isdigit():
        return None
    return 0 < int(second) - int(first) <= 2


def judged(request: Request, reply: ResultMessage | Failure, done: Completion) -> ResultMessage | Failure:
    """The reply to a statement that may commit by itself.

    A failure keeps the outcome FAILED, no effect, only if that is certain; else the outcome becomes UNKNOWN.
    """
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
        why = _NOT_TOLD  # the connection cannot be asked, and the text does not tell
    else:
        return reply
    return reply._replace(outcome=UNKNOWN, message=f"{reply.message.rstrip()} ({why})")


def _is_cut_off(statement: Statement, reply: Failure) -> bool:
    """Whether the statement has effects outside of its transaction and was interrupted in the middle of them."""
    is_outside = statement.examine().verb in ("ALTER", "CREATE", "DROP") and _OUTSIDE.search(statement.sql) is not None
    return is_outside and (reply.sqlstate or "")[:2] in _INTERRUPTIONS


# Settings of statements that may commit by themselves.

# A statement of the broker's own, with NUL for its parameters. The setting lasts until the session is reset.
SET = b"SELECT pg_catalog.set_config(\0, \0, false)"


def settings_before(request: Request) -> Unit:
    """The unit ahead of a statement that may commit by itself: its settings and the question.

    The settings last for the session, as the statement would end a transaction that held them.
    """
    pairs = settings.pairs(request.settings) + ([(labels.SETTING, request.label)] if request.label else [])
    lasting = [(settings.WILL_READ if settings.makes_read_only(*pair) else pair[0], pair[1]) for pair in pairs]
    found = [Plain(literals.render(SET, bytes(8), _sized(pair))) for pair in lasting]
    return (*found, Plain(QUESTION))


def _sized(pair: tuple[bytes, bytes]) -> bytes:
    return b"".join(len(each).to_bytes(4, "big") + each for each in pair)
