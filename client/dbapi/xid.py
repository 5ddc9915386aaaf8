"""Transaction identifiers of two-phase commits, as PEP 249 has them and as PostgreSQL keeps them.

psycopg2's own class cannot be given the fields of a recovered transaction from Python, so this is another one with the
same attributes and the same text: format_id, and the base64 of gtrid and bqual.
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Iterator
from typing import Any

# Of X/Open's XA specification.
LONGEST = 64
_MAX_FORMAT = 0x7FFFFFFF
_BASE64 = "((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)"
_FORM = re.compile(rf"(\d{{1,10}})_{_BASE64}_{_BASE64}")


class Xid:
    """A transaction identifier: format_id, gtrid and bqual, also by index.

    prepared, owner and database are known of a transaction that tpc_recover found, else None. format_id and bqual are
    None if another program prepared it under a name of another form; gtrid is the name then.
    """

    __slots__ = ("bqual", "database", "format_id", "gtrid", "owner", "prepared")

    def __init__(self, format_id: int, gtrid: str, bqual: str) -> None:
        if not 0 <= format_id <= _MAX_FORMAT:
            raise ValueError(f"format_id must be a non-negative 32-bit integer, got {format_id}")
        _check("gtrid", gtrid)
        _check("bqual", bqual)
        self.format_id: int | None = format_id
        self.gtrid = gtrid
        self.bqual: str | None = bqual
        self.prepared: Any = None
        self.owner: str | None = None
        self.database: str | None = None

    @staticmethod
    def from_string(text: str) -> Xid:
        """Return the identifier that PostgreSQL keeps under this name."""
        if found := _FORM.fullmatch(text):
            gtrid, bqual = (a2b_base64(part).decode("latin-1") for part in found.group(2, 3))
            if int(found[1]) <= _MAX_FORMAT and _is_printable(gtrid) and _is_printable(bqual):
                return Xid(int(found[1]), gtrid, bqual)
        foreign = Xid(0, "", "")
        foreign.format_id, foreign.gtrid, foreign.bqual = None, text, None
        return foreign

    @classmethod
    def of(cls, value: Xid | str) -> Xid:
        """Return the identifier itself, or the one with that name."""
        return value if isinstance(value, Xid) else cls.from_string(value)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, place: int) -> Any:
        return (self.format_id, self.gtrid, self.bqual)[place]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.format_id, self.gtrid, self.bqual))

    def __str__(self) -> str:
        if self.format_id is None or self.bqual is None:
            return self.gtrid
        return f"{self.format_id}_{b64encode(self.gtrid.encode()).decode()}_{b64encode(self.bqual.encode()).decode()}"

    def __repr__(self) -> str:
        if self.format_id is None:
            return f"<Xid: {self.gtrid!r} (unparsed)>"
        return f"<Xid: ({self.format_id!r}, {self.gtrid!r}, {self.bqual!r})>"


def _check(name: str, text: str) -> None:
    if len(text) > LONGEST:
        raise ValueError(f"{name} must be a string no longer than {LONGEST} characters, got {len(text)}")
    if not _is_printable(text):
        raise ValueError(f"{name} must contain only printable characters, got {text!r}")


def _is_printable(text: str) -> bool:
    return all(" " <= each < "\x7f" for each in text) and len(text) <= LONGEST
