"""Writes safetensors files, streaming: whole or not at all, with the hash that kohya's UIs show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

from pair_network.errors import PairError, printable
from pair_network.files import atomic_file

from .elements import Bytes
from .finite import BAD_INPUT, BAD_OUTPUT, is_finite
from .header import Stored
from .lazy import Lazy

CHUNK = 1 << 22
_NO_HASH = b"0" * 64


def write_tensors(path: Path, tensors: Mapping[str, Lazy], metadata: Mapping[str, str], *, hashed: bool = True) -> None:
    """Writes a safetensors file, one tensor in memory at a time.

    Args:
        path: Target; a file there is replaced when the new one is complete.
        tensors: What to write. Tensors that are a file's bytes are copied as they are.
        metadata: Header metadata.
        hashed: Sets ``sshs_model_hash``, the SHA-256 of the bytes behind the header, as kohya and A1111 compute it.

    Raises:
        PairError: A tensor holds NaN or infinity; nothing is written.
    """
    values = {key: value for key, value in metadata.items() if key not in ("sshs_model_hash", "sshs_legacy_hash")}
    if hashed:
        # First in the header, so that the placeholder below is found and not somebody's 64 zeros.
        values = {"sshs_model_hash": _NO_HASH.decode(), **values}
    # Wide types first: every tensor then begins at a multiple of its element size, as safetensors wants.
    order = sorted(tensors, key=lambda key: -tensors[key].element.size)
    header = _header(tensors, order, values)
    needed = len(header) + sum(tensor.nbytes for tensor in tensors.values())
    with atomic_file(path, needed) as temporary, temporary.open("wb", buffering=CHUNK) as file:
        file.write(header)
        with ThreadPoolExecutor(1) as pool:
            digest = _Digest(pool if hashed else None)
            for key in order:
                _write_one(file, path, key, tensors[key], digest)
            if hashed:
                header = header.replace(_NO_HASH, digest.hex().encode(), 1)
        file.seek(0)
        file.write(header)


def _header(tensors: Mapping[str, Lazy], order: list[str], metadata: Mapping[str, str]) -> bytes:
    values: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for key in order:
        tensor = tensors[key]
        offsets = [position, position + tensor.nbytes]
        values[key] = {"dtype": tensor.element.name, "shape": list(tensor.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(values, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class _Digest:
    """SHA-256 on a thread of its own: hashing releases the interpreter, so it overlaps with reading and writing."""

    def __init__(self, pool: ThreadPoolExecutor | None):
        self.hash, self.pool = hashlib.sha256(), pool
        self.last: Future[None] | None = None
        self.waiting: list[Bytes] = []
        self.size = 0

    def update(self, data: Bytes) -> None:
        """Takes the next bytes. Small tensors wait for each other: handing over costs more than hashing them."""
        if self.pool is None:
            return
        self.waiting.append(data)
        self.size += len(data)
        if self.size >= CHUNK:
            self._hand_over(self.pool)

    def _hand_over(self, pool: ThreadPoolExecutor) -> None:
        if self.last is not None:
            self.last.result()
        self.last = pool.submit(self._hash, self.waiting)
        self.waiting, self.size = [], 0

    def _hash(self, parts: list[Bytes]) -> None:
        for part in parts:
            self.hash.update(part)

    def hex(self) -> str:
        if self.pool is not None:
            self._hand_over(self.pool)
        if self.last is not None:
            self.last.result()
        return self.hash.hexdigest()


def _write_one(file: IO[bytes], target: Path, key: str, tensor: Lazy, digest: _Digest) -> None:
    for data in _stored_bytes(tensor.stored) if tensor.stored is not None else _computed_bytes(tensor, key):
        if not is_finite(data, tensor.element):
            if tensor.stored is None:
                raise PairError(f"{printable(str(target))}: {printable(key)} {BAD_OUTPUT}")
            raise PairError(f"{printable(str(tensor.stored.path))}: {printable(tensor.stored.key)} {BAD_INPUT}")
        digest.update(data)
        file.write(data)


def _computed_bytes(tensor: Lazy, key: str) -> Iterator[memoryview]:
    values = tensor.load().detach().contiguous()
    if tuple(values.shape) != tensor.shape or values.dtype != tensor.dtype:
        raise AssertionError(f"{key}: announced {tensor.shape} {tensor.dtype}, got {values.shape} {values.dtype}")
    if values.numel():
        import torch

        yield values.reshape(-1).view(torch.uint8).numpy().data


def _stored_bytes(stored: Stored) -> Iterator[bytearray]:
    """The tensor's bytes in pieces of whole elements."""
    with stored.path.open("rb", buffering=0) as file:
        file.seek(stored.start)
        left = stored.size
        while left:
            chunk = bytearray(min(CHUNK, left))
            if file.readinto(chunk) != len(chunk):
                raise PairError(f"{printable(str(stored.path))}: has changed while it was read; run it again")
            left -= len(chunk)
            yield chunk
