"""Tensors that are read when they are written: a conversion of any size needs memory for a few of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pair_network.errors import PairError, printable

from .elements import BF16, F16, F32, Element, element_of, numbers
from .finite import BAD_INPUT, is_finite
from .header import Stored

if TYPE_CHECKING:  # torch is imported with the first tensor
    import torch
    from torch import Tensor

HALVES = (F16, BF16)


@dataclass(frozen=True)
class Lazy:
    """A tensor known by shape and element type, and how to get its values.

    Attributes:
        shape: Dimensions of what ``load`` returns.
        element: Element type of what ``load`` returns.
        load: Reads or computes the tensor, on the CPU; every call does so anew.
        stored: Set where the values are the bytes of a file, unchanged: they can be copied without being parsed.
    """

    shape: tuple[int, ...]
    element: Element
    load: Callable[[], Tensor]
    stored: Stored | None = None

    @property
    def nbytes(self) -> int:
        return self.element.size * math.prod(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """torch's name for the element type."""
        return self.element.dtype

    def numbers(self) -> np.ndarray:
        """The values as float64; of what a file stores without torch.

        Raises:
            PairError: As ``bytes_of``.
        """
        if self.stored is None:
            values: np.ndarray = self.load().double().numpy()
            return values
        return numbers(bytes_of(self.stored), self.element).reshape(self.shape)


def from_stored(stored: Stored) -> Lazy:
    return Lazy(stored.shape, stored.element, lambda: read_stored(stored), stored)


def read_stored(stored: Stored) -> Tensor:
    """The tensor's values, in memory of their own.

    Raises:
        PairError: As ``bytes_of``.
    """
    import torch

    buffer = bytes_of(stored)
    if not stored.size:
        return torch.empty(stored.shape, dtype=stored.element.dtype)
    return torch.frombuffer(buffer, dtype=stored.element.dtype).reshape(stored.shape)


def bytes_of(stored: Stored, checked: bool = True) -> bytearray:
    """The tensor's bytes.

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
    if checked and not is_finite(buffer, stored.element):
        raise PairError(f"{printable(str(stored.path))}: {printable(stored.key)} {BAD_INPUT}")
    return buffer


def from_tensor(tensor: Tensor) -> Lazy:
    return Lazy(tuple(tensor.shape), element_of(tensor.dtype), lambda: tensor)


def mapped(
    lazy: Lazy,
    function: Callable[[Tensor], Tensor],
    shape: Sequence[int] | None = None,
    element: Element | None = None,
) -> Lazy:
    """``function`` of a tensor; shape and element type are its own unless they are given."""
    own_shape = lazy.shape if shape is None else tuple(shape)
    return Lazy(own_shape, element or lazy.element, lambda: function(lazy.load()).contiguous())


def reshaped(lazy: Lazy, shape: Sequence[int]) -> Lazy:
    """The same bytes under another shape."""
    if tuple(shape) == lazy.shape:
        return lazy
    stored = None
    if lazy.stored is not None:
        stored = replace(lazy.stored, shape=tuple(shape))
    return Lazy(tuple(shape), lazy.element, lambda: lazy.load().reshape(tuple(shape)), stored)


def cast(lazy: Lazy, element: Element | None) -> Lazy:
    """The tensor in another element type; None keeps its own."""
    if element is None or element == lazy.element:
        return lazy
    return mapped(lazy, lambda tensor: tensor.to(element.dtype), element=element)


def scaled(lazy: Lazy, factor: float) -> Lazy:
    """``factor`` × the tensor: unchanged for 1, in its own type where that loses nothing, else in float32."""
    if factor == 1:
        return lazy
    # A bfloat16 has float32's exponent, so a power of two moves no bit of the mantissa.
    keeps_type = lazy.element not in HALVES or (lazy.element == BF16 and _is_power_of_two(abs(factor)))
    element = lazy.element if keeps_type and lazy.element.size > 1 else F32
    return mapped(lazy, lambda tensor: (tensor.double() * factor).to(element.dtype), element=element)


def _is_power_of_two(value: float) -> bool:
    return math.frexp(value)[0] == 0.5
