"""The broker's log in a file, which is opened again when a program that rotates logs has moved it.

A detached broker's stderr is the same file: what Python itself says when a process crashes goes there. So stdout and
stderr follow the log to its new file.
"""

import logging
import os
from pathlib import Path
from typing import TextIO

from poold.system.safe_files import open_own

log = logging.getLogger(__name__)

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class LogFile(logging.StreamHandler[TextIO]):
    """A handler that appends to a file. Raises OSError if it cannot be opened."""

    def __init__(self, path: Path, must_be_own: bool = False) -> None:
        """must_be_own: the file is in a folder where others may write, so it has to be this user's own."""
        self.path = path.absolute()
        self._must_be_own = must_be_own
        super().__init__(self._open())

    def reopen(self) -> None:
        """Open the path again. Lines of before are in the file of before; raises OSError, and that one is kept."""
        new = self._open()
        old = self.setStream(new)
        assert old is not None  # it is None only if the stream is the one of before
        before = os.fstat(old.fileno())
        for standard in (1, 2):
            if os.path.samestat(os.fstat(standard), before):
                os.dup2(new.fileno(), standard)
        old.close()

    def _open(self) -> TextIO:
        # Whatever the umask, nobody else may read or write it.
        descriptor = open_own(self.path, _FLAGS) if self._must_be_own else os.open(self.path, _FLAGS, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")


def reopen_logs() -> None:
    """Reopen the file of this process's log, and say in the log what was done."""
    files = [each for each in logging.getLogger().handlers if isinstance(each, LogFile)]
    if not files:
        log.info("log not reopened: it goes to stderr, which whoever started the broker has opened")
    for each in files:
        try:
            each.reopen()
        except OSError as error:
            log.warning("log not reopened: it goes on as it is path=%s error=%s", each.path, error.strerror or error)
        else:
            log.info("log reopened path=%s", each.path)
