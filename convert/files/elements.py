"""Element types by safetensors' names, and numbers out of their bytes; torch is imported where its dtype is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Bytes = bytearray | memoryview


@dataclass(frozen=True)
class Element:
    """An element type.

    Attributes:
        name: safetensors' name.
        size: Bytes.
        torch_name: torch's name.
        is_float: Whether it is a floating-point type.
    """

    name: str
    size: int
    torch_name: str
    is_float: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """torch's dtype."""
        import torch

        dtype: torch.dtype = getattr(torch, self.torch_name)
        return dtype


ELEMENTS = {
    element.name: element
    for element in (
        Element("F64", 8, "float64"),
        Element("F32", 4, "float32"),
        Element("F16", 2, "float16"),
        Element("BF16", 2, "bfloat16"),
        Element("F8_E4M3", 1, "float8_e4m3fn"),
        Element("F8_E5M2", 1, "float8_e5m2"),
        Element("U64", 8, "uint64", False),
        Element("U32", 4, "uint32", False),
        Element("U16", 2, "uint16", False),
        Element("I64", 8, "int64", False),
        Element("I32", 4, "int32", False),
        Element("I16", 2, "int16", False),
        Element("I8", 1, "int8", False),
        Element("U8", 1, "uint8", False),
        Element("BOOL", 1, "bool", False),
    )
}
# safetensors' other types: complex numbers, and parts of numbers that other tensors scale.
UNREAD = ("C64", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F6_E2M3", "F6_E3M2", "F4")
F16, BF16, F32 = (ELEMENTS[name] for name in ("F16", "BF16", "F32"))
OF_TORCH = {f"torch.{element.torch_name}": element for element in ELEMENTS.values()}


def element_of(dtype: torch.dtype) -> Element:
    """The element type of a torch dtype."""
    return OF_TORCH[str(dtype)]


def numbers(data: Bytes, element: Element) -> np.ndarray:
    """The numbers in bytes of this type, as float64, in one dimension."""
    if element.name == "F8_E4M3":
        return _E4M3[np.frombuffer(data, np.uint8)]
    if element.name == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    elif element.name == "F8_E5M2":  # the upper half of a float16
        values = (np.frombuffer(data, np.uint8).astype(np.uint16) << 8).view(np.float16)
    else:
        values = np.frombuffer(data, np.dtype(element.torch_name))
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        return values.astype(np.float64)


def _e4m3() -> np.ndarray:
    """The numbers of all bytes as float8_e4m3fn: exponents biased by 7, no infinity, NaN where all bits are set."""
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    normal, subnormal = (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9
    value = np.where(exponent > 0, normal, subnormal) * np.where(bits < 128, 1.0, -1.0)
    return np.where(bits & 127 == 127, np.nan, value)


_E4M3 = _e4m3()
