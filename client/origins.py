"""Where in the program a request comes from: the code place that calls, and the trace that is being recorded there.

The code place is that of the nearest caller that is the program's own: not this package, and not a library that runs
statements for others. To find it takes a few microseconds, so it is looked for only if the program asks for it.

OpenTelemetry is the program's: it is used if the program has loaded it, and loaded by nobody else.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import FrameType
from typing import Any

from client.wire.origins import MAX_PLACE_BYTES, packed_origin

PLACE_VARIABLE = "POOLD_CODE_PLACE"
API = "opentelemetry.trace"
_TRUE, _FALSE = ("1", "true", "on", "yes"), ("", "0", "false", "off", "no")
# Packages whose code is nobody's place: they run what others ask for.
_INNER = frozenset(
    (
        "client",
        "poold",
        "psycopg2",
        "sqlalchemy",
        "alembic",
        "django",
        "contextlib",
        "concurrent",
        "threading",
        "asyncio",
    )
)
# Callers that are looked at, and places that are kept: a program has few that run statements.
MOST_FRAMES = 200
PLACES_KEPT = 4096

_places: dict[tuple[str, str, int], bytes] = {}
_inner_files: dict[str, bool] = {}


def checked_code_place(code_place: bool | None) -> bool:
    """Return whether code places are sent; None: as POOLD_CODE_PLACE says."""
    if code_place is None:
        word = os.environ.get(PLACE_VARIABLE, "").lower()
        if word not in (*_TRUE, *_FALSE):
            raise ValueError(f"{PLACE_VARIABLE} is {word!r:.80}; expected 1 to send code places, or 0")
        return word in _TRUE
    if not isinstance(code_place, bool):
        raise TypeError(f"code_place is {code_place!r:.80}; expected True, False, or None for {PLACE_VARIABLE}")
    return code_place


def checked_trace(trace: bool | None) -> bool | None:
    """Return trace, if it can be done; True loads OpenTelemetry's API."""
    if trace is not None and not isinstance(trace, bool):
        raise TypeError(f"trace is {trace!r:.80}; expected True, False, or None: if the program uses OpenTelemetry")
    if trace:
        try:
            importlib.import_module(API)
        except ImportError as error:
            text = "trace=True needs OpenTelemetry's API: pip install opentelemetry-api; or leave trace out"
            raise ValueError(text) from error
    return trace


class Origin:
    """Tells of each request where it comes from, as a Handler is asked to; b"" if there is nothing to tell."""

    __slots__ = ("code_place", "trace")

    def __init__(self, code_place: bool | None, trace: bool | None) -> None:
        self.code_place = checked_code_place(code_place)
        self.trace = checked_trace(trace)

    @property
    def is_wanted(self) -> bool:
        """Whether there may be anything to tell at all, from here on."""
        return self.code_place or self.trace is not False

    def __call__(self) -> bytes:
        """Return where the call comes from, as it travels."""
        place = _place() if self.code_place else b""
        traced = "" if self.trace is False or API not in sys.modules else _traceparent(sys.modules[API])
        return packed_origin(place, traced) if place or traced else b""


def _traceparent(api: Any) -> str:
    """Return the current span's traceparent; "" if it is not recorded, or the API is only half loaded."""
    current = getattr(api, "get_current_span", None)
    if current is None:
        return ""
    context = current().get_span_context()
    if not context.is_valid or not context.trace_flags & 1:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def _place() -> bytes:
    frame: FrameType | None = sys._getframe(1)
    for _ in range(MOST_FRAMES):
        if frame is None:
            return b""
        code = frame.f_code
        if not _is_inner(frame, code.co_filename):
            key = (code.co_filename, code.co_qualname, frame.f_lineno)
            found = _places.get(key)
            if found is None:
                if len(_places) >= PLACES_KEPT:
                    _places.clear()
                found = _places[key] = _written(str(frame.f_globals.get("__name__", "?")), *key)
            return found
        frame = frame.f_back
    return b""


def _is_inner(frame: FrameType, file: str) -> bool:
    found = _inner_files.get(file)
    if found is None:
        found = str(frame.f_globals.get("__name__", "")).partition(".")[0] in _INNER
        if file[:1] != "<":  # <string> is of any module
            _inner_files[file] = found
    return found


def _written(module: str, file: str, function: str, line: int) -> bytes:
    place = f"{module}.{function} {os.path.basename(file)}:{line}".replace("\0", "?").encode("utf-8", "replace")
    if len(place) > MAX_PLACE_BYTES:
        # Its end tells most.
        place = b"..." + place[3 - MAX_PLACE_BYTES :].decode("utf-8", "ignore").encode()
    return place
