"""Every metric: its name and type, what it means, and where in the broker's figures its values are.

Names and units follow PgBouncer's exporter and OpenTelemetry's conventions for connection pools as far as these have a
word: base units, `_total` for what only grows. Labels are names of the configuration and words of the broker's own, so
there are no more series than these allow, whatever clients do.

https://prometheus.io/docs/practices/naming/
https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from poold.core.pools.availability import AvailabilityState
from poold.core.pools.endpoint import Role
from poold.core.state import BrokerState


class Kind(Enum):
    """What a metric is, in Prometheus's words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"  # a value is a distribution of `poold.core.figures`
    INFO = "info"  # the value is 1, and what is told are labels


class Level(Enum):
    """What one series is about."""

    BROKER = "broker"
    PROCESS = "process"
    LANE = "lane"
    GROUP = "group"
    POOL = "pool"
    ENDPOINT = "endpoint"


# The labels that all series of a level have, before the metric's own.
LABELS: dict[Level, tuple[str, ...]] = {
    Level.BROKER: (),
    Level.PROCESS: (),
    Level.LANE: (),
    Level.GROUP: ("group",),
    Level.POOL: ("group", "endpoint"),
    Level.ENDPOINT: ("endpoint",),
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Its name ends with its unit if it has one, and that of a counter with `_total`."""

    name: str
    kind: Kind
    key: str  # where its value is among the figures of its level; if that is None there is no series
    help: str
    # The value is a mapping, and each of its keys has a series with this label. Of INFO each is a label.
    label: str = ""
    # The value is one of these words, and each has a series: 1 for the one that it is, 0 for the others.
    states: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What it is counted in, as its name has it; "" if these are things."""
        base = self.name.removesuffix("_total")
        return next((unit for unit in ("seconds", "bytes") if base.endswith(f"_{unit}")), "")


def _words(states: Iterable[Enum]) -> tuple[str, ...]:
    return tuple(state.name.lower() for state in states)


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

METRICS: dict[Level, tuple[Metric, ...]] = {
    Level.BROKER: (
        Metric("poold_build_info", Kind.INFO, "build", "The release, and whether requests run in compiled code."),
        Metric("poold_state", _G, "state", "Whether the broker takes work.", "state", _words(BrokerState)),
        Metric("poold_clients", _G, "clients", "Clients that are connected."),
        Metric("poold_protocol_violations_total", _C, "violations", "Messages of clients that broke the protocol."),
        Metric("poold_dropped_replies_total", _C, "dropped", "Replies whose client was gone, or did not read."),
    ),
    Level.PROCESS: (
        Metric("process_cpu_seconds_total", _C, "cpu", "Processor time of the broker, user's and system's."),
        Metric("process_resident_memory_bytes", _G, "resident", "Memory of the broker that is not paged out."),
        Metric("process_virtual_memory_bytes", _G, "virtual", "Size of the broker's address space."),
        Metric("process_start_time_seconds", _G, "started", "When the broker's process began, since the epoch."),
        Metric("process_open_fds", _G, "descriptors", "File descriptors that are open."),
        Metric("process_max_fds", _G, "most_descriptors", "File descriptors that may be open."),
    ),
    Level.LANE: (
        Metric("poold_lane_requests_total", _C, "requests", "Requests that compiled code has run from end to end."),
        Metric("poold_lane_handovers_total", _C, "handed_over", "Backends that it gave back with what they ran."),
        Metric("poold_lane_returns_total", _C, "given_back", "Backends that it gave back at rest."),
    ),
    Level.GROUP: (
        Metric(
            "poold_group_state",
            _G,
            "state",
            "Whether requests begin; if not, whether what had begun has ended.",
            "state",
            ("running", "pausing", "paused", "draining", "drained"),
        ),
        Metric("poold_group_refused", _G, "is_refused", "1 if its endpoints do not fit together: it refuses all."),
        Metric("poold_group_clients", _G, "clients", "Clients that have used the group."),
        Metric("poold_group_max_backends", _G, "max_size", "Backends that the group may have (max_size)."),
        Metric("poold_requests_waiting", _G, "waiting", "Requests that wait for a backend.", "priority"),
        Metric("poold_oldest_wait_seconds", _G, "oldest_wait", "How long the oldest of them has waited; 0 if none."),
        Metric("poold_requests_total", _C, "requests", "Requests that were accepted."),
        Metric(
            "poold_errors_total",
            _C,
            "errors",
            "Requests answered with an error, by SQLSTATE or kind.",
            "sqlstate_class",
        ),
        Metric("poold_requests_refused_total", _C, "refused", "Requests that were not accepted.", "reason"),
        Metric("poold_request_timeouts_total", _C, "timeouts", "Requests that waited too long, and did not run."),
        Metric(
            "poold_requests_withdrawn_total", _C, "withdrawn", "Requests cancelled, or left by a client that ended."
        ),
        Metric("poold_requests_rerouted_total", _C, "rerouted", "Reads that ran on the primary, not on a replica."),
        Metric("poold_transaction_retries_total", _C, "retries", "Tries of transaction messages after the first."),
        Metric("poold_transactions_in_doubt_total", _C, "in_doubt", "Transactions of which nobody knows the outcome."),
        Metric("poold_wait_seconds", _H, "wait", "From a request's arrival to when it begins."),
        Metric("poold_run_seconds", _H, "run", "From when a request begins to its end, of each run."),
        Metric("poold_transaction_seconds", _H, "use", "How long a transaction or session held its backend.", "kind"),
    ),
    Level.POOL: (
        Metric("poold_backends", _G, "backends", "Connections to PostgreSQL.", "state"),
        Metric("poold_backends_outdated", _G, "outdated", "Of these, those that are to be replaced."),
        Metric(
            "poold_endpoint_state",
            _G,
            "state",
            "Whether the group connects to the endpoint, or waits after a failure.",
            "state",
            _words(AvailabilityState),
        ),
        Metric("poold_endpoint_serving", _G, "is_serving", "1 if the endpoint has the role that the group needs."),
        Metric("poold_endpoint_paused", _G, "is_paused", "1 if nothing begins there, by an operator's word."),
        Metric("poold_backend_requests_total", _C, "requests", "Requests that were given to backends."),
        Metric(
            "poold_backend_requests_joined_total", _C, "joined", "Of these, those that share a backend with others."
        ),
        Metric("poold_backends_opened_total", _C, "opened", "Connects that succeeded."),
        Metric("poold_connect_failures_total", _C, "failed", "Connects that failed."),
        Metric("poold_backends_closed_total", _C, "closed", "Connections that the broker has closed."),
        Metric("poold_backends_lost_total", _C, "lost", "Connections that PostgreSQL or the network has closed."),
        Metric("poold_connect_seconds", _H, "connect", "How long connects took that succeeded."),
    ),
    Level.ENDPOINT: (
        Metric("poold_endpoint_role", _G, "role", "What the server is for its cluster.", "role", _words(Role)),
        Metric("poold_endpoint_answers", _G, "answers", "1 if the server answers the question for its role."),
        Metric("poold_endpoint_timeline", _G, "timeline", "The server's timeline; a promotion begins a new one."),
        Metric("poold_endpoint_wal_bytes", _G, "position", "Position in the write-ahead log: flushed, or replayed."),
    ),
}
