"""Whether bytes of floats hold NaN or infinity, found in their exponents without computing with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Bytes = bytearray | memoryview
# Of what was read, and of what was computed to be written.
BAD_INPUT = "holds NaN or infinity: the training has diverged, or its dtype was too narrow; take an earlier save"
BAD_OUTPUT = "holds NaN or infinity, nothing was written; the training has diverged, or the dtype is too narrow"
# Integer of a float's size, and the bits that are all set in infinities and NaNs alone (fp8 e4m3fn has no infinity).
EXPONENTS: dict[torch.dtype, tuple[Any, int]] = {
    torch.float64: (np.uint64, 0x7FF0000000000000),
    torch.float32: (np.uint32, 0x7F800000),
    torch.float16: (np.uint16, 0x7C00),
    torch.bfloat16: (np.uint16, 0x7F80),
    torch.float8_e5m2: (np.uint8, 0x7C),
    torch.float8_e4m3fn: (np.uint8, 0x7F),
}


def is_finite(data: Bytes, dtype: torch.dtype) -> bool:
    """Whether these bytes of floats hold neither NaN nor infinity. Many times faster than computing with the floats."""
    if dtype not in EXPONENTS or not len(data):
        return True
    integer, mask = EXPONENTS[dtype]
    bits = np.frombuffer(data, dtype=integer)
    return bool((bits & integer(mask)).max() != mask)
