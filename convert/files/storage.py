"""Opens files of tensors, hashes them, and replaces folders whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pair_network.errors import PairError, printable
from pair_network.files import PICKLES

from .finite import BAD_INPUT
from .header import read_header
from .lazy import Lazy, from_stored, from_tensor

CHUNK = 1 << 23


def open_tensors(path: str | Path, allow_pickle: bool = False) -> tuple[dict[str, Lazy], dict[str, str]]:
    """Tensors by key, not yet read, and the metadata.

    Args:
        path: A .safetensors file; with ``allow_pickle`` also a pickle that holds nothing but tensors.
        allow_pickle: Read .pt, .ckpt, … through torch's weights_only loading.

    Raises:
        PairError: The file is missing, damaged or hostile.
    """
    path = Path(path)
    if allow_pickle and path.suffix.lower() in PICKLES:
        return _open_pickle(path), {}
    header = read_header(path)
    return {key: from_stored(stored) for key, stored in header.tensors.items()}, header.metadata


def _open_pickle(path: Path) -> dict[str, Lazy]:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:  # torch raises whatever the unpickler meets
        raise PairError(f"{path}: weights_only loading refused it ({printable(str(cause), 120)})") from cause
    if isinstance(values, dict) and isinstance(values.get("state_dict"), dict):
        values = values["state_dict"]
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise PairError(f"{path}: holds something else than a map from names to tensors; export it as .safetensors")
    for key, value in values.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise PairError(f"{path}: {printable(str(key), 80)} {BAD_INPUT}")
    return {str(key): from_tensor(value.contiguous()) for key, value in values.items()}


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside the target that takes its place when the block ends well.

    Raises:
        PairError: A file has the folder's name.
    """
    if path.exists() and not path.is_dir():
        raise PairError(f"{path}: is a file where a folder is to be written; name another output with -o")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    old = temporary.with_suffix(".old")
    try:
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(temporary, ignore_errors=True)


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
