"""Whose exception it is: the client's own, or a signal handler's.

Python runs a signal handler between any two instructions, so what the handler raises (a time limit's TimeoutError, say,
which is an OSError) may arise wherever the client expects an error of its own making. A signal handler's exception has
to reach the program, so each `except` in the client that does not raise again asks `is_own` first.
"""

import importlib
import sys
import threading
from types import ModuleType

# Where the client's errors come from: itself, and what it calls that is written in Python.
_OWN = frozenset(("client", "socket", "gevent", "eventlet", "zmq", "psycopg2", "pathlib", "os", "tempfile"))

# Modules that imported_whole has imported.
_whole: set[str] = set()


def is_own(error: BaseException) -> bool:
    """Whether the client, or what it called, raised this, and not a signal handler that Python ran meanwhile."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return True
    # Cython's frames have no globals if the module is built for any version of Python (abi3, as pyzmq's for 3.12 and
    # later); the name of their code begins with the module's.
    frame = trace.tb_frame
    name = frame.f_globals.get("__name__") or frame.f_code.co_name
    return str(name).partition(".")[0] in _OWN


class suppressed:  # noqa: N801  a context manager's name, as contextlib.suppress
    """Suppress errors of these kinds that the client, or what it called, has raised; they end the block."""

    def __init__(self, *kinds: type[Exception]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, self._kinds) and is_own(error)


def noted(error: BaseException, text: str) -> None:
    """Add a note to the program's exception, unless that keeps something else where Python has notes."""
    try:
        BaseException.add_note(error, text)
    except (TypeError, AttributeError) as second:
        if not is_own(second):
            raise


def imported_whole(name: str) -> ModuleType:
    """Return the module, imported where no signal handler's exception can arise.

    An exception in the middle of an import leaves modules half initialised, and those in C are never imported again.
    Python runs signal handlers in the main thread only, so another thread imports; an exception while the main thread
    waits does no harm.
    """
    if name in _whole:
        return sys.modules[name]
    if threading.current_thread() is threading.main_thread():
        failed: list[BaseException] = []
        importer = threading.Thread(target=_import, args=(name, failed), daemon=True)
        importer.start()
        importer.join()
        if failed:
            raise failed[0]
    module = importlib.import_module(name)
    _whole.add(name)
    return module


def _import(name: str, failed: list[BaseException]) -> None:
    try:
        importlib.import_module(name)
    except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
        failed.append(error)
