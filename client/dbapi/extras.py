"""psycopg2.extras for connections and cursors of this package.

Adapters, casters and rows are psycopg2's own. What registers casters for one connection or cursor is written anew here,
as psycopg2's C code takes none but its own connections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any, NoReturn
from uuid import UUID

import psycopg2
from psycopg2 import _ipaddress, _json, extras
from psycopg2._json import Json
from psycopg2._range import DateRange, DateTimeRange, DateTimeTZRange, NumericRange, Range, RangeAdapter, RangeCaster
from psycopg2.extensions import new_array_type, new_type, register_adapter
from psycopg2.extras import CompositeCaster, DictRow, HstoreAdapter, Inet, RealDictRow, UUID_adapter
from psycopg2.sql import Composable

from client.dbapi.connection import Connection
from client.dbapi.extensions import register_type
from client.dbapi.row_cursors import DictCursor, NamedTupleCursor, RealDictCursor
from client.values import offline

# What psycopg2's own functions of the same names here are made of, of which no type is published.
_theirs_json: Any = _json
_theirs_ipaddress: Any = _ipaddress
_composite: Any = CompositeCaster
_range: Any = RangeCaster
_hstore: Any = HstoreAdapter

__all__ = [
    "CompositeCaster", "DateRange", "DateTimeRange", "DateTimeTZRange", "DictConnection", "DictCursor", "DictRow",
    "HstoreAdapter", "Inet", "Json", "NamedTupleConnection", "NamedTupleCursor", "NumericRange", "Range",
    "RangeAdapter", "RangeCaster", "RealDictConnection", "RealDictCursor", "RealDictRow", "UUID_adapter",
    "execute_batch", "execute_values", "register_composite", "register_default_json", "register_default_jsonb",
    "register_hstore", "register_inet", "register_ipaddress", "register_json", "register_range", "register_uuid",
    "wait_select",
]  # fmt: skip


class DictConnection(Connection):
    """A connection whose cursors are DictCursors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = self.cursor_factory or DictCursor


class RealDictConnection(Connection):
    """A connection whose cursors are RealDictCursors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = self.cursor_factory or RealDictCursor


class NamedTupleConnection(Connection):
    """A connection whose cursors are NamedTupleCursors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = self.cursor_factory or NamedTupleCursor


def execute_batch(cur: Any, sql: Any, argslist: Any, page_size: int = 100) -> None:
    """Run a statement with each of these arguments, page_size of them joined in one string."""
    extras.execute_batch(cur, _text(sql), argslist, page_size)


def execute_values(
    cur: Any, sql: Any, argslist: Any, template: Any = None, page_size: int = 100, fetch: bool = False
) -> Any:
    """Run a statement with VALUES of all these arguments, page_size of them in each; fetch=True returns the rows."""
    return extras.execute_values(cur, _text(sql), argslist, template, page_size, fetch)


def _text(sql: Any) -> Any:
    return sql.as_string(offline.own_cursor()) if isinstance(sql, Composable) else sql


def register_uuid(oids: Any = None, conn_or_curs: Any = None) -> Any:
    """Read uuid as uuid.UUID; as a parameter it needs no registration."""
    oid, array_oid = (oids if isinstance(oids, (list, tuple)) else (oids, 2951)) if oids else (2950, 2951)
    caster = new_type((oid,), "UUID", lambda data, cursor: UUID(str(data)) if data else None)
    register_type(caster, conn_or_curs)
    register_type(new_array_type((array_oid,), "UUID[]", caster), conn_or_curs)
    register_adapter(UUID, UUID_adapter)
    return caster


def register_inet(oid: Any = None, conn_or_curs: Any = None) -> Any:
    """Read inet as Inet."""
    one, many = (oid if isinstance(oid, (list, tuple)) else (oid, 1041)) if oid else (869, 1041)
    caster = new_type((one,), "INET", lambda data, cursor: (data and Inet(data)) or None)
    register_type(caster, conn_or_curs)
    register_type(new_array_type((many,), "INETARRAY", caster), conn_or_curs)
    return caster


