"""What `core.statements.proofs` makes of statements on a real server: the broker's part of it, in psycopg2."""

import struct
from collections.abc import Iterable, Sequence
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from poold.core.statements.proofs import Examination

MOST_QUESTIONS = 4


def tree(connection: Connection, statement: str) -> str:
    """The DETAIL that the server logs for the statement, whose parameters are $1, $2."""
    with connection.cursor() as cursor:
        cursor.execute(
            "BEGIN; SET LOCAL client_min_messages = log; SET LOCAL debug_pretty_print = off;"
            " SET LOCAL debug_print_rewritten = on"
        )
        connection.notices.clear()
        try:
            cursor.execute("PREPARE examined AS " + statement)
            # The first notice is that of PREPARE itself.
            notice = connection.notices[-1]
        finally:
            cursor.execute("ROLLBACK")
        cursor.execute("DEALLOCATE examined")
    assert "rewritten parse tree:" in notice, notice
    return str(notice.partition("DETAIL:")[2].strip())


def examined(asker: Connection, detail: str, parameter_types: Sequence[int] = ()) -> Examination:
    """The examination of a tree, with all its questions answered by asker."""
    examination = Examination(detail, parameter_types)
    for _ in range(MOST_QUESTIONS):
        question = examination.question()
        if question is None:
            return examination
        with asker.cursor() as cursor:
            cursor.execute(question.text.decode())
            examination.answered(data_rows(cursor.fetchall()))
    raise AssertionError(f"more than {MOST_QUESTIONS} questions")


def data_rows(rows: Iterable[Sequence[Any]]) -> bytes:
    """The rows as PostgreSQL's DataRow messages, text format."""
    return b"".join(map(_data_row, rows))


def _data_row(row: Sequence[Any]) -> bytes:
    cells = b"".join(
        struct.pack(">i", -1) if cell is None else struct.pack(">i", len(data := str(cell).encode())) + data
        for cell in row
    )
    return b"D" + struct.pack(">iH", len(cells) + 6, len(row)) + cells
