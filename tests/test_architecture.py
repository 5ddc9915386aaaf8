"""The import rules of ARCHITECTURE.md, executed: layers look one way, the core touches nothing."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import poold

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("client/**/*.py"), *ROOT.glob("poold/**/*.py")])
# Compiled modules, and what they tell each other.
COMPILED = sorted([*ROOT.glob("client/**/*.p[yx][xd]"), *ROOT.glob("poold/**/*.p[yx][xd]")])

# What the core may import besides itself: values, and libraries that only compute.
CORE_MAY_IMPORT = (
    "__future__", "abc", "bisect", "collections", "dataclasses", "enum", "functools", "heapq", "itertools", "re",
    "typing",
    "client.wire.arguments", "client.wire.codec", "client.wire.commits", "client.wire.cursors", "client.wire.limits",
    "client.wire.masking", "client.wire.messages", "client.wire.origins", "client.wire.sqlstates",
    "poold.config.changes", "poold.config.current", "poold.config.model", "poold.core",
)  # fmt: skip
# Which room may import which: a room is a package, or a file that stands beside packages. What stands beside packages
# and is not named here may import what it needs, as long as no circle comes of it.
ROOMS = {
    "client.wire": ["client.interruptions"],
    "client.lane": [],
    "client.values": ["client.compiled", "client.interruptions", "client.wire"],
    "client.dbapi": [
        "client.errors", "client.handler", "client.interruptions", "client.options", "client.session",
        "client.values", "client.wire",
    ],
    "client.channels": ["client.compiled", "client.errors", "client.interruptions", "client.wire"],
    "poold.system": ["client.wire"],
    "poold.config": ["client.wire", "poold.system"],
    "poold.embedded": ["client.wire", "poold.config", "poold.system"],
    "poold.postgres": [
        "client.compiled", "client.values", "client.wire", "poold.config", "poold.core.broker", "poold.core.effects",
        "poold.core.facts", "poold.core.pools", "poold.core.records", "poold.system",
    ],
    "poold.clients": [
        "client.wire", "poold", "poold.config", "poold.core.broker", "poold.core.clients", "poold.system",
    ],
    "poold.metrics": ["poold.core.pools", "poold.core.state", "poold.system"],
    # A client like any other: nothing of the broker's.
    "poold.django": ["client.dbapi", "client.errors", "client.handler", "client.values"],
    "poold.operations": [
        "client.channels", "client.errors", "client.wire", "poold", "poold.config", "poold.daemon", "poold.embedded",
        "poold.inheriting", "poold.postgres", "poold.system", "poold.versions",
    ],
    "poold.core.statements": ["client.wire", "poold.core.effects", "poold.core.facts"],
    "poold.core.records": ["client.wire", "poold.core.facts", "poold.core.state", "poold.core.statements"],
    "poold.core.shared": ["poold.core.records"],
    "poold.core.work": [
        "client.wire", "poold.core.effects", "poold.core.facts", "poold.core.records", "poold.core.state",
        "poold.core.statements", "poold.core.stats",
    ],
    "poold.core.pools": [
        "client.wire", "poold.config", "poold.core.agenda", "poold.core.effects", "poold.core.facts",
        "poold.core.records", "poold.core.shared", "poold.core.state", "poold.core.statements", "poold.core.stats",
        "poold.core.tallies", "poold.core.timers", "poold.core.work",
    ],
    "poold.core.clients": [
        "client.wire", "poold.config", "poold.core.agenda", "poold.core.effects", "poold.core.pools",
        "poold.core.records", "poold.core.state", "poold.core.statements", "poold.core.stats", "poold.core.tallies",
        "poold.core.work",
    ],
    "poold.core.operations": [
        "client.wire", "poold.config", "poold.core.agenda", "poold.core.clients", "poold.core.effects",
        "poold.core.pools", "poold.core.records", "poold.core.requests", "poold.core.state", "poold.core.statements",
        "poold.core.work",
    ],
    "poold.core.sections": [
        "client.wire", "poold.core.operations", "poold.core.pools", "poold.core.records", "poold.core.state",
        "poold.core.tallies",
    ],
    "poold.core.requests": [
        "client.wire", "poold.config", "poold.core.agenda", "poold.core.clients", "poold.core.effects",
        "poold.core.facts", "poold.core.pools", "poold.core.records", "poold.core.state", "poold.core.statements",
        "poold.core.work",
    ],
}  # fmt: skip
# Packages beside which files may stand.
HOUSES = ("client", "poold", "poold.core")
# These say of what types they hold other things; only a type checker reads that, so it makes no circle.
ONLY_TYPES = ("poold.core.agenda", "poold.core.effects", "poold.core.records", "poold.core.statements")
# Each library has its place: module -> the only files that may import it.
LIBRARIES = {
    "zmq": (
        "client/channels/curve.py", "poold/clients/curve_auth.py", "poold/clients/tcp.py",
        "poold/operations/keygen.py", "poold/versions.py",
    ),
    "msgpack": ("client/wire/codec.py", "client/wire/unpacking.py"),
    "click": (
        "poold/operations/asking.py", "poold/operations/cli.py", "poold/operations/detach.py",
        "poold/operations/doctor.py", "poold/operations/figures.py", "poold/operations/health.py",
        "poold/operations/start.py", "poold/operations/top.py",
        "poold/operations/orders.py", "poold/operations/replacement.py",
    ),
    "rich": ("poold/operations/cells.py", "poold/operations/figures.py", "poold/operations/layout.py",
        "poold/operations/screen.py",),
    "uvloop": ("poold/daemon.py",),
    "sqlalchemy": ("client/sqlalchemy.py",),
    "psycopg2": (
        "client/dbapi/__init__.py", "client/dbapi/addresses.py", "client/dbapi/characteristics.py",
        "client/dbapi/connection.py", "client/dbapi/copying.py", "client/dbapi/cursor.py", "client/dbapi/errorcodes.py",
        "client/dbapi/errors.py", "client/dbapi/executors.py",
        "client/dbapi/extensions.py", "client/dbapi/extras.py", "client/dbapi/info.py", "client/dbapi/modes.py",
        "client/dbapi/factories.py", "client/dbapi/guards.py", "client/dbapi/named.py", "client/dbapi/pool.py",
        "client/dbapi/rows.py", "client/dbapi/sent.py",
        "client/dbapi/sql.py",
        "client/dbapi/two_phase.py", "client/dbapi/tz.py", "client/errors.py", "client/values/bind.py",
        "client/values/casting.py", "client/values/offline.py",
        "client/values/result.py", "poold/embedded/server.py", "poold/postgres/backend.py",
        "poold/postgres/backends.py", "poold/postgres/blockers.py", "poold/postgres/connect.py",
        "poold/postgres/examination.py",
        "poold/postgres/libpq.py",
        "poold/postgres/observation.py", "poold/versions.py",
    ),
}  # fmt: skip
# Modules of poold below the daemon do not know it, nor the command line; a line says who may import whom.
KNOWN_BY = {
    "poold.operations.cli": ("poold/__main__.py",),
    "poold.daemon": ("poold/operations/cli.py", "poold/operations/start.py"),
    "poold.clients.frontend": (
        "poold/answers.py",
        "poold/daemon.py",
        "poold/inheriting.py",
        "poold/predecessors.py",
        "poold/replacing.py",
    ),
    "poold.clients.ipc": ("poold/clients/ipc_peer.py", "poold/listening.py"),
    "poold.clients.tcp": ("poold/listening.py",),
    "poold.postgres.backends": ("poold/daemon.py", "poold/postgres/backend.py"),
}
# What compiled code of the client may import besides its own room: what it needs of the client it is given.
LANE_MAY_IMPORT = (
    "client.lane",
    "cpython",
    "datetime",
    "decimal",
    "functools",
    "libc",
    "posix",
    "psycopg2",
    "sys",
    "uuid",
)
MAX_LINES = 400


def statements(node: ast.AST, types_too: bool = True) -> Iterator[ast.AST]:
    """What stands in a file, down to the last line; without types_too not what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if types_too or not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from statements(child, types_too)


