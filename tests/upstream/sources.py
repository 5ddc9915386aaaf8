"""Other projects' test suites: their source distributions, fetched with pip when a test first asks for them.

They are kept unpacked in `.cache/upstream` of the checkout, which git ignores. Delete a folder there to have it fetched
again.
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "upstream"
# Seconds for one download.
PATIENCE = 600.0


class NotFetchedError(RuntimeError):
    """A source distribution could not be fetched: there is no way to a package index, or it is not there."""


def fetched(project: str, version: str, patience: float = PATIENCE) -> Path:
    """The unpacked source distribution of a project; fetched from where pip is configured to look, if need be.

    Raises NotFetchedError if it cannot be had within so many seconds.
    """
    folder = CACHE / f"{project}-{version}"
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as made:
        # What builds it is in the environment already; nothing of it is built but its metadata.
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-binary", project, "--dest", made]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
        try:
            done = subprocess.run(
                [*command, f"{project}=={version}"], capture_output=True, text=True, timeout=patience, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise NotFetchedError(f"{project} {version} could not be fetched in {patience:g} s") from error
        if done.returncode:
            raise NotFetchedError(f"{project} {version} could not be fetched:\n{done.stderr}")
        (archive,) = Path(made).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(made, filter="data")
        (unpacked,) = (path for path in Path(made).iterdir() if path.is_dir())
        unpacked.rename(folder)
    return folder
