"""The files that a configuration names: whether they still hold what they held. Only digests are kept.

libpq reads an endpoint's files at each connect, so another content counts from the next connect on; that it counts for
connections that are open is a reload's task. A password's file is not here: its content is `EndpointConfig.password`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from poold.config.model import Config
from poold.system.named_files import read

# By table and key, as in ("endpoints.main", "sslrootcert").
Digests = Mapping[tuple[str, str], bytes]

OF_ENDPOINTS = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
OF_BROKER = ("key_file",)


def digests(config: Config) -> Digests:
    """Return the digest of each file; a file that cannot be read has none. Blocks for as long as reading takes."""
    tables = {f"endpoints.{name}": (each, OF_ENDPOINTS) for name, each in config.endpoints.items()}
    named = [(table, key, getattr(section, key)) for table, (section, keys) in tables.items() for key in keys]
    named += [("broker", key, getattr(config.broker, key)) for key in OF_BROKER]
    found = {}
    for table, key, path in named:
        digest = None if path is None else _digest(Path(path))
        if digest is not None:
            found[table, key] = digest
    return found


def renewed(before: Digests, after: Digests) -> list[tuple[str, str]]:
    """Return the tables and keys whose files have another content."""
    return [key for key, digest in after.items() if before.get(key, digest) != digest]


def _digest(path: Path) -> bytes | None:
    try:
        return hashlib.blake2b(read(path), digest_size=16).digest()
    except OSError:
        return None
