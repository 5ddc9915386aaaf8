"""What passes of a COPY's data, between its CopyMessage and its reply; see `client.wire.messages`."""

from typing import NamedTuple


class CopyIn(NamedTuple):
    """The next piece of a COPY's data, for PostgreSQL."""

    request: int
    data: bytes


class CopyEnd(NamedTuple):
    """The end of a COPY's data; with an error the COPY fails, and nothing of it takes effect."""

    request: int
    error: str | None


class CopyTaken(NamedTuple):
    """The client has taken so many bytes of a COPY's data, and can take as many more."""

    request: int
    size: int


class CopyBegun(NamedTuple):
    """PostgreSQL waits for the data of a COPY (is_in), or begins to send it."""

    request: int
    is_in: bool


class CopyOut(NamedTuple):
    """The next piece of a COPY's data, from PostgreSQL: its messages of type CopyData, one behind the other."""

    request: int
    data: bytes


class CopyWanted(NamedTuple):
    """PostgreSQL has taken so many bytes of a COPY's data, and can take as many more."""

    request: int
    size: int