def register_ipaddress(conn_or_curs: Any = None) -> None:
    """Read inet and cidr as the standard library's ipaddress objects, and write these."""
    for caster in _ipaddress_casters():
        register_type(caster, conn_or_curs)
    for kind in (IPv4Interface, IPv6Interface, IPv4Network, IPv6Network):
        register_adapter(kind, _theirs_ipaddress.adapt_ipaddress)


def _ipaddress_casters() -> Sequence[Any]:
    inet = new_type((869,), "INET", _theirs_ipaddress.cast_interface)
    cidr = new_type((650,), "CIDR", _theirs_ipaddress.cast_network)
    return inet, new_array_type((1041,), "INET[]", inet), cidr, new_array_type((651,), "CIDR[]", cidr)


def register_hstore(
    conn_or_curs: Any, globally: bool = False, unicode: bool = False, oid: Any = None, array_oid: Any = None
) -> None:
    """Read hstore as dict, and write dicts as hstore."""
    if oid is None:
        oid, array_oid = _hstore.get_oids(conn_or_curs)
        if not oid:
            raise psycopg2.ProgrammingError("hstore type not found in the database; run CREATE EXTENSION hstore")
    scope = None if globally else conn_or_curs
    caster = new_type((oid,) if isinstance(oid, int) else tuple(oid), "HSTORE", HstoreAdapter.parse)
    register_type(caster, scope)
    register_adapter(dict, HstoreAdapter)
    arrays = (array_oid,) if isinstance(array_oid, int) else tuple(each for each in array_oid or () if each)
    if arrays:
        register_type(new_array_type(arrays, "HSTOREARRAY", caster), scope)


def register_composite(name: Any, conn_or_curs: Any, globally: bool = False, factory: Any = None) -> Any:
    """Read a composite type as named tuples, or as factory makes it."""
    caster: Any = (factory or _composite)._from_db(name, conn_or_curs)
    _register(caster, None if globally else conn_or_curs)
    return caster


def register_range(pgrange: str, pyrange: Any, conn_or_curs: Any, globally: bool = False) -> Any:
    """Read a range type as pyrange, and write that."""
    caster: Any = _range._from_db(pgrange, pyrange, conn_or_curs)
    _register(caster, None if globally else conn_or_curs)
    register_adapter(caster.range, caster.adapter)
    return caster


def _register(caster: Any, scope: Any) -> None:
    register_type(caster.typecaster, scope)
    if caster.array_typecaster is not None:
        register_type(caster.array_typecaster, scope)


def register_json(
    conn_or_curs: Any = None,
    globally: bool = False,
    loads: Callable[[str], Any] | None = None,
    oid: int | None = None,
    array_oid: int | None = None,
    name: str = "json",
) -> Any:
    """Read json, or the type of another name, by loads."""
    if oid is None:
        oid, array_oid = _theirs_json._get_json_oids(conn_or_curs, name)
    caster, array_caster = _theirs_json._create_json_typecasters(oid, array_oid, loads=loads, name=name.upper())
    scope = None if globally else conn_or_curs
    register_type(caster, scope)
    if array_caster is not None:
        register_type(array_caster, scope)
    return caster, array_caster


def register_default_json(conn_or_curs: Any = None, globally: bool = False, loads: Any = None) -> Any:
    """Read json by loads."""
    return register_json(conn_or_curs, globally, loads, _theirs_json.JSON_OID, _theirs_json.JSONARRAY_OID)


def register_default_jsonb(conn_or_curs: Any = None, globally: bool = False, loads: Any = None) -> Any:
    """Read jsonb by loads."""
    return register_json(
        conn_or_curs, globally, loads, _theirs_json.JSONB_OID, _theirs_json.JSONBARRAY_OID, name="jsonb"
    )


def wait_select(conn: Any) -> NoReturn:
    """Refuse: there are no asynchronous connections to wait for."""
    conn.poll()
    raise AssertionError("poll() refuses")
