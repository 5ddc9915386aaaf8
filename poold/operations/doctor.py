"""`poold doctor`, and `poold check-config --connect`, which is the same in short: what they print."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from poold.operations.asking import GivenPath, PlainCommand, json_option, print_json
from poold.operations.findings import PROBLEM, WARNING, Finding
from poold.operations.log_format import printable_lines


@click.command(cls=PlainCommand)
@click.argument("file", type=GivenPath())
@json_option
def doctor(file: Path, as_json: bool) -> None:
    """Try all that a configuration needs, logins above all, and say what to do; exit code 1 if there is a problem."""
    sys.exit(examined(file, as_json))


def examined(file: Path, as_json: bool, is_brief: bool = False) -> int:
    """Print what is found; returns the exit code: 1 if something is a problem."""
    # Only here, as it brings all that connects to PostgreSQL.
    from poold.operations.diagnosis import diagnose

    findings = diagnose(file, is_brief)
    problems = _texts(findings, PROBLEM)
    if as_json:
        plain = [each.plain() for each in findings]
        warnings = _texts(findings, WARNING)
        whole = {"ok": not problems, "problems": problems, "warnings": warnings, "findings": plain}
        print_json(whole)
    else:
        for each in findings:
            click.echo(printable_lines(str(each)))
    return 1 if problems else 0


def _texts(findings: list[Finding], level: str) -> list[str]:
    return [f"{each.subject}: {each.text}" for each in findings if each.level == level]
