"""Passwords that stand in a file or in the environment.

A file is read at the start, so that a mistake is reported then, and again for each connect: whoever changes a password
changes the file as well, and need not restart the broker. A process's environment stays as it was at its start.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from poold.config.model import EndpointConfig
from poold.system.named_files import read_text


def find(key: str, value: str) -> tuple[str, str]:
    """Return the password that password_file or password_env names, and what is wrong with it or "".

    The second text shows nothing of the password.
    """
    try:
        if key == "password_env":
            text, expected = os.environ.get(value, ""), "expected a variable that is set and not empty"
        else:
            text = read_text(Path(value), "surrogateescape").partition("\n")[0]
            expected = "expected the password in its first line, which is empty"
    except OSError as error:
        return "", f"expected a file that can be read: {error.strerror}"
    if re.search("[\0\ud800-\udfff]", text):
        expected, text = "expected UTF-8 without NUL characters in it", ""
    return text, "" if text else expected


def current(config: EndpointConfig) -> str | None:
    """Return the endpoint's password as it is at this moment; may block. Raises OSError if the file has none."""
    path = config.password_file
    if path is None or not _is_file(path):
        return config.password
    text, trouble = find("password_file", path)
    if trouble:
        raise OSError(f"password_file {path}: {trouble}")
    return text


def _is_file(path: str) -> bool:
    """Whether it is a file and no pipe, as from a shell's <(...), which can be read only once and was at the start."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True  # reading it says what is wrong
