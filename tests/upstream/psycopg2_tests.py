"""Which of psycopg2's own tests run with client.dbapi in psycopg2's place, and why the others do not."""

from importlib.metadata import version
from pathlib import Path

from upstream.sources import fetched

# Modules, and the kinds of connections with which they run: plain ones, and those with session=True.
MODULES = {
    "test_psycopg2_dbapi20": ("plain", "session"),  # dbapi20 and dbapi20_tpc
    "test_connection": ("plain", "session"),
    "test_cursor": ("plain", "session"),
    "test_with": ("plain", "session"),
    "test_transaction": ("session",),  # of tables that are temporary
    "test_extras_dictcursor": ("session",),  # the same
    "test_fast_executemany": ("plain", "session"),
    "test_types_basic": ("plain", "session"),
    "test_types_extras": ("plain", "session"),
    "test_dates": ("plain", "session"),
    "test_quote": ("plain", "session"),
    "test_sql": ("plain", "session"),
    "test_copy": ("plain", "session"),
    "test_ipaddress": ("plain", "session"),
    "test_errors": ("plain", "session"),
    "test_errcodes": ("plain",),
    "test_cancel": ("plain", "session"),
    "test_module": ("plain", "session"),
    "test_bugX000": ("plain",),
    "test_bug_gc": ("plain",),
}
NOT_RUN = {
    "test_async": "there are no asynchronous connections",
    "test_green": "gevent and eventlet work by their patched sockets, not by psycopg2's wait callback",
    "test_lobject": "large objects are not supported as files",
    "test_notify": "notifications are not delivered",
    "test_replication": "replication needs a connection of its own kind",
}

_UTF8 = "the client's encoding is always UTF8"
_ASYNC = "there are no asynchronous connections"
_OWN_PROGRAM = "it starts a program of its own, which imports psycopg2 itself"
_SERVER = "it names a server, and the broker's configuration does that"
_NO_LIBPQ = "this process has no connection of libpq's to PostgreSQL"
_MADE = "it looks into psycopg2's way to make a connection string"
_USED = "a backend that has served others says at DEBUG, at some moment, that its caches grow"

# Tests that are left out with either kind of connection.
LEFT_OUT = {
    "test_connection.ConnectionTests.test_encoding_name": _UTF8,
    "test_connection.ConnectionTests.test_get_native_connection": _NO_LIBPQ,
    "test_connection.ConnectionTests.test_multiprocess_close": _OWN_PROGRAM,
    "test_connection.ConnectionTests.test_notices_deque": _USED,
    "test_connection.ConnectionTests.test_notices_limited": _USED,
    "test_connection.ConnectionTests.test_pgconn_ptr": _NO_LIBPQ,
    "test_connection.PasswordLeakTestCase.test_leak": _SERVER,
    "test_connection.PasswordLeakTestCase.test_url_leak": _SERVER,
    "test_connection.SignalTestCase.test_bug_551_no_returning": _OWN_PROGRAM,
    "test_connection.SignalTestCase.test_bug_551_returning": _OWN_PROGRAM,
    "test_connection.TestConnectionInfo.test_error_message": "libpq's last error; errors are raised",
    "test_connection.TestConnectionInfo.test_host": "the folder of a socket that only the broker knows",
    "test_connection.TestConnectionInfo.test_socket": _NO_LIBPQ,
    "test_connection.TestConnectionInfo.test_ssl_in_use": _NO_LIBPQ,
    "test_copy.CopyTests.test_copy_bytes": _UTF8,
    "test_copy.CopyTests.test_copy_expert_textiobase": _UTF8,
    "test_copy.CopyTests.test_copy_from_propagate_error": "the file's own exception is raised, not one that quotes it",
    "test_copy.CopyTests.test_copy_from_segfault": _OWN_PROGRAM,
    "test_copy.CopyTests.test_copy_text": _UTF8,
    "test_copy.CopyTests.test_copy_to_segfault": _OWN_PROGRAM,
    "test_cancel.CancelTests.test_async_cancel": _ASYNC,
    "test_cursor.CursorTests.test_external_close_async": _ASYNC,
    "test_cursor.CursorTests.test_pgresult_ptr": "there is no result of libpq's",
    "test_dates.DatetimeTests.test_interval_iso_8601_not_supported": "IntervalStyle is the same for all clients",
    "test_errors.ErrorsTests.test_exception_class_fallback": "it takes a class out of psycopg2's own table of errors",
    "test_module.ConnectTestCase.test_async": _MADE,
    "test_module.ConnectTestCase.test_dsn": _MADE,
    "test_module.ConnectTestCase.test_empty_param": _MADE,
    "test_module.ConnectTestCase.test_escape": _MADE,
    "test_module.ConnectTestCase.test_factory": _MADE,
    "test_module.ConnectTestCase.test_generic_keywords": _MADE,
    "test_module.ConnectTestCase.test_int_port_param": _MADE,
    "test_module.ConnectTestCase.test_no_keywords": _MADE,
    "test_module.ConnectTestCase.test_params_merging": _MADE,
    "test_module.ConnectTestCase.test_supported_keywords": _MADE,
    "test_module.ConnectTestCase.test_there_might_be_nothing": _MADE,
    "test_module.ExceptionsTestCase.test_diagnostics_attributes": "diag has the same attributes, and another class",
    "test_module.ExceptionsTestCase.test_diagnostics_life": "diag does not keep the cursor alive",
    "test_module.TestExtensionModule.test_import_internal": "it imports psycopg2's C module from its folder",
    "test_quote.QuotingTestCase.test_koi8": _UTF8,
    "test_quote.QuotingTestCase.test_latin1": _UTF8,
    "test_types_extras.JsonTestCase.test_scs": _SERVER,
}
_HOLD = "a cursor WITH HOLD needs session=True"
_RETURNS = "a connection without a session outlives its backend"
_SET = "SET for later transactions needs session=True"
# And with connections that have no session.
LEFT_OUT_PLAIN = {
    "test_connection.ConnectionTests.test_cleanup_on_badconn_close": _RETURNS,
    "test_connection.IsolationLevelsTestCase.test_set_isolation_level_default": _SET,
    "test_connection.TestConnectionInfo.test_backend_pid": "only a session has a backend of its own",
    "test_connection.TransactionControlTests.test_mixing_session_attribs": _SET,
    "test_cursor.CursorTests.test_external_close_sync": _RETURNS,
    "test_cursor.NamedCursorTests.test_withhold": _HOLD,
    "test_cursor.NamedCursorTests.test_withhold_autocommit": _HOLD,
    "test_cursor.NamedCursorTests.test_withhold_no_begin": _HOLD,
}


def left_out(module: str, kind: str) -> dict[str, str]:
    """The tests of a module that are left out with this kind of connection, and why."""
    found = {**LEFT_OUT, **(LEFT_OUT_PLAIN if kind == "plain" else {})}
    return {name: why for name, why in found.items() if name.split(".")[0] == module}


def source() -> Path:
    """The folder of psycopg2's source, of the version that is installed."""
    return fetched("psycopg2", version("psycopg2-binary"))
