"""The import rules of ARCHITECTURE.md, executed: layers look one way, the core touches nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("client/**/*.py"), *ROOT.glob("poold/**/*.py")])

# What the core may import besides itself: values, and libraries that only compute.
CORE_MAY_IMPORT = (
    "__future__", "abc", "bisect", "collections", "dataclasses", "enum", "heapq", "itertools", "re", "typing",
    "client.protocol", "client.rules", "client.sqlstates", "poold.config", "poold.core",
)  # fmt: skip
# Each library has its place: module -> the only files that may import it.
LIBRARIES = {
    "zmq": ("client/curve.py", "poold/daemon.py", "poold/keygen.py", "poold/tcp.py", "poold/zap.py"),
    "msgpack": ("client/protocol.py", "client/unpacking.py"),
    "click": ("poold/cli.py", "poold/detach.py"),
    "rich": ("poold/report.py",),
    "uvloop": ("poold/daemon.py",),
    "psycopg2": (
        "client/datarows.py", "client/errors.py", "client/parameters.py", "client/rows.py", "client/values.py",
        "poold/backend.py", "poold/connecting.py", "poold/daemon.py", "poold/embedded.py", "poold/libpq.py",
    ),
}  # fmt: skip
# Modules of poold below the daemon do not know it, nor the command line; a line says who may import whom.
KNOWN_BY = {
    "poold.cli": ("poold/__main__.py",),
    "poold.daemon": ("poold/cli.py",),
    "poold.frontend": ("poold/daemon.py", "poold/ipc.py", "poold/tcp.py"),
    "poold.backend": ("poold/daemon.py",),
}
MAX_LINES = 400


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
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


def test_the_rules_name_only_files_that_exist() -> None:
    known = {relative(path) for path in MODULES}
    named = {place for places in [*LIBRARIES.values(), *KNOWN_BY.values()] for place in places}
    assert named <= known
