"""The newest timeline of each database cluster, remembered over restarts of the broker: one small file for each.

Without them a broker that starts while only an old primary answers would take it for the primary. Brokers that share a
folder keep the newest that any of them has seen.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

log = logging.getLogger(__name__)

_SUFFIX = ".timeline"
_NAME = re.compile(r"[0-9]{1,20}")  # a system identifier


def default_folder() -> Path:
    """Where they are kept if nobody says: the service's state folder under systemd, else the user's."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "poold"


class Timelines:
    """The files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remembered(self) -> dict[str, int]:
        """Return what `read` does; if it cannot be read that is logged."""
        try:
            return self.read()
        except OSError as error:
            log.warning("timelines not read folder=%s error=%s", self.folder, error.strerror)
            return {}

    def remember(self, system: str, timeline: int) -> None:
        """Do what `keep` does; if it cannot be kept that is logged."""
        try:
            self.keep(system, timeline)
        except OSError as error:
            risk = "after a restart an old primary that answers alone is believed"
            log.warning("timeline not remembered state_dir=%s error=%s risk=%s", self.folder, error.strerror, risk)

    def read(self) -> dict[str, int]:
        """Return the timelines by system identifier. A file that holds no number is as none; raises OSError."""
        if not self.folder.exists():
            return {}
        found = {}
        for path in self.folder.glob(f"*{_SUFFIX}"):
            timeline = self._read(path)
            if _NAME.fullmatch(path.stem) and timeline:
                found[path.stem] = timeline
        return found

    def keep(self, system: str, timeline: int) -> None:
        """Keep the timeline, if it is newer than what is kept; raises OSError."""
        if not _NAME.fullmatch(system):
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / f"{system}{_SUFFIX}"
        if self._read(path) >= timeline:
            return
        new = self.folder / f"{system}.{os.getpid()}.new"
        with open(new, "w", encoding="ascii") as file:
            file.write(f"{timeline}\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)

    def _read(self, path: Path) -> int:
        """Return the timeline in the file, 0 if there is none."""
        try:
            text = path.read_text("ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return 0
        return int(text) if _NAME.fullmatch(text) else 0
