"""A run's temporary folder, and the end of everything that was started for the run.

Whatever has to end is registered here as in an ExitStack, and ends in the reverse order before the folder is removed:
after success, after an error, and after Ctrl-C, SIGTERM or SIGHUP, which all raise KeyboardInterrupt. They do so only
where nothing can be lost by it: not while a process is being started, which would be left behind, and not at the end.
"""

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What a killed program's children still write while they end would be left; so the removal is tried for this long.
REMOVE_TIMEOUT = 5.0
REMOVE_INTERVAL = 0.05


class Workspace(ExitStack):
    """A context manager; `folder` exists inside. One per process: it takes over the signals for good."""

    def __init__(self, name: str, parent: Path = Path("/tmp")) -> None:
        """The folder is parent/NAME-random. A short path, as unix sockets in it may have 107 bytes."""
        super().__init__()
        self.folder = parent
        self._name = name
        self._parent = parent
        self._is_undisturbed = True
        self._is_interrupted = False

    def __enter__(self) -> Self:
        for number in SIGNALS:
            signal.signal(number, self._interrupt)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self._name}-", dir=self._parent))
        self.callback(_remove, self.folder)
        # PostgreSQL of root runs as another user, who has to get through here.
        self.folder.chmod(0o755)
        self._is_undisturbed = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._is_undisturbed = True
        return bool(super().__exit__(kind, error, trace))

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A signal that comes in the block takes effect at its end. Blocks may be nested."""
        before, self._is_undisturbed = self._is_undisturbed, True
        try:
            yield
        finally:
            self._is_undisturbed = before
            if self._is_interrupted and not before:
                raise KeyboardInterrupt

    @contextmanager
    def running(self, start: Callable[[], object], stop: Callable[[], object]) -> Iterator[None]:
        """Start something for the block. stop is called even where start failed halfway."""
        try:
            with self.undisturbed():
                start()
            yield
        finally:
            with self.undisturbed():
                stop()

    def launch(self, start: Callable[[], object], stop: Callable[[], object]) -> None:
        """Start something for as long as the workspace lasts."""
        self.enter_context(self.running(start, stop))

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._is_interrupted = True
        if not self._is_undisturbed:
            raise KeyboardInterrupt


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + REMOVE_TIMEOUT
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        time.sleep(REMOVE_INTERVAL)
