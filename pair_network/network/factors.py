"""The ups of a coupled layer: both branches' product with its gradient, and a fused layer's parts."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from pair_network.errors import PairError

from .product import down_gradients, down_product
from .route import RowPlan


class UpContext(Protocol):
    """What autograd hands from ``CoupledUp``'s forward to its backward."""

    plan: RowPlan
    saved_tensors: tuple[Tensor, Tensor | None, Tensor | None]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


class CoupledUp(torch.autograd.Function):
    """base + [content_up | style_up] · hidden, where shielded rows leave no gradient on ``content_up``.

    Plain autograd with ``content_up.detach()`` on the shielded rows gives the same numbers, but needs two products
    and forms the gradient that it then drops.
    """

    @staticmethod
    def forward(
        ctx: UpContext, base: Tensor, hidden: Tensor, content_up: Tensor | None, style_up: Tensor | None, plan: RowPlan
    ) -> Tensor:
        """``base`` (rows, n, out); ``hidden`` (rows, n, ranks), masked and scaled; ups (pairs, out, rc), (out, rs)."""
        ctx.save_for_backward(hidden, content_up, style_up)
        ctx.plan = plan
        up = joined_up(content_up, style_up, plan)
        if up.dim() == 2:
            return torch.addmm(base.flatten(0, 1), hidden.flatten(0, 1), up.mT).view(base.shape)
        return torch.baddbmm(base, hidden, up.mT)

    @staticmethod
    def backward(ctx: UpContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, content_up, style_up = ctx.saved_tensors
        plan = ctx.plan
        needs_hidden, needs_content, needs_style = ctx.needs_input_grad[1:4]
        grad_hidden = grad @ joined_up(content_up, style_up, plan) if needs_hidden else None
        grad_content = grad_style = None
        content_rank = 0 if content_up is None else content_up.shape[-1]
        if needs_content and content_up is not None:
            # Always dense: a parameter without a gradient on one rank of a distributed run would hang the reduction.
            grad_content = torch.zeros_like(content_up)
            for pair, rows in plan.pair_groups:
                grad_content[pair] = _outer(grad[rows], hidden[rows][..., :content_rank])
        if needs_style:
            rows = plan.style_index
            grad_style = _outer(grad[rows], hidden[rows][..., content_rank:])
        return grad, grad_hidden, grad_content, grad_style, None


class DownContext(Protocol):
    """What autograd hands from ``CoupledDown``'s forward to its backward."""

    plan: RowPlan
    base: nn.Linear | nn.Conv2d
    saved_tensors: tuple[Tensor, Tensor, Tensor | None]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


class CoupledDown(torch.autograd.Function):
    """[content_down | style_down] · x in one product, where shielded rows leave no gradient on ``content_down``.

    For downs that train, in a batch of free and of shielded rows. Plain autograd with ``content_down.detach()`` gives
    the same numbers, but needs a product for each kind of row and puts the two together.
    """

    @staticmethod
    def forward(
        ctx: DownContext,
        x: Tensor,
        content_down: Tensor,
        style_down: Tensor | None,
        plan: RowPlan,
        base: nn.Linear | nn.Conv2d,
    ) -> Tensor:
        """``x`` of the layer's input shape; downs (rc, in, …), (rs, in, …); (rows, positions, ranks)."""
        ctx.save_for_backward(x, content_down, style_down)
        ctx.plan, ctx.base = plan, base
        return down_product(x, joined_down(content_down, style_down), base)

    @staticmethod
    def backward(ctx: DownContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, content_down, style_down = ctx.saved_tensors
        plan = ctx.plan
        needs_x, needs_content, needs_style = ctx.needs_input_grad[:3]
        grad_x = down_gradients(grad, x, joined_down(content_down, style_down), ctx.base, (needs_x, False))[0]
        rank, free, grad_style = content_down.shape[0], plan.free, None
        own = down_gradients(grad[free][..., :rank], x[free], content_down, ctx.base, (False, needs_content))
        if style_down is not None:
            # Rows without the style branch have no gradient in its ranks.
            rows = plan.style_index
            grad_style = down_gradients(grad[rows][..., rank:], x[rows], style_down, ctx.base, (False, needs_style))[1]
        return grad_x, own[1], grad_style, None, None


def joined_down(content_down: Tensor, style_down: Tensor | None) -> Tensor:
    """The used downs, content above style: (ranks, in, …)."""
    return content_down if style_down is None else torch.cat([content_down, style_down])


def joined_up(content_up: Tensor | None, style_up: Tensor | None, plan: RowPlan) -> Tensor:
    """The used ups side by side: (out, ranks), or (rows, out, ranks) when the rows belong to different pairs."""
    if content_up is None:
        assert style_up is not None
        return style_up
    chosen = content_up[plan.pairs]
    if style_up is None:
        return chosen
    return torch.cat([chosen, style_up.expand(*chosen.shape[:-2], *style_up.shape)], dim=-1)


def _outer(grad: Tensor, hidden: Tensor) -> Tensor:
    """Sum over rows and positions of grad ⊗ hidden: (out, rank)."""
    return grad.flatten(0, 1).mT @ hidden.flatten(0, 1)


def spread_parts(up: Tensor, splits: tuple[int, ...]) -> Tensor:
    """Ups of a fused layer's parts ``(…, out, rank)`` as one block-diagonal factor ``(…, out, parts · rank)``.

    Part by part, so that q, k and v each read inputs of their own, as kohya's files with split q, k and v do.
    """
    if not splits:
        return up
    if up.dim() > 2:
        return torch.stack([spread_parts(one, splits) for one in up])
    joined: Tensor = torch.block_diag(*torch.split(up, list(splits)))
    return joined


def gather_parts(up: Tensor, splits: tuple[int, ...], name: str) -> Tensor:
    """The inverse of ``spread_parts``.

    Raises:
        PairError: Something stands outside the diagonal blocks.
    """
    if not splits:
        return up
    rows = torch.split(up, list(splits), dim=-2)
    blocks = [part.chunk(len(splits), dim=-1)[i] for i, part in enumerate(rows)]
    gathered = torch.cat(blocks, dim=-2)
    if not torch.equal(spread_parts(gathered, splits), up):
        raise PairError(f"{name}: its q, k and v share factors in this file; train without split_qkv")
    return gathered
