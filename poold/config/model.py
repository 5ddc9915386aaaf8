"""The configuration as frozen values, on which the rest of the program relies.

`poold.config.file` makes them from TOML and has checked them by then. Durations are seconds, sizes are bytes. The text
in each field's metadata is quoted by error messages about the key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from client.wire.address import default_address
from client.wire.limits import MAX_REQUEST_BYTES, MAX_RESULT_BYTES

# Sizes of PostgreSQL, and their bytes.
SIZES = {"kB": 1024, "MB": 1024**2, "GB": 1024**3}
# In an endpoint's application_name it stands for the group's name.
GROUP = "{group}"
# In allow_users an entry that begins so names a client's key.
KEY_PREFIX = "key:"
# What a reload does about a changed key, if it is more than to let it hold from then on: it needs a restart; it needs
# an end and a start, as the socket that a restart hands over is bound to it; backends are replaced, each as soon as it
# rests; and that, as they lead elsewhere.
RESTART, START, REPLACE, MOVE = "restart", "start", "replace", "move"


def setting(help: str, default: Any = ..., minimum: float | None = None, **more: Any) -> Any:
    """Make a dataclass field with its rules: help, the least value, and in more what else a Rule has, as choices.

    reload=RESTART, START, REPLACE or MOVE tells what a reload does about it.
    """
    metadata = {"help": help, "minimum": minimum, **more}
    is_shown = not more.get("secret")
    return (
        field(repr=is_shown, metadata=metadata)
        if default is ...
        else field(default=default, repr=is_shown, metadata=metadata)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """`[broker]`: one broker process."""

    address: str = setting("ipc:///absolute/path or tcp://HOST:PORT", default_address(), reload=START)
    key_file: str | None = setting("the broker's secret key, made by poold keygen; for tcp://", None, reload=RESTART)
    client_keys: str | None = setting(
        "a folder with the public keys (*.key) of the clients that may connect", None, reload=RESTART
    )
    max_request_bytes: int = setting("the largest request a client may send", MAX_REQUEST_BYTES, 4096, reload=RESTART)
    max_result_bytes: int = setting("the largest result a client can get", MAX_RESULT_BYTES, 4096, reload=RESTART)
    max_clients: int = setting("clients at once over ipc://; 0 is as many as there are descriptors", 0, 0)
    client_buffer_bytes: int = setting("replies a client may leave unread before it is not read from", 16777216, 65536)
    max_client_requests: int = setting("unanswered requests of one client; 0 is no limit", 2000, 0)
    max_client_bytes: int = setting("their bytes; a single request may always come; 0 is no limit", 67108864, 0)
    max_buffered_bytes: int = setting(
        "replies that all clients together leave unread, and as much of requests that wait; who holds most pays",
        134217728,
        1048576,
    )
    client_write_timeout: float = setting("how long it may do so before it is dropped", 30.0, 0.1)
    client_idle_timeout: float = setting("a client that sends nothing for longer is disconnected; 0 is never", 0.0, 0)
    allow_uids: tuple[int, ...] = setting(
        "users who may connect, by number; left out: the socket file's mode decides", ()
    )
    allow_gids: tuple[int, ...] = setting("groups who may connect, by number", ())
    admin_uids: tuple[int, ...] = setting(
        "users who may stop, pause and reload the broker and end what others run, by number; root and its own may", ()
    )
    drain_timeout: float = setting("how long `poold stop` waits for running work", 30.0, 0)
    role_check_interval: float = setting("how often endpoints that have roles are asked for theirs", 1.0, 0.05)
    metrics_address: str | None = setting(
        "HOST:PORT where GET /metrics is answered, for Prometheus; left out: nowhere", None, reload=RESTART
    )
    state_dir: str | None = setting(
        "a folder to remember the newest timeline of each database cluster in; left out: the user's own",
        None,
        reload=RESTART,
    )

    log_format: str = setting(
        "text: for people; json: one object a line", "text", choices=("text", "json"), reload=RESTART
    )

    @property
    def has_lists(self) -> bool:
        """Whether lists say who may connect over ipc://, instead of the modes of socket and folder."""
        return bool(self.allow_uids or self.allow_gids)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """`[endpoints.NAME]`: one PostgreSQL address and how to log in there."""

    host: str = setting("a host name, an IP address or the folder of a unix socket", reload=MOVE)
    port: int = setting("the port", 5432, 1, maximum=65535, reload=MOVE)
    dbname: str = setting("the database", reload=MOVE)
    user: str = setting("the role", reload=REPLACE)
    password: str | None = setting("the password itself; password_file is better", None, secret=True, reload=REPLACE)
    password_file: str | None = setting("a file whose first line is the password", None)
    password_env: str | None = setting("an environment variable that holds the password", None)
    sslmode: str = setting(
        "as in libpq",
        "prefer",
        choices=("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
        reload=REPLACE,
    )
    sslrootcert: str | None = setting("a file with the certificates of trusted authorities", None, reload=REPLACE)
    sslcert: str | None = setting("a file with the client's certificate", None, reload=REPLACE)
    sslkey: str | None = setting("a file with the client's key", None, reload=REPLACE)
    sslcrl: str | None = setting("a file with revoked certificates", None, reload=REPLACE)
    channel_binding: str = setting(
        "require: the password's proof is bound to the server's certificate, or there is no connection",
        "prefer",
        choices=("prefer", "require", "disable"),
        reload=REPLACE,
    )
    connect_timeout: float = setting("how long opening a backend may take", 10.0, 0.1)
    query_timeout: float = setting("the server's statement_timeout; 0 is none", 5.0, 0, reload=REPLACE)
    temp_buffers: str = setting(
        "PostgreSQL's temp_buffers, as in '128MB'", "128MB", pattern=r"\d+(kB|MB|GB)", reload=REPLACE
    )
    options: str = setting("further server options, as in '-c work_mem=64MB'", "", reload=REPLACE)
    application_name: str = setting("what pg_stat_activity shows; {group} is the group's name", "poold", reload=REPLACE)
    weight: float = setting("its part of the work, in proportion to the other endpoints of a group", 1.0, 0.001)

    def named(self, group: str) -> "EndpointConfig":
        """The same with this group's name in application_name, if it is to be there."""
        return replace(self, application_name=self.application_name.replace(GROUP, group))


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Turns of each priority, in proportion to the others'."""

    interactive: int = 16
    normal: int = 4
    batch: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """`[groups.NAME]`: what clients ask for by name."""

    endpoints: tuple[str, ...] = setting("the names of its endpoints; all when left out", ())
    role: str = setting(
        "which endpoints do the work: those that are the primary, those that are replicas, or any; "
        "auto: primary if there are several, any if there is one",
        "auto",
        choices=("auto", "primary", "replica", "prefer-replica", "any"),
    )
    route_reads: bool = setting("true: statements that are proven to be plain reads run on replicas", False)
    max_lag: float | str = setting("a replica that is further behind is left out; 0 is no limit", 10.0)
    catch_up: float = setting("how long a read waits for a replica to have what its process has written", 0.05, 0)
    min_size: int = setting("backends kept open", 1, 0)
    max_size: int = setting("backends at most, over all endpoints", 8, 1)
    autocommit: bool = setting("true: each statement by itself; false: transactions by lease", True, reload=RESTART)
    legacy_session: bool = setting(
        "true: the with block of a Handler is a session, as in pgdbpool", False, reload=RESTART
    )
    max_waiting: int = setting("requests that may wait; more are refused; 0 is no limit", 10_000, 0)
    queue_timeout: float = setting("how long a request waits for a backend", 30.0, 0.001)
    weights: Weights = setting("turns of each priority, in proportion", Weights())  # noqa: RUF009  a frozen value
    batch_share: float = setting("the part of max_size that requests of priority batch may hold", 0.5, 0, maximum=1)
    max_idle: float = setting("a backend above min_size idle for longer is closed", 600.0, 0.1)
    max_lifetime: float = setting("an older backend is replaced; 0 is never", 3600.0, 0)
    idle_in_transaction_timeout: float = setting("a lease idle for longer is rolled back; 0 is never", 60.0, 0)
    lease_timeout: float = setting("a lease held for longer is rolled back; 0 is never", 600.0, 0)
    read_only: bool = setting("true: statements can write nothing to the database", False, reload=REPLACE)
    prepare: str = setting(
        "auto: statements seen often are prepared; off: never", "auto", choices=("auto", "off"), reload=REPLACE
    )
    plans: str = setting(
        "custom: prepared statements are planned for their values, as literals are; auto: as PostgreSQL decides",
        "custom",
        choices=("custom", "auto"),
        reload=REPLACE,
    )
    proofs: bool = setting(
        "true: what statements are is found out, by trees that PostgreSQL logs as well", True, reload=REPLACE
    )
    pipeline_depth: int = setting("short autocommit statements that may share a backend; 1 is none", 16, 1)
    track_outcome: bool = setting("find out what became of a COMMIT whose answer was lost; costs 8 % of TPC-B", False)
    show_tags: str = setting(
        "how requests' tags are shown in PostgreSQL: off, application_name, or comment",
        "off",
        choices=("off", "application_name", "comment"),
    )
    log_slow: float = setting("log what runs, or is open, for longer; 0 is never", 0.0, 0)
    log_long_wait: float = setting("log what waits for a backend for longer; 0 is never", 0.0, 0)
    allow_users: tuple[str, ...] = setting("users who may use it: names, numbers, or key:NAME; all when left out", ())
    sqlprepare: bool = setting('call "SQLPrepare"."PrepareQueries"() on each new backend', False, reload=REPLACE)

    @property
    def wanted(self) -> str:
        """The role, "auto" resolved."""
        return self.role if self.role != "auto" else "any" if len(self.endpoints) == 1 else "primary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything `poold start` needs.

    Each group's `endpoints` is resolved: never empty, all of them known. `allow_users` has only numbers and key:NAME.
    """

    broker: BrokerConfig
    endpoints: Mapping[str, EndpointConfig]
    groups: Mapping[str, GroupConfig]
