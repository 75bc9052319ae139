"""What torch has no answer to for 8-bit floats: a common dtype, and equality."""

from __future__ import annotations

import torch
from torch import Tensor


def promoted(*dtypes: torch.dtype) -> torch.dtype:
    """The narrowest dtype that holds the numbers of all of these exactly.

    torch refuses to promote 8-bit floats. Both kinds fit float16 and bfloat16 without loss.
    """
    common = dtypes[0]
    for dtype in dtypes[1:]:
        if dtype == common:
            continue
        wide = [each for each in (common, dtype) if each.itemsize > 1]
        common = torch.promote_types(*wide) if len(wide) == 2 else wide[0] if wide else torch.float16
    return common


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have one shape and dtype, and the same bits."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.equal(*(tensor.contiguous().flatten().view(torch.uint8) for tensor in (first, second)))
