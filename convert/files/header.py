"""Reads the header of a safetensors file, and refuses what no honest program writes.

A safetensors file is 8 bytes of header length, a JSON header, and the tensors' bytes without gaps. Everything here is
checked before a single tensor is touched, so that a hostile file costs no memory and runs no code.
"""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, TypeGuard

from pair_network.errors import PairError, printable
from pair_network.files import PICKLES

from .disguise import ENOUGH, disguise, is_pickle
from .elements import ELEMENTS, UNREAD, Element

MAX_HEADER = 100_000_000  # safetensors' own limit, in bytes
MAX_KEY = 1024


@dataclass(frozen=True)
class Stored:
    """Where a tensor's bytes lie.

    Attributes:
        path: The file.
        key: The tensor's name in it.
        element: Element type.
        shape: Dimensions.
        start: Offset of the first byte, from the beginning of the file.
        size: Length in bytes.
    """

    path: Path
    key: str
    element: Element
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class Header:
    """A checked header: where each tensor lies, in the order of the file's bytes, and the text metadata."""

    path: Path
    tensors: dict[str, Stored]
    metadata: dict[str, str]
    data_start: int


class _Refused(Exception):
    """The reason why a header is not accepted; becomes a PairError with the file's name."""


class _Unread(_Refused):
    """The header is intact, and speaks of what is not read here."""


def read_header(path: str | Path) -> Header:
    """The checked header of a safetensors file.

    Raises:
        PairError: No such file, not a regular file, a pickle, or a header that is damaged or hostile.
    """
    path = Path(path)
    _check_kind(path)
    try:
        with path.open("rb") as file:
            return check_header(path, file, os.fstat(file.fileno()).st_size)
    except OSError as cause:
        raise PairError(f"{path}: cannot be read ({cause.strerror}); check its permissions") from cause


def check_header(path: Path, file: IO[bytes], size: int) -> Header:
    """The checked header of an open file of ``size`` bytes; ``path`` is what errors and tensors name.

    Raises:
        PairError: The header is damaged or hostile.
    """
    try:
        length = _header_length(file.read(8), size)
        values = _parse(file.read(length))
        metadata = _metadata(values.pop("__metadata__", {}))
        return Header(path, _tensors(path, values, 8 + length, size), metadata, 8 + length)
    except _Unread as cause:
        raise PairError(f"{printable(str(path))}: {cause}") from None
    except _Refused as cause:
        file.seek(0)
        kind = disguise(file.read(ENOUGH))
        reason = f"not an intact safetensors file: {cause}; copy or download it again"
        if kind is not None:
            reason = f"is no safetensors file but {kind}"
        raise PairError(f"{printable(str(path))}: {reason}") from None


def _check_kind(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as cause:
        raise PairError(f"{printable(str(path))}: no such file") from cause
    if stat.S_ISDIR(mode):
        raise PairError(f"{path}: is a folder where a .safetensors file is needed")
    if not stat.S_ISREG(mode):
        raise PairError(f"{path}: is not a regular file (a device, pipe or socket)")
    if path.suffix.lower() in PICKLES and is_pickle(start_of(path)):
        raise PairError(
            f"{path}: pickled weights can run code when they are loaded; pass --allow-pickle to read it through "
            "torch's weights_only loading, which does not"
        )


def start_of(path: Path) -> bytes:
    """A file's first bytes, by which it is known.

    Raises:
        PairError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(ENOUGH)
    except OSError as cause:
        raise PairError(f"{path}: cannot be read ({cause.strerror}); check its permissions") from cause


def _fail(reason: str) -> NoReturn:
    raise _Refused(reason)


def _header_length(start: bytes, size: int) -> int:
    if len(start) < 8:
        _fail(f"it has only {len(start)} bytes")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER:
        _fail(f"its header claims {length} bytes, the limit is {MAX_HEADER}")
    if length > size - 8:
        _fail(f"its header claims {length} bytes, but only {size - 8} follow")
    return length


def _parse(text: bytes) -> dict[str, object]:
    if not text.startswith(b"{"):
        _fail("its header does not begin with '{'")
    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as cause:
        _fail(f"its header is not JSON ({printable(str(cause), 80)})")
    assert isinstance(values, dict)  # it begins with "{" and has parsed
    return values


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        _fail("its header names something twice")
    return values


def _no_constant(name: str) -> NoReturn:
    _fail(f"its header holds {name}")


def _metadata(values: object) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        _fail("its __metadata__ is not a map from text to text")
    return values


def _tensors(path: Path, values: dict[str, object], data_start: int, size: int) -> dict[str, Stored]:
    """All tensors in byte order; they must fill the rest of the file exactly, without overlap or hole."""
    stored = {key: _stored(path, key, value, data_start) for key, value in values.items()}
    ordered = dict(sorted(stored.items(), key=lambda item: (item[1].start, item[1].size)))
    position = data_start
    for key, tensor in ordered.items():
        if tensor.start != position:
            problem = "overlaps the one before it" if tensor.start < position else "leaves a hole before it"
            _fail(f"{printable(key)} {problem}")
        position += tensor.size
        if position > size:
            _fail(f"{printable(key)} reaches beyond the end of the file (truncated data)")
    if position != size:
        _fail(f"{size - position} bytes at its end belong to no tensor")
    return ordered


def _stored(path: Path, key: str, value: object, data_start: int) -> Stored:
    _check_key(key)
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        _fail_at(key, "is not described by dtype, shape and data_offsets")
    element = ELEMENTS.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if element is None and value["dtype"] in UNREAD:
        raise _Unread(
            f"{printable(key, 80)} is of type {value['dtype']}, which is not read here; save it in fp16 or bf16"
        )
    if element is None:
        _fail_at(key, f"has the unknown dtype {printable(str(value['dtype']), 40)}")
    shape, offsets = value["shape"], value["data_offsets"]
    if not _whole_numbers(shape) or len(shape) > 8 or not _whole_numbers(offsets) or len(offsets) != 2:
        _fail_at(key, "has a shape or data_offsets that are not lists of whole numbers")
    begin, end = offsets
    needed = math.prod(shape) * element.size
    if end < begin or end - begin != needed:
        _fail_at(key, f"has {end - begin} bytes where its shape and dtype need {needed}")
    return Stored(path, key, element, tuple(shape), data_start + begin, end - begin)


def _fail_at(key: str, reason: str) -> NoReturn:
    _fail(f"{printable(key, 80)} {reason}")


def _check_key(key: str) -> None:
    if len(key) > MAX_KEY:
        _fail(f"a tensor's name is {len(key)} characters long")
    if not key or not key.isprintable() or "/" in key or "\\" in key or ".." in key:
        _fail(f"{printable(key, 80)!r} is no name for a tensor (empty, control characters, or parts of a path)")


def _whole_numbers(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)
