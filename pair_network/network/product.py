"""The low-rank products of a coupled layer, as functions of tensors: x · downᵀ, and base + hidden · upᵀ.

``hidden`` is the projection ``(rows, positions, ranks)``; a linear layer's positions are its tokens, a convolution's
the pixels of its output. ``python benchmarks/products.py`` measures what the way without gradient gains.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def down_product(x: Tensor, down: Tensor, base: nn.Linear | nn.Conv2d) -> Tensor:
    """The projection ``(rows, positions, ranks)`` of a layer's input by downs ``(ranks, in)`` or, with a kernel,
    ``(ranks, in, kh, kw)``.
    """
    if isinstance(base, nn.Conv2d):
        return positions_first(F.conv2d(x, down, None, base.stride, base.padding, base.dilation), base)
    return positions_first(F.linear(x, down), base)


def down_gradients(
    grad: Tensor, x: Tensor, down: Tensor, base: nn.Linear | nn.Conv2d, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``down_product`` for x and for down, where they are wanted.

    Args:
        grad: Of the projection, ``(rows, positions, ranks)``.
        x, down, base: As in ``down_product``.
        wanted: Whether x's and down's are.
    """
    needs_x, needs_down = wanted
    if isinstance(base, nn.Conv2d):
        padding, dilation, stride = symmetric_padding(base), base.dilation, base.stride
        sizes = zip(x.shape[2:], padding, dilation, down.shape[2:], stride, strict=True)
        out = [(size + 2 * pad - gap * (kernel - 1) - 1) // step + 1 for size, pad, gap, kernel, step in sizes]
        places = grad.mT.reshape(grad.shape[0], grad.shape[2], *out)
        of_x, of_down, _ = torch.ops.aten.convolution_backward(
            places, x, down, None, stride, padding, dilation, False, [0, 0], 1, [needs_x, needs_down, False]
        )
        return of_x, of_down
    of_x = (grad @ down).reshape(x.shape) if needs_x else None
    of_down = grad.flatten(0, 1).mT @ positions_first(x, base).flatten(0, 1) if needs_down else None
    return of_x, of_down


def symmetric_padding(base: nn.Conv2d) -> tuple[int, int]:
    """A convolution's padding in numbers, for each side of a row and of a column.

    Raises:
        ValueError: "same" for a kernel of even size, which is padded on one side more than on the other.
    """
    if not isinstance(base.padding, str):
        return base.padding[0], base.padding[1]
    left, right, top, bottom = base._reversed_padding_repeated_twice
    if left != right or top != bottom:
        raise ValueError("padding 'same' with a kernel of even size")
    return top, left


def add_up_product(output: Tensor, hidden: Tensor, up: Tensor, strength: float, base: nn.Linear | nn.Conv2d) -> None:
    """output += strength · hidden · upᵀ in the rows of ``output``, which the caller alone holds.

    Without the copies and the autograd function that training needs; takes 0.4 to 0.6 of their time for one row of 64
    tokens, 320 wide, rank 32 (float32, one CPU thread).

    Args:
        output: ``(rows, …, out)``, or ``(rows, out, h, w)`` of a convolution.
        hidden: ``(rows, positions, ranks)``.
        up: ``(out, ranks)``, or ``(rows, out, ranks)`` where the rows belong to different pairs.
    """
    if isinstance(base, nn.Conv2d):
        # Written channels first, as the output lies in memory.
        output.flatten(2).baddbmm_(up.expand(output.shape[0], -1, -1), hidden.mT, alpha=strength)
        return
    flat = positions_first(output, base)
    if up.dim() == 2 and (flat.is_contiguous() or flat.shape[0] == 1):
        wide = flat[0] if flat.shape[0] == 1 else flat.view(-1, flat.shape[-1])
        wide.addmm_(hidden.flatten(0, 1), up.mT, alpha=strength)
    else:
        flat.baddbmm_(hidden, up.mT.expand(flat.shape[0], -1, -1), alpha=strength)


def dropped(hidden: Tensor, dropout: float, rank_dropout: float) -> Tensor:
    """Element and rank dropout of a projection ``(rows, positions, ranks)``."""
    if dropout:
        hidden = F.dropout(hidden, dropout)
    if rank_dropout:
        ones = torch.ones(hidden.shape[0], 1, hidden.shape[2], dtype=hidden.dtype, device=hidden.device)
        hidden = hidden * F.dropout(ones, rank_dropout)
    return hidden


def positions_first(value: Tensor, base: nn.Linear | nn.Conv2d) -> Tensor:
    """Linear ``(rows, …, dim)`` or convolution ``(rows, dim, h, w)`` values as ``(rows, positions, dim)``."""
    if isinstance(base, nn.Conv2d):
        return value.flatten(2).mT
    return value.reshape(value.shape[0], -1, value.shape[-1])


def positions_back(value: Tensor, like: Tensor, base: nn.Linear | nn.Conv2d) -> Tensor:
    """The inverse of ``positions_first``, in the shape of ``like``."""
    return (value.mT if isinstance(base, nn.Conv2d) else value).reshape(like.shape)
