"""Whose exception it is.

Python runs a signal handler between any two instructions, so what the handler raises (a time limit's TimeoutError, say,
which is an OSError) may arise wherever the client expects an error of its own making. It has to reach the program: each
`except` here that does not raise again asks this first.
"""

# Where the client's errors come from: itself, and what it calls that is written in Python.
_OWN = frozenset(("client", "socket", "gevent", "eventlet", "zmq", "psycopg2", "pathlib", "os", "tempfile"))


def is_own(error: BaseException) -> bool:
    """Whether the client, or what it called, raised this, and not a signal handler that Python ran meanwhile."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return True
    # Cython's frames have no globals where a module is built for any version of Python (abi3, as pyzmq's for 3.12 and
    # later): there the name of the code begins with the module's.
    frame = trace.tb_frame
    name = frame.f_globals.get("__name__") or frame.f_code.co_name
    return str(name).partition(".")[0] in _OWN


class suppressed:  # noqa: N801  a context manager's name, as contextlib.suppress
    """Ends a block at an error of these kinds that the client, or what it called, has raised."""

    def __init__(self, *kinds: type[Exception]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, self._kinds) and is_own(error)
