"""What an operating system's error about a path means, in words that say what is wrong and what to do."""

import os
import stat
from pathlib import Path


def in_words(path: Path, error: OSError) -> str:
    """Say why the file or folder at this path, which the user has named, could not be read, written or made."""
    match error:
        case FileNotFoundError() if (missing := _missing_folder(path)) is not None:
            return f"there is no folder {missing}; make it (mkdir -p {path.parent}), or choose another path"
        case FileNotFoundError():
            return f"there is no {path}"
        case NotADirectoryError():
            return f"{_first_file(path)} is no folder; choose another path"
        case IsADirectoryError():
            return f"{path} is a folder, expected a file"
        case FileExistsError() if path.is_dir():
            return f"{path} is a folder, expected the name of a new file"
        case FileExistsError():
            return f"{path} is there already, and is not overwritten; remove it, or choose another path"
        case PermissionError():
            return _refusal(path, error)
    return f"{path}: {error.strerror or error}"


def explained(error: Exception) -> str:
    """Return the error's text, in_words if it is an operating system's about a path."""
    name = error.filename if isinstance(error, OSError) else None
    return in_words(Path(os.fsdecode(name)), error) if isinstance(error, OSError) and name else str(error)


def _missing_folder(path: Path) -> Path | None:
    """Return the topmost folder above path that is not there."""
    return next((above for above in reversed(path.absolute().parents) if not os.path.lexists(above)), None)


def _first_file(path: Path) -> Path:
    """Return the first on the way to path that is there and is no folder."""
    ways = (*reversed(path.parents), path)
    return next((place for place in ways if os.path.lexists(place) and not place.is_dir()), path)


def _refusal(path: Path, error: OSError) -> str:
    """Say which place is closed to this user: a folder that it cannot enter or write in, or the file itself."""
    place = path
    for above in reversed(path.absolute().parents):
        if not os.path.lexists(above):
            break
        place = above
        if not os.access(above, os.X_OK):
            break
    if os.path.lexists(path):
        place = path
    try:
        found = place.stat()
    except OSError:
        return f"{path}: {error.strerror}"
    return (
        f"{error.strerror or 'permission denied'} for user {os.geteuid()}: {place} belongs to user {found.st_uid} and "
        f"group {found.st_gid} with mode {stat.S_IMODE(found.st_mode):04o}; choose another path, or another user"
    )
