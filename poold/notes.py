"""What the core tells the operator, written to the log."""

import logging

from poold.core.effects import Note
from poold.system.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

_FREQUENT = RateLimitedLog(log)


def write(note: Note) -> None:
    """Log the note, or only count it if there are too many."""
    fields = {name: value for name, value in note.fields.items() if value not in ("", None)}
    text = note.event.replace("%", "%%") + "".join([f" {name}=%s" for name in fields])
    if note.is_frequent:
        _FREQUENT.warning(text, *fields.values())
    else:
        log.log(logging.WARNING if note.is_bad else logging.INFO, text, *fields.values())
