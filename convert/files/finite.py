"""Whether bytes of floats hold NaN or infinity, found in their exponents without computing with them."""

from __future__ import annotations

import numpy as np

from .elements import Bytes, Element

# Of what was read, and of what was computed to be written.
BAD_INPUT = "holds NaN or infinity: the training has diverged, or its dtype was too narrow; take an earlier save"
BAD_OUTPUT = "holds NaN or infinity, nothing was written; the training has diverged, or the dtype is too narrow"
# Integer of a float's size, and the bits that are all set in infinities and NaNs alone (fp8 e4m3fn has no infinity).
EXPONENTS: dict[str, tuple[type[np.unsignedinteger], int]] = {
    "F64": (np.uint64, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F8_E5M2": (np.uint8, 0x7C),
    "F8_E4M3": (np.uint8, 0x7F),
}


def is_finite(data: Bytes, element: Element) -> bool:
    """Whether these bytes of floats hold neither NaN nor infinity. Many times faster than computing with the floats."""
    if element.name not in EXPONENTS or not len(data):
        return True
    integer, mask = EXPONENTS[element.name]
    bits = np.frombuffer(data, dtype=integer)
    return bool((bits & integer(mask)).max() != mask)
