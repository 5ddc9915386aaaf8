"""The broker's advice in the words of this package: it speaks of the Handler's methods, which a connection lacks."""

from client.errors import UsageError

_WORDS = (
    ("in a db.session() block", "on a connection made by connect(..., session=True)"),
    ("use db.transaction(), db.session() or Handler(autocommit=False)", "set autocommit = False, or connect with "
     "session=True"),
    ("use db.session()", "connect with session=True"),
    ("let the setting travel with each statement: settings={'name': 'value'}", "let the setting travel with each "
     "statement: connect(..., settings={'name': 'value'})"),
)  # fmt: skip


def in_our_words(error: UsageError) -> UsageError:
    """Return the error, or one like it whose text tells what to do here."""
    text = str(error)
    for theirs, ours in _WORDS:
        text = text.replace(theirs, ours)
    return error if text == str(error) else UsageError(text, error.failure._replace(message=text))
