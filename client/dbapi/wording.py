"""The broker's advice in the words of this package: it speaks of the Handler's methods, which a connection lacks."""

from client.errors import DBError, error_from

_WORDS = (
    ("in a db.session() block", "on a connection made by connect(..., session=True)"),
    ("use db.transaction(), db.session() or Handler(autocommit=False)", "set autocommit = False, or connect with "
     "session=True"),
    ("use db.session()", "connect with session=True"),
    ("use db.copy_in(statement, source)", "use copy_expert(sql, file)"),
    ("use db.copy_out(statement, sink)", "use copy_expert(sql, file)"),
    ("use db.copy_in for COPY FROM STDIN, db.copy_out for COPY TO STDOUT", "write FROM STDIN or TO STDOUT behind COPY, "
     "with nothing but space between the words"),
    ("use copy_in() or copy_out()", "use copy_expert()"),
    ("run other statements by query()", "run other statements by execute()"),
    ("give each its own query()", "give each its own execute()"),
    ("run it with query()", "run it with execute()"),
    ("; open another session", "; connect again"),
    ("; open another", "; connect again"),
    ("let the setting travel with each statement: settings={'name': 'value'}", "let the setting travel with each "
     "statement: connect(..., settings={'name': 'value'})"),
)  # fmt: skip


def in_our_words(error: DBError) -> DBError:
    """Return the error, or one like it whose text tells what to do here."""
    text = error.failure.message
    for theirs, ours in _WORDS:
        text = text.replace(theirs, ours)
    return error if text == error.failure.message else error_from(error.failure._replace(message=text), error.place)
