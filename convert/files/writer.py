"""Writes safetensors files, streaming: whole or not at all, with the hash that kohya's UIs show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from pair_network.errors import PairError, printable
from pair_network.files import atomic_file

from .elements import Bytes
from .finite import BAD_INPUT, BAD_OUTPUT, is_finite
from .header import Stored
from .lazy import Lazy

CHUNK = 1 << 22  # bytes that are read, and checked, at once
BUFFER = 1 << 16  # small tensors are gathered in it; larger ones pass it by
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
    with atomic_file(path, needed) as temporary, temporary.open("wb", buffering=BUFFER) as file:
        file.write(header)
        with ThreadPoolExecutor(1) as pool, _Sources() as sources:
            checks = _Checks(pool, path, hashed)
            for key in order:
                tensor = tensors[key]
                pieces = sources.pieces(tensor.stored) if tensor.stored is not None else _computed(tensor, key)
                for data in pieces:
                    checks.take(data, key, tensor)
                    file.write(data)
            digest = checks.end()
        if hashed:
            header = header.replace(_NO_HASH, digest.encode(), 1)
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


class _Checks:
    """The finiteness and the SHA-256 of what is written, on a thread of its own.

    Both release the interpreter, so they overlap with reading and writing.
    """

    def __init__(self, pool: ThreadPoolExecutor, target: Path, hashed: bool):
        self.pool, self.target, self.hashed = pool, target, hashed
        self.hash = hashlib.sha256()
        self.last: Future[None] | None = None
        self.waiting: list[tuple[Bytes, str, Lazy]] = []
        self.size = 0

    def take(self, data: Bytes, key: str, tensor: Lazy) -> None:
        """The next bytes. Small tensors wait for each other: handing over costs more than checking them.

        Raises:
            PairError: Of bytes that were taken before: they hold NaN or infinity.
        """
        self.waiting.append((data, key, tensor))
        self.size += len(data)
        if self.size >= CHUNK:
            self._hand_over()

    def end(self) -> str:
        """The hash of all bytes, once they are checked; errors as in ``take``."""
        self._hand_over()
        if self.last is not None:
            self.last.result()
        return self.hash.hexdigest()

    def _hand_over(self) -> None:
        if self.last is not None:
            self.last.result()
        self.last = self.pool.submit(self._check, self.waiting)
        self.waiting, self.size = [], 0

    def _check(self, parts: list[tuple[Bytes, str, Lazy]]) -> None:
        for data, key, tensor in parts:
            if not is_finite(data, tensor.element):
                if tensor.stored is None:
                    raise PairError(f"{printable(str(self.target))}: {printable(key)} {BAD_OUTPUT}")
                raise PairError(f"{printable(str(tensor.stored.path))}: {printable(tensor.stored.key)} {BAD_INPUT}")
            if self.hashed:
                self.hash.update(data)


def _computed(tensor: Lazy, key: str) -> Iterator[memoryview]:
    values = tensor.load().detach().contiguous()
    if tuple(values.shape) != tensor.shape or values.dtype != tensor.dtype:
        raise AssertionError(f"{key}: announced {tensor.shape} {tensor.dtype}, got {values.shape} {values.dtype}")
    if values.numel():
        import torch

        data = values.reshape(-1).view(torch.uint8).numpy().data
        yield from (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))


class _Sources:
    """Files that tensors are copied from; one after the other is open, for as long as its tensors follow each other."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.file: FileIO | None = None

    def __enter__(self) -> _Sources:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def pieces(self, stored: Stored) -> Iterator[bytearray]:
        """The tensor's bytes in pieces of whole elements."""
        file = self._opened(stored.path)
        file.seek(stored.start)
        left = stored.size
        while left:
            chunk = bytearray(min(CHUNK, left))
            if file.readinto(chunk) != len(chunk):
                raise PairError(f"{printable(str(stored.path))}: has changed while it was read; run it again")
            left -= len(chunk)
            yield chunk

    def _opened(self, path: Path) -> FileIO:
        if self.file is None or path != self.path:
            if self.file is not None:
                self.file.close()
            self.path, self.file = path, FileIO(path)
        return self.file
