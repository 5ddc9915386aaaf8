"""Run some of psycopg2's own tests with client.dbapi in psycopg2's place; a program of test_psycopg2_upstream.py.

Arguments: the folder of psycopg2's source, the broker's address, 'plain' or 'session', the name of a test module, and
the names of tests that are left out. It prints a line of JSON for each test: its name, what became of it, and why.
"""

import contextlib
import importlib
import json
import sys
import types
import unittest
from typing import Any

import client.dbapi
from client.dbapi.connecting import connect


class Outcomes(unittest.TestResult):
    """Says what became of each test."""

    def __init__(self, left_out: set[str]) -> None:
        super().__init__()
        self._left_out = left_out

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802  unittest's name
        tell(test, "passed", "")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802  unittest's name
        tell(test, "skipped", reason)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802  unittest's name
        tell(test, "failed", self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    addError = addFailure  # noqa: N815  unittest's name

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:  # noqa: N802  unittest's name
        if err is not None:
            tell(test, "failed", self._exc_info_to_string(err, test))  # type: ignore[attr-defined]


def name_of(test: unittest.TestCase) -> str:
    return ".".join(test.id().split(".")[1:])


def tell(test: unittest.TestCase, outcome: str, why: str) -> None:
    print(json.dumps([name_of(test), outcome, why]), flush=True)


def each(suite: unittest.TestSuite) -> list[unittest.TestCase]:
    found: list[unittest.TestCase] = []
    for test in suite:
        found += each(test) if isinstance(test, unittest.TestSuite) else [test]
    return found


def main(folder: str, address: str, kind: str, module: str, *left_out: str) -> None:
    def replaced(dsn: str | None = None, connection_factory: Any = None, **options: Any) -> Any:
        options.setdefault("session", kind == "session")
        return connect(dsn, connection_factory, **options)

    vars(client.dbapi)["connect"] = replaced
    for name in [name for name in sys.modules if name.split(".")[0] == "psycopg2"]:
        if name.replace("psycopg2", "client.dbapi", 1) in sys.modules:
            sys.modules[name] = sys.modules[name.replace("psycopg2", "client.dbapi", 1)]
    # Which is psycopg2's own here too; tests look into it.
    vars(client.dbapi)["_psycopg"] = sys.modules["psycopg2._psycopg"]
    # Not the package itself, which imports tests of what is not here.
    package = types.ModuleType("tests")
    package.__path__ = [f"{folder}/tests"]
    sys.modules["tests"] = package
    config = importlib.import_module("tests.testconfig")
    with contextlib.closing(connect(address)) as connection:
        vars(config).update(dsn=address, dbname=connection.info.dbname)
    suite = unittest.TestLoader().loadTestsFromModule(importlib.import_module(f"tests.{module}"))
    for test in each(suite):
        if name_of(test) in left_out:
            tell(test, "left out", "")
        else:
            unittest.TestSuite([test]).run(Outcomes(set(left_out)))


if __name__ == "__main__":
    main(*sys.argv[1:])
