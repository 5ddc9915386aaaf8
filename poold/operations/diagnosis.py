"""Trying everything that a configuration needs, and saying for each thing that is not well what to do.

Nothing is started or changed. What is wrong with the file itself is no reason to stop: what is right of it is tried, so
that one run tells everything.
"""

from __future__ import annotations

from pathlib import Path

from poold.config.file import ConfigError, load
from poold.config.usable import Usable
from poold.operations.findings import OK, PROBLEM, Finding
from poold.operations.host_findings import exposures, host_findings
from poold.operations.server_findings import server_findings
from poold.postgres.examination import examine


def diagnose(file: Path, is_brief: bool = False) -> list[Finding]:
    """Return what was found; is_brief: only the file, logins, versions, limits and roles."""
    try:
        found: Usable | None = Usable(load(file), {})
        problems: list[str] = []
    except ConfigError as error:
        found, problems = error.usable, error.problems
    findings = [Finding("configuration", PROBLEM, each, f"correct {file}") for each in problems]
    if found is None:
        return findings
    config = found.config
    if not problems:
        findings.append(Finding("configuration", OK, f"{file} is good"))
    findings += exposures(config, file)
    if not is_brief and not any(each.startswith("[broker]") for each in problems):
        findings += host_findings(config)
    return [*findings, *server_findings(config, examine(found.for_logins), is_brief)]
