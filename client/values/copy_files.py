"""The program's files at the ends of a COPY: what a source gives, and what a sink takes."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from numbers import Number
from operator import index
from typing import Any

# A source's data is sent after so many seconds, however little it is.
SEND_AFTER = 0.05


class SourceStopped(Exception):
    """A file's read() raised StopIteration, which must not end the iterator of its blocks; it is the argument."""


def blocks_of(source: Any, size: int) -> Iterator[bytes]:
    """Return the source's data, in blocks of about so many bytes if it comes fast in smaller ones.

    A block may be empty: the source was at work and gave nothing. Raises what the source does, but for SourceStopped.
    """
    if isinstance(source, (bytes, bytearray, memoryview, str)):
        return iter((_as_bytes(source),))
    if callable(getattr(source, "read", None)):
        return _of_file(source, size)
    if isinstance(source, Iterable):
        return _joined(source, size)
    raise TypeError(f"source is {source!r:.200}; expected a file, bytes, text, or an iterable of these")


def _of_file(file: Any, size: int) -> Iterator[bytes]:
    while (block := _read(file, size)) is None or block:
        if block is None:
            raise BlockingIOError("the source's read() gave None: it has no data yet; make it a file that blocks")
        yield _as_bytes(block)


def _read(file: Any, size: int) -> Any:
    try:
        return file.read(size)
    except StopIteration as error:
        raise SourceStopped(error) from error


def _joined(parts: Iterable[Any], size: int) -> Iterator[bytes]:
    block = bytearray()
    until = time.monotonic() + SEND_AFTER
    for part in parts:
        block += _as_bytes(part)
        if len(block) >= size or time.monotonic() >= until:
            yield bytes(block)
            block.clear()
            until = time.monotonic() + SEND_AFTER
    if block:
        yield bytes(block)


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"COPY's data has {data!r:.200}; expected bytes or text")


def takes_text(file: Any) -> bool:
    """Whether the file takes text: it is a text file, or a wrapper around one (of tempfile)."""
    return isinstance(file, io.TextIOBase) or isinstance(getattr(file, "encoding", None), str)


def has_no_buffer(file: Any) -> bool:
    """Whether the file, or that in a wrapper of tempfile, may take less than it is given."""
    return any(isinstance(each, io.RawIOBase) for each in (file, getattr(file, "file", None)))


def write_all(sink: Any, data: bytes | str) -> None:
    """Write all of it, in as many parts as the sink likes."""
    is_raw = has_no_buffer(sink)
    rest: Any = memoryview(data) if is_raw and isinstance(data, bytes) else data
    while rest:
        taken = sink.write(rest)
        if taken is None and is_raw:
            raise BlockingIOError("the sink's write() gave None: it takes nothing now; make it a file that blocks")
        # What is no number says nothing of how much was taken, as None, or True of a function that has worked.
        if isinstance(taken, bool) or not hasattr(taken, "__index__"):
            if hasattr(taken, "__await__"):
                raise TypeError(f"the sink's write() gave {taken!r:.200}, to be awaited; expected one that writes")
            if isinstance(taken, Number) and not isinstance(taken, bool):
                raise ValueError(f"the sink's write() gave {taken!r:.200}; expected a whole number, or None for all")
            return
        count = index(taken)
        if count == 0:
            raise BlockingIOError(
                f"the sink's write() gave 0: it takes none of {_size(rest)}; make it a file that blocks, or return "
                "how many it has taken, None for all"
            )
        if count < 0 or (count > len(rest) and not isinstance(rest, str)):
            raise ValueError(
                f"the sink's write() gave {count} for {_size(rest)}; expected how many of these it has taken, or None "
                "for all"
            )
        rest = rest[count:]  # of text all, if the sink counts the bytes that it became


def _size(data: Any) -> str:
    return f"{len(data)} {'characters' if isinstance(data, str) else 'bytes'}"
