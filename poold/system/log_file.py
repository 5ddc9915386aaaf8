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

    def reopen(self) -> OSError | None:
        """Open the path again. Lines of before are in the file of before; raises OSError, and that one is kept.

        If that one does not take its last lines, as its disk is full, they are lost: returned is why.
        """
        new = self._open()
        self.acquire()
        try:
            # Not setStream, which flushes the file of before first and stays with it if it cannot.
            old, self.stream = self.stream, new
        finally:
            self.release()
        before = os.fstat(old.fileno())
        for standard in (1, 2):
            if _is_open_as(standard, before):
                os.dup2(new.fileno(), standard)
        try:
            old.close()
        except OSError as error:
            return error
        return None

    @property
    def is_moved(self) -> bool:
        """Whether its path leads to another file than it writes to, or to none."""
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self.stream.fileno()))
        except OSError:  # to open it again tells more
            return True

    def _open(self) -> TextIO:
        # Whatever the umask, nobody else may read or write it.
        descriptor = open_own(self.path, _FLAGS) if self._must_be_own else os.open(self.path, _FLAGS, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")


def _is_open_as(descriptor: int, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file)
    except OSError:  # whoever started the broker has closed it
        return False


def reopen_moved_logs() -> None:
    """Reopen the file of this process's log if it was moved while nobody could tell this process."""
    if any(each.is_moved for each in _files()):
        reopen_logs()


def reopen_logs() -> None:
    """Reopen the file of this process's log, and say in the log what was done."""
    files = _files()
    if not files:
        log.info("log not reopened: it goes to stderr, which whoever started the broker has opened")
    for each in files:
        try:
            unwritten = each.reopen()
        except OSError as error:
            log.warning("log not reopened: it goes on as it is path=%s error=%s", each.path, error.strerror or error)
        else:
            log.info("log reopened path=%s", each.path)
            if unwritten is not None:
                reason = unwritten.strerror or unwritten
                log.warning("log lines lost: the file of before did not take its last ones error=%s", reason)


def _files() -> list[LogFile]:
    return [each for each in logging.getLogger().handlers if isinstance(each, LogFile)]
