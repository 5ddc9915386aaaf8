"""Who is measured: the contestants by name, and what each needs between its workers and PostgreSQL."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from benchmark import pgbouncer
from benchmark.broker import Broker
from benchmark.contestants import Contestant, Poold, PooldInteractive, Psycopg2
from benchmark.service import ServiceError
from poold.embedded.programs import Account

POOLD, POOLD_INTERACTIVE = "poold", "poold interactive"
# As poold, with other settings: to see what they cost or bring.
POOLD_ALONE, POOLD_TRACKED = "poold, no pipelines", "poold, tracked"
# As poold, while many other sessions are open and do nothing: to see what they cost those at work.
POOLD_CROWDED, CROWD = "poold, 1,000 connected", 1000
OWN, PGBOUNCER = "own connections", "pgbouncer"
PSYCOPG3_PGBOUNCER, PSYCOPG3_OWN, PSYCOPG_POOL = "psycopg 3 through pgbouncer", "psycopg 3 own", "psycopg_pool"
PGDBPOOL = "pgdbpool"


class Middle(Protocol):
    """A process between workers and PostgreSQL: `benchmark.service.Service` does most of it."""

    @property
    def pid(self) -> int: ...
    def launch(self) -> None: ...
    def stop(self) -> int | None: ...
    def check(self) -> None: ...
    def last_words(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Site:
    """Where a contestant is set up."""

    folder: Path
    dsn: str  # of PostgreSQL, or of the network before it
    backends: int  # that a pool shared by all workers may have
    sessions: int  # that will be open
    account: Account  # that PostgreSQL runs as


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant, and the process between its workers and PostgreSQL, if there is one; it is not started yet."""

    contestant: Contestant
    middle: Middle | None
    connected: int = 0  # sessions that are open, at work or not, where these are more than the run asks for


def names() -> list[str]:
    """All of them, in the table's order."""
    return list(_MAKERS)


def missing(name: str, install: bool) -> str | None:
    """What would have to be installed for this contestant; None where nothing is missing. install may change that."""
    for module in _MODULES.get(name, ()):
        if find_spec(module) is None:
            return module
    if name in (PGBOUNCER, PSYCOPG3_PGBOUNCER) and pgbouncer.find(install) is None:
        return "pgbouncer"
    return None


def has_objects(name: str) -> bool:
    """Whether SQLAlchemy's ORM can go this way."""
    return _MAKERS[name] in (_poold, _poold_interactive, _own, _pgbouncer)


def enter(name: str, site: Site) -> Entry:
    """The contestant for that site."""
    return _MAKERS[name](name, site)


def _poold(name: str, site: Site) -> Entry:
    broker = Broker(site.folder, site.dsn, site.backends, _SETTINGS[name])
    return Entry(Poold(name, broker.address), broker, CROWD if name == POOLD_CROWDED else 0)


def _poold_interactive(name: str, site: Site) -> Entry:
    broker = Broker(site.folder, site.dsn, site.backends)
    return Entry(PooldInteractive(name, broker.address), broker)


def _own(name: str, site: Site) -> Entry:
    return Entry(Psycopg2(name, site.dsn), None)


def _bouncer(site: Site) -> pgbouncer.PgBouncer:
    program = pgbouncer.find(may_install=False)
    if program is None:
        raise ServiceError("pgbouncer was there a moment ago and is gone")
    folder = site.folder / "pgbouncer"
    return pgbouncer.PgBouncer(program, folder, site.dsn, site.backends, site.account, site.sessions)


def _pgbouncer(name: str, site: Site) -> Entry:
    bouncer = _bouncer(site)
    return Entry(Psycopg2(name, bouncer.dsn), bouncer)


# What needs packages of the extra `bench` is imported where it is asked for: the rest works without them.


def _psycopg3_pgbouncer(name: str, site: Site) -> Entry:
    from benchmark.psycopg3 import Psycopg3

    bouncer = _bouncer(site)
    return Entry(Psycopg3(name, bouncer.dsn, prepares=False), bouncer)


def _psycopg3_own(name: str, site: Site) -> Entry:
    from benchmark.psycopg3 import Psycopg3

    return Entry(Psycopg3(name, site.dsn, prepares=True), None)


def _psycopg_pool(name: str, site: Site) -> Entry:
    from benchmark.psycopg3 import PsycopgPool

    return Entry(PsycopgPool(name, site.dsn), None)


def _pgdbpool(name: str, site: Site) -> Entry:
    from benchmark.ancestor import PgDbPool

    return Entry(PgDbPool(name, site.dsn), None)


_MAKERS: dict[str, Callable[[str, Site], Entry]] = {
    POOLD: _poold,
    POOLD_INTERACTIVE: _poold_interactive,
    POOLD_ALONE: _poold,
    POOLD_TRACKED: _poold,
    POOLD_CROWDED: _poold,
    OWN: _own,
    PGBOUNCER: _pgbouncer,
    PSYCOPG3_PGBOUNCER: _psycopg3_pgbouncer,
    PSYCOPG3_OWN: _psycopg3_own,
    PSYCOPG_POOL: _psycopg_pool,
    PGDBPOOL: _pgdbpool,
}
# What the groups of these have beyond their defaults, as lines of the configuration.
_SETTINGS = {POOLD: "", POOLD_CROWDED: "", POOLD_ALONE: "pipeline_depth = 1", POOLD_TRACKED: "track_outcome = true"}
# Packages without which a contestant cannot be measured.
_MODULES = {
    PSYCOPG3_PGBOUNCER: ("psycopg",),
    PSYCOPG3_OWN: ("psycopg",),
    PSYCOPG_POOL: ("psycopg", "psycopg_pool"),
    PGDBPOOL: ("pgdbpool",),
}
