"""Other projects' test suites, run in processes of their own, and what became of each of their tests."""

import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from brokers import ROOT, environment

# Seconds for one suite; the longest takes three minutes.
PATIENCE = 1500.0
# A test's name has the driver and the server's version, of which what is known of a test says nothing.
_DRIVER = re.compile(r"_postgresql\+\w+")


@dataclass
class Outcome:
    """What became of a suite's tests, by `folder.file.Class.test[parameters]`; reasons are those that pytest gives."""

    passed: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{len(self.passed)} passed, {len(self.skipped)} skipped, {len(self.failed)} failed"


def run_suite(source: Path, paths: Sequence[str], options: Sequence[str], folders: Sequence[Path]) -> Outcome:
    """Run the tests at these paths of a source distribution; folders are where its programs find modules first.

    They run in a copy: what a run that is interrupted leaves in its folders makes the next one fail.
    """
    with tempfile.TemporaryDirectory() as made:
        copy = shutil.copytree(source, Path(made) / source.name)
        report = Path(made) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        own = ["-o", "addopts=-p warnings -p logging", "--maxfail=0", *options, *paths]
        variables = environment(PYTHONPATH=":".join(map(str, (*folders, ROOT))), PYTHONDONTWRITEBYTECODE="1")
        done = subprocess.run(
            [*command, *own],
            cwd=copy,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        # 1: some tests failed.
        assert done.returncode in (0, 1), f"the suite did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return _read(report)


def _read(report: Path) -> Outcome:
    """What pytest's report in JUnit's form says."""
    outcome = Outcome()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = _DRIVER.sub("", f"{case.get('classname')}.{case.get('name')}")
        found = [each for each in case if each.tag in ("failure", "error", "skipped")]
        message = (found[0].get("message") or "") if found else ""
        if not found:
            outcome.passed.add(name)
        elif found[0].tag == "skipped":
            outcome.skipped[name] = message
        else:
            outcome.failed[name] = message
    # A test that passed and whose fixture failed is there twice.
    outcome.passed -= outcome.failed.keys()
    return outcome
