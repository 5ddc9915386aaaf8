"""Feeds hostile inputs to every decoder that reads a stranger's bytes: those of tests/fuzz, for as long as you like.

An input is a finding where the decoder raises what is none of its errors, holds far more memory than the input has
bytes, or takes more than a second per megabyte. It is kept in a file, and belongs into tests/fuzz/test_findings.py.

Two engines make the inputs. `own` follows a seed, and goes on from what made a decoder say something new; it is fast.
`atheris` (https://github.com/google/atheris) watches which branches are taken; it makes a fifth as many inputs.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
# The decoders are the tests'.
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "fuzz")]

ENGINES = ("own", "atheris")
# Each such input's memory is measured, which takes several times as long as the decoder does.
MEASURED_EACH = 50
# Each such input is a large one, so that what is not linear shows.
GROWN_EACH = 500
GROWN_BYTES = 500_000
SLOW_SECONDS_PER_BYTE = 1e-6
# What takes less than this is not slow, whatever its size: the clock of a busy machine.
SLOW_LEAST = 0.05
TRIES = 3
_NUMBERS = re.compile(r"\d+")


@dataclass(slots=True)
class Report:
    """What became of one decoder."""

    inputs: int = 0
    seconds: float = 0.0
    behaviours: int = 0
    slowest: float = 0.0  # seconds per megabyte, of inputs that took long
    findings: Counter[str] = field(default_factory=Counter)  # by what they have in common


class Bench:
    """One decoder, its inputs, and what was found."""

    def __init__(self, name: str, folder: Path) -> None:
        from decoders import DECODERS  # after atheris has had its chance to instrument them

        self.name = name
        self.decoder = DECODERS[name]
        self.report = Report()
        self._folder = folder

    def feed(self, data: bytes) -> str:
        """One input; what the decoder did with it in words."""
        from decoders import Finding, behaviour, check

        self.report.inputs += 1
        judge = check if self.report.inputs % MEASURED_EACH == 0 else behaviour
        began = time.process_time()
        try:
            told = judge(self.decoder, data)
        except Finding as finding:
            cause = finding.__cause__
            where = traceback.extract_tb(cause.__traceback__)[-1] if cause is not None else None
            self._keep(data, f"{finding}", "" if where is None else f" in {where.name}, line {where.lineno}")
            return "finding"
        if judge is behaviour:
            self._time(data, time.process_time() - began)
        return told

    def _time(self, data: bytes, seconds: float) -> None:
        allowed = max(SLOW_LEAST, len(data) * SLOW_SECONDS_PER_BYTE)
        if seconds <= allowed / 5:
            return
        for _ in range(TRIES):  # the least of several: others may have had the processor's caches
            began = time.process_time()
            self.decoder_once(data)
            seconds = min(seconds, time.process_time() - began)
        self.report.slowest = max(self.report.slowest, seconds / max(len(data), 1) * 1e6)
        if seconds > allowed:
            self._keep(data, f"{seconds:.2f} s for {len(data)} bytes", "")

    def decoder_once(self, data: bytes) -> None:
        """Run it for its time alone; that it raises nothing else has been seen."""
        try:
            self.decoder.run(data)
        except self.decoder.errors:
            pass

    def _keep(self, data: bytes, what: str, where: str) -> None:
        kind = _NUMBERS.sub("N", what)[:100] + where
        self.report.findings[kind] += 1
        if self.report.findings[kind] == 1:
            digest = hashlib.sha256(data).hexdigest()[:12]
            (self._folder / f"{self.name}-{digest}").write_bytes(data)
            (self._folder / f"{self.name}-{digest}.txt").write_text(f"{what}{where}\n")


def own(bench: Bench, seconds: float, seed: int) -> None:
    """Inputs that follow from the seed."""
    from mutator import Population

    decoder = bench.decoder
    population = Population(decoder.seeds, Random(f"{seed} {bench.name}"), decoder.words, decoder.reshape)
    for data in decoder.seeds:
        population.learn(data, bench.feed(data))
    while bench.report.seconds < seconds:
        bench.report.seconds = time.monotonic() - _began
        grown = bench.report.inputs % GROWN_EACH == 0
        data = population.grown(GROWN_BYTES) if grown else population.next()
        population.learn(data, bench.feed(data))
    bench.report.behaviours = len(population.inputs)


def atheris(bench: Bench, seconds: float, seed: int, told: Path) -> None:
    """Inputs by the branches that they take; never returns. Reports as it goes, since libFuzzer ends the process."""
    import atheris as engine
    from mutator import Population

    decoder = bench.decoder
    corpus = told.parent / "corpus"
    corpus.mkdir()
    for number, data in enumerate(decoder.seeds):
        (corpus / str(number)).write_bytes(data)

    def mutated(data: bytes, longest: int, dice: int) -> bytes:
        if dice % 2:
            return bytes(engine.Mutate(data, longest))
        population = Population([data, *decoder.seeds], Random(dice), decoder.words, decoder.reshape)
        return population.next()[:longest]

    def feed(data: bytes) -> None:
        bench.feed(data)
        if bench.report.inputs % 1000 == 0:
            bench.report.seconds = time.monotonic() - _began
            _write(told, bench.report)

    arguments = [f"-max_total_time={max(1, int(seconds))}", f"-seed={seed % 2**31}", "-verbosity=0", "-max_len=4096"]
    engine.Setup([sys.argv[0], *arguments, str(corpus)], feed, custom_mutator=mutated)
    engine.Fuzz()


def _write(file: Path, report: Report) -> None:
    values = {name: getattr(report, name) for name in report.__slots__}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(values))
    part.replace(file)


def run_child(name: str, engine: str, seconds: float, seed: int, findings: Path) -> Report:
    """One decoder in a process of its own: a fresh memory, and atheris never returns."""
    with tempfile.TemporaryDirectory(prefix="poold-fuzz-") as folder:
        told = Path(folder) / "report.json"
        command = [sys.executable, __file__, name, f"--engine={engine}", f"--seconds={seconds}", f"--seed={seed}"]
        said = subprocess.DEVNULL if engine == "atheris" else None  # libFuzzer says much, and findings are kept anyway
        done = subprocess.run(
            [*command, f"--findings={findings}", f"--child={told}"], stderr=said, stdout=said, check=False
        )
        values: dict[str, Any] = json.loads(told.read_text()) if told.exists() else {}
        report = Report(**{**values, "findings": Counter(values.get("findings", {}))})
        if done.returncode not in (0, -2):
            report.findings[f"the process ended with status {done.returncode}"] += 1
        return report


@click.command(help=__doc__, context_settings={"show_default": True})
@click.argument("targets", nargs=-1, metavar="[DECODER]...")
@click.option("--seconds", type=click.FloatRange(0.1), default=60.0, help="For each decoder.")
@click.option("--seed", type=int, help="Makes the same inputs again; told at the start where none is given.")
@click.option("--engine", type=click.Choice(ENGINES), default=ENGINES[0])
@click.option(
    "--findings",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(tempfile.gettempdir()) / "poold-findings",
    help="Where inputs are kept.",
)
@click.option("--child", type=click.Path(path_type=Path), hidden=True)
def main(
    targets: tuple[str, ...], seconds: float, seed: int | None, engine: str, findings: Path, child: Path | None
) -> None:
    """Show a line for each decoder; exit status 1 where something was found."""
    if child is not None:
        _be_child(targets[0], seconds, seed or 0, engine, findings, child)
        return
    from decoders import DECODERS

    unknown = set(targets) - set(DECODERS)
    if unknown:
        raise click.UsageError(f"{', '.join(sorted(unknown))}: unknown; expected one of {', '.join(DECODERS)}")
    seed = SystemRandom().randrange(2**31) if seed is None else seed
    findings.mkdir(parents=True, exist_ok=True)
    click.echo(f"engine {engine}, seed {seed}, {seconds:g} s for each decoder; inputs are kept in {findings}")
    click.echo(f"{'decoder':14}{'inputs':>11}{'per s':>9}{'behaviours':>12}{'slowest s/MB':>14}{'findings':>10}")
    total, is_sound = 0, True
    try:
        for name in targets or DECODERS:
            report = run_child(name, engine, seconds, seed, findings)
            total += report.inputs
            is_sound = is_sound and not report.findings
            rate = report.inputs / max(report.seconds, 1e-9)
            counts = f"{report.inputs:>11,}{rate:>9,.0f}{report.behaviours:>12,}{report.slowest:>14.2f}"
            click.echo(f"{name:14}{counts}{len(report.findings):>10}")
            for kind, count in report.findings.items():
                click.echo(f"  {count} x {kind}")
    except KeyboardInterrupt:
        click.echo("interrupted")
    click.echo(f"{total:,} inputs")
    sys.exit(0 if is_sound else 1)


def _be_child(name: str, seconds: float, seed: int, engine: str, findings: Path, told: Path) -> None:
    if engine == "atheris":
        import atheris as instrument

        with instrument.instrument_imports(include=["client", "poold"]):
            bench = Bench(name, findings)
        atheris(bench, seconds, seed, told)
    bench = Bench(name, findings)
    try:
        own(bench, seconds, seed)
    except KeyboardInterrupt:
        os._exit(0)
    finally:
        _write(told, bench.report)


_began = time.monotonic()

if __name__ == "__main__":
    main()
