"""What torch has no answer to for 8-bit floats: a common type, and equality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .elements import F16, Element, element_of

if TYPE_CHECKING:
    from torch import Tensor


def promoted(*elements: Element) -> Element:
    """The narrowest element type that holds the numbers of all of these exactly.

    torch refuses to promote 8-bit floats. Both kinds fit float16 and bfloat16 without loss.
    """
    import torch

    common = elements[0]
    for element in elements[1:]:
        if element == common:
            continue
        wide = [each for each in (common, element) if each.size > 1]
        if len(wide) == 2:
            common = element_of(torch.promote_types(wide[0].dtype, wide[1].dtype))
        else:
            common = wide[0] if wide else F16
    return common


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have one shape and dtype, and the same bits."""
    import torch

    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.equal(*(tensor.contiguous().flatten().view(torch.uint8) for tensor in (first, second)))
