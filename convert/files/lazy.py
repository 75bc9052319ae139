"""Tensors that are read when they are written: a conversion of any size needs memory for a few of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pair_network.errors import PairError, printable

from .finite import BAD_INPUT, is_finite
from .header import Stored

HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Lazy:
    """A tensor known by shape and dtype, and how to get its values.

    Attributes:
        shape: Dimensions of what ``load`` returns.
        dtype: Element type of what ``load`` returns.
        load: Reads or computes the tensor, on the CPU; every call does so anew.
        stored: Set where the values are the bytes of a file, unchanged: they can be copied without being parsed.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]
    stored: Stored | None = None

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def from_stored(stored: Stored) -> Lazy:
    return Lazy(stored.shape, stored.dtype, lambda: read_stored(stored), stored)


def read_stored(stored: Stored, *, checked: bool = True) -> Tensor:
    """The tensor's values, in memory of their own.

    Args:
        stored: Where they lie.
        checked: Refuse NaN and infinity, with which no decomposition or sum is worth computing.

    Raises:
        PairError: Not finite, or the file has become shorter than its header said when it was checked.
    """
    buffer = bytearray(stored.size)
    with stored.path.open("rb", buffering=0) as file:
        file.seek(stored.start)
        if file.readinto(buffer) != stored.size:
            raise PairError(f"{printable(str(stored.path))}: has changed while it was read; run the conversion again")
    if checked and not is_finite(buffer, stored.dtype):
        raise PairError(f"{printable(str(stored.path))}: {printable(stored.key)} {BAD_INPUT}")
    if not stored.size:
        return torch.empty(stored.shape, dtype=stored.dtype)
    return torch.frombuffer(buffer, dtype=stored.dtype).reshape(stored.shape)


def from_tensor(tensor: Tensor) -> Lazy:
    return Lazy(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def mapped(
    lazy: Lazy,
    function: Callable[[Tensor], Tensor],
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
) -> Lazy:
    """``function`` of a tensor; shape and dtype are its own unless they are given."""
    return Lazy(
        lazy.shape if shape is None else tuple(shape), dtype or lazy.dtype, lambda: function(lazy.load()).contiguous()
    )


def reshaped(lazy: Lazy, shape: Sequence[int]) -> Lazy:
    """The same bytes under another shape."""
    if tuple(shape) == lazy.shape:
        return lazy
    stored = None
    if lazy.stored is not None:
        stored = replace(lazy.stored, shape=tuple(shape))
    return Lazy(tuple(shape), lazy.dtype, lambda: lazy.load().reshape(tuple(shape)), stored)


def cast(lazy: Lazy, dtype: torch.dtype | None) -> Lazy:
    """The tensor in another dtype; None keeps its own."""
    if dtype is None or dtype == lazy.dtype:
        return lazy
    return mapped(lazy, lambda tensor: tensor.to(dtype), dtype=dtype)


def scaled(lazy: Lazy, factor: float) -> Lazy:
    """``factor`` × the tensor: unchanged for 1, in its dtype where that loses nothing, else in float32."""
    if factor == 1:
        return lazy
    # A bfloat16 has float32's exponent, so a power of two moves no bit of the mantissa.
    keeps_dtype = lazy.dtype not in HALVES or (lazy.dtype == torch.bfloat16 and _is_power_of_two(abs(factor)))
    dtype = lazy.dtype if keeps_dtype and lazy.dtype.itemsize > 1 else torch.float32
    return mapped(lazy, lambda tensor: (tensor.to(torch.float64) * factor).to(dtype), dtype=dtype)


def _is_power_of_two(value: float) -> bool:
    mantissa = torch.frexp(torch.tensor(value, dtype=torch.float64)).mantissa
    return bool(mantissa == 0.5)