def imports(path: Path, types_too: bool = True) -> Iterator[str]:
    for node in statements(ast.parse(path.read_text()), types_too):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {module_of(path) for path in MODULES}


def room_of(module: str) -> str:
    """The package that holds the module, or itself if it stands beside packages."""
    parent = module.rpartition(".")[0]
    return module if parent in ("", *HOUSES) else parent


def used_modules(path: Path, types_too: bool = True) -> set[str]:
    """Modules of poold and client that this one imports: a name's own module, if the name is one.

    A package that takes in its own modules imports them, and not itself.
    """
    names = {name for name in imports(path, types_too) if name in NAMES and name != module_of(path)}
    return {name for name in names if not (name in HOUSES and any(each.startswith(name + ".") for each in names))}


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Those that reach themselves."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for each in arrows.get(waiting.pop(), ()):
                if each not in found:
                    found.add(each)
                    waiting.append(each)
        return found

    return sorted(each for each in arrows if each in reached(each))


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_each_module_imports_only_what_its_layer_may(path: Path) -> None:
    here = relative(path)
    for name in imports(path):
        if here.startswith("client/"):
            assert not is_within(name, "poold"), f"{here} imports {name}: client never imports poold"
        if here.startswith("poold/core/"):
            assert any(is_within(name, allowed) for allowed in CORE_MAY_IMPORT), f"{here} imports {name}: not pure"
        for library, places in LIBRARIES.items():
            if is_within(name, library):
                assert here in places, f"{here} imports {library}, which belongs to {', '.join(places)}"
        for module, knowers in KNOWN_BY.items():
            if is_within(name, module):
                assert here in knowers, f"{here} imports {module}, which only {', '.join(knowers)} may know"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_each_module_says_its_job_and_stays_a_ten_minute_read(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{relative(path)} has no docstring"
    assert len(text.splitlines()) <= MAX_LINES, f"{relative(path)} asks for a second noun"


@pytest.mark.parametrize("path", COMPILED, ids=relative)
def test_each_compiled_module_says_its_job_stays_a_ten_minute_read_and_imports_only_what_it_may(path: Path) -> None:
    text = path.read_text()
    assert text.startswith('"""'), f"{relative(path)} has no docstring"
    assert len(text.splitlines()) <= MAX_LINES, f"{relative(path)} asks for a second noun"
    if path.is_relative_to(ROOT / "client"):
        for name in re.findall(r"^\s*(?:from|c?import)\s+([\w.]+)", text, re.MULTILINE):
            assert any(is_within(name, allowed) for allowed in LANE_MAY_IMPORT), f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_each_room_imports_only_what_it_may(path: Path) -> None:
    room = room_of(module_of(path))
    if room not in ROOMS:
        return
    for name in used_modules(path, types_too=room not in ONLY_TYPES):
        other = room_of(name)
        assert other in (room, *ROOMS[room]), f"{relative(path)} imports {name}: {room} must not know {other}"


def test_no_room_needs_another_that_needs_it() -> None:
    arrows: dict[str, set[str]] = {}
    for path in MODULES:
        room = room_of(module_of(path))
        used = used_modules(path, types_too=room not in ONLY_TYPES)
        arrows.setdefault(room, set()).update(other for name in used if (other := room_of(name)) != room)
    assert not circles(arrows)
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_no_module_needs_another_that_needs_it() -> None:
    assert not circles({module_of(path): used_modules(path, types_too=False) for path in MODULES})


def test_workers_find_the_handler_in_either_package_and_load_nothing_of_the_broker() -> None:
    program = (
        "import sys\nfrom poold import Handler\nimport client\nassert Handler is client.Handler\n"
        "print(*(name for name in sys.modules if name.startswith('poold.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
    with pytest.raises(AttributeError, match="what workers use is in the package client"):
        poold.Handlers  # noqa: B018


def test_the_rules_name_only_files_that_exist() -> None:
    known = {relative(path) for path in MODULES}
    named = {place for places in [*LIBRARIES.values(), *KNOWN_BY.values()] for place in places}
    assert named <= known
    rooms = {room_of(name) for name in NAMES}
    assert {*ROOMS, *(each for known in ROOMS.values() for each in known)} <= rooms
