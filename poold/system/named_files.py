"""Reading a file that the user has named: whole, or not at all if it has no end in sight, as /dev/zero has none."""

import errno
from pathlib import Path

MOST_BYTES = 16 * 1024 * 1024


def read(path: Path) -> bytes:
    """Return what the file holds; raises OSError if it cannot be read or has more than MOST_BYTES."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"more than {MOST_BYTES} bytes, which is not what such a file holds", str(path))
    return content


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the file's text in UTF-8 with \\n at the ends of lines; raises as `read`, and UnicodeDecodeError."""
    return read(path).decode("utf-8", errors).replace("\r\n", "\n").replace("\r", "\n")
