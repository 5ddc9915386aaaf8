"""What `import client` loads: a worker's start should cost little more than psycopg2's."""

import json
import subprocess
import sys

# Each costs milliseconds in every worker, and is needed by none of them, or only now and then.
HEAVY = {
    "asyncio", "click", "client.channels.curve", "client.channels.permissions", "client.dbapi", "client.sqlalchemy",
    "concurrent", "dataclasses", "email", "hashlib", "http", "importlib.metadata", "importlib.resources", "inspect",
    "multiprocessing", "poold", "random", "rich", "secrets", "sqlalchemy", "ssl", "subprocess", "tempfile", "tomllib",
    "uvloop", "zipfile", "zmq",
}  # fmt: skip
# Without site, whose .pth files import things of their own.
PROGRAM = """
import sys
sys.path[:0] = {path!r}
import psycopg2
before = set(sys.modules)
import {module}
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded_by(module: str) -> set[str]:
    """The modules that it loads beyond psycopg2's."""
    program = PROGRAM.format(path=[each for each in sys.path if each], module=module)
    command = [sys.executable, "-I", "-S", "-c", program]
    return set(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def test_import_client_loads_nothing_that_a_worker_does_not_need() -> None:
    loaded = loaded_by("client")
    assert "client.handler" in loaded
    assert {name for name in HEAVY if name in loaded or any(each.startswith(f"{name}.") for each in loaded)} == set()


def test_what_is_heavy_is_found_if_something_loads_it() -> None:
    assert {"client.channels.curve", "zmq"} <= loaded_by("client.channels.curve")
