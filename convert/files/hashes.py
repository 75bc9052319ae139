"""The hashes by which UIs and logs know a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .header import read_header

CHUNK = 1 << 23


def data_hash(path: Path) -> str:
    """SHA-256 of the bytes behind the header: what A1111 shows for a LoRA (its first 12 digits)."""
    return _hash_from(path, read_header(path).data_start)


def file_hash(path: Path) -> str:
    """SHA-256 of the whole file."""
    return _hash_from(path, 0)


def _hash_from(path: Path, start: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
