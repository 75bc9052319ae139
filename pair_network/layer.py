"""A coupled LoRA layer: content and style branch as one low-rank product, routed per batch row."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from .config import PairConfig
from .errors import PairError
from .orthogonal import layer_generator, orthonormal_rows
from .route import Routing, RowPlan


class CoupledUp(torch.autograd.Function):
    """base + [content_up | style_up] · hidden, where shielded rows leave no gradient on ``content_up``.

    Plain autograd with ``content_up.detach()`` on the shielded rows gives the same numbers, but needs two products
    and forms the gradient that it then drops.
    """

    @staticmethod
    def forward(
        ctx, base: Tensor, hidden: Tensor, content_up: Tensor | None, style_up: Tensor | None, plan: RowPlan
    ) -> Tensor:
        """``base`` (rows, n, out); ``hidden`` (rows, n, ranks), masked and scaled; ups (pairs, out, rc), (out, rs)."""
        ctx.save_for_backward(hidden, content_up, style_up)
        ctx.plan = plan
        up = _joined_up(content_up, style_up, plan)
        if up.dim() == 2:
            return torch.addmm(base.flatten(0, 1), hidden.flatten(0, 1), up.mT).view(base.shape)
        return torch.baddbmm(base, hidden, up.mT)

    @staticmethod
    def backward(ctx, grad: Tensor):
        hidden, content_up, style_up = ctx.saved_tensors
        plan: RowPlan = ctx.plan
        needs_hidden, needs_content, needs_style = ctx.needs_input_grad[1:4]
        grad_hidden = grad @ _joined_up(content_up, style_up, plan) if needs_hidden else None
        grad_content = grad_style = None
        content_rank = 0 if content_up is None else content_up.shape[-1]
        if needs_content:
            # Always dense: a parameter without a gradient on one rank of a distributed run would hang the reduction.
            grad_content = torch.zeros_like(content_up)
            for pair, rows in plan.pair_groups:
                grad_content[pair] = _outer(grad[rows], hidden[rows][..., :content_rank])
        if needs_style:
            rows = plan.style_index
            grad_style = _outer(grad[rows], hidden[rows][..., content_rank:])
        return grad, grad_hidden, grad_content, grad_style, None


def _joined_up(content_up: Tensor | None, style_up: Tensor | None, plan: RowPlan) -> Tensor:
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
    return torch.block_diag(*up.split(list(splits)))


def gather_parts(up: Tensor, splits: tuple[int, ...], name: str) -> Tensor:
    """The inverse of ``spread_parts``.

    Raises:
        PairError: Something stands outside the diagonal blocks.
    """
    if not splits:
        return up
    rows = up.split(list(splits), dim=-2)
    blocks = [part.chunk(len(splits), dim=-1)[i] for i, part in enumerate(rows)]
    gathered = torch.cat(blocks, dim=-2)
    if not torch.equal(spread_parts(gathered, splits), up):
        raise PairError(f"{name}: its q, k and v share factors in this file; train without split_qkv")
    return gathered


class CoupledLayer(nn.Module):
    """Content and style branch of one linear or convolution layer.

    Args:
        name: kohya's key of the layer, ``lora_unet_…``; it also seeds the layer's private generator.
        base: The ``nn.Linear`` or ``nn.Conv2d``; it is not registered here, only hooked by ``attach``.
        config: The network's settings.
        routing: Route and strength, shared by all layers of the network.
        style_rank, content_rank: Ranks in this layer; with ``splits``, in each part of it.
        splits: Output widths of the parts of a fused layer (q, k, v, …) that get factors of their own; empty: one part.

    Raises:
        PairError: The ranks do not fit the layer's input, or the layer is a grouped convolution.
    """

    base: Any  # the nn.Linear or nn.Conv2d
    down: Tensor  # frozen: content rows, then style rows

    def __init__(
        self,
        name: str,
        base: nn.Module,
        config: PairConfig,
        routing: Routing,
        style_rank: int,
        content_rank: int,
        splits: tuple[int, ...] = (),
    ):
        super().__init__()
        self.name, self.config, self.routing, self.splits = name, config, routing, splits
        parts = max(1, len(splits))
        self.style_rank, self.content_rank = style_rank * parts, content_rank * parts
        # alpha / rank is the same in every block, also in those that block_dims gives another rank.
        self.style_scale = config.alpha / config.rank
        self.content_scale = config.content_alpha / config.content_rank
        object.__setattr__(self, "base", base)  # a registered child would be saved and trained with the network
        self._handle: RemovableHandle | None = None
        out_dim, down_shape = _layer_shape(base, name)
        down = self._initial_down(math.prod(down_shape))
        content_down, style_down = (
            rows.reshape(-1, *down_shape) for rows in down.split([self.content_rank, self.style_rank], dim=0)
        )
        if config.trains_downs:
            self.content_down = nn.Parameter(content_down.clone())
            self.style_down = nn.Parameter(style_down.clone())
        else:
            # A buffer: hosts call requires_grad_(True) on everything, which must not reach the frozen rows.
            self.register_buffer("down", torch.cat([content_down, style_down]))
        self.content_up = nn.Parameter(torch.zeros(config.num_pairs, out_dim, content_rank))
        self.style_up = nn.Parameter(torch.zeros(out_dim, style_rank))

    def _initial_down(self, width: int) -> Tensor:
        generator = layer_generator(self.config.basis_seed, self.name)
        count = self.content_rank + self.style_rank
        if not self.config.trains_downs:
            return orthonormal_rows(count, width, generator, layer_name=self.name)
        # kohya's own initialisation, kaiming_uniform_(a=√5), is uniform within ±1/√width.
        return (torch.rand(count, width, generator=generator) * 2 - 1) / math.sqrt(width)

    def ups(self) -> tuple[Tensor, Tensor]:
        """The content up ``(pairs, out, rank)`` and the style up ``(out, rank)``; a fused layer's parts spread out."""
        return spread_parts(self.content_up, self.splits), spread_parts(self.style_up, self.splits)

    @torch.no_grad()
    def set_up(self, branch: str, up: Tensor) -> None:
        """Takes the values of an up-factor in the shape that ``ups`` gives it, or with a convolution's two extra axes.

        Raises:
            PairError: The layer has parts, and the factor mixes them.
        """
        own = self.style_up if branch == "style" else self.content_up
        rank = self.style_rank if branch == "style" else self.content_rank
        own.copy_(gather_parts(up.reshape(*own.shape[:-1], rank), self.splits, self.name))

    def downs(self) -> tuple[Tensor, Tensor]:
        """The content and the style down, each ``(rank, in)`` or ``(rank, in, kh, kw)``."""
        if self.config.trains_downs:
            return self.content_down, self.style_down
        content, style = self.down.split([self.content_rank, self.style_rank], dim=0)
        return content, style

    def delta(self, branch: str = "style", pair: int = 0) -> Tensor:
        """Weight difference alpha / rank · up @ down of one branch, in the base weight's shape and float32."""
        content_down, style_down = self.downs()
        if branch == "style":
            delta = self.style_scale * self.ups()[1].float() @ style_down.float().flatten(1)
        else:
            delta = self.content_scale * self.ups()[0][pair].float() @ content_down.float().flatten(1)
        return delta.view(self.base.weight.shape)

    @property
    def is_attached(self) -> bool:
        return self._handle is not None

    def attach(self) -> None:
        """Adds the branches to the base layer's output from now on."""
        if not self.is_attached:
            self._handle = self.base.register_forward_hook(self._add_branches)

    def detach_from_base(self) -> None:
        """Leaves the base layer as it was before ``attach``."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _add_branches(self, base: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self.routing.multiplier == 0:
            return output
        x = args[0]
        plan = self.routing.plan(x.shape[0], x.device)
        if plan.num_active == 0 or self._skips_step():
            return output
        if plan.active is None:
            return self._coupled(x, output, plan)
        # Rows that use no branch must keep their bits, so they take no part in the product.
        rows = self._coupled(x.index_select(0, plan.active), output.index_select(0, plan.active), plan)
        return output.index_copy(0, plan.active, rows.to(output.dtype))

    def _skips_step(self) -> bool:
        probability = self.config.module_dropout
        return self.training and probability > 0 and bool(torch.rand(()) < probability)

    def _coupled(self, x: Tensor, output: Tensor, plan: RowPlan) -> Tensor:
        """``output`` with both branches of every active row added."""
        dtype = output.dtype  # the host's precision, whether it comes from autocast or from the weights
        hidden = self._project(x.to(dtype), dtype, plan)
        hidden = self._drop(_positions_first(hidden, self.base)) * plan.weights(
            self.content_rank, self.style_rank, self.content_scale, self.style_scale, dtype
        )
        content_up = spread_parts(self.content_up, self.splits).to(dtype) if plan.has_content else None
        style_up = spread_parts(self.style_up, self.splits).to(dtype) if plan.has_style else None
        flat = _positions_first(output, self.base)
        return _positions_back(CoupledUp.apply(flat, hidden, content_up, style_up, plan), output, self.base)

    def _project(self, x: Tensor, dtype: torch.dtype, plan: RowPlan) -> Tensor:
        """The down product of the used branches; shielded rows never train the content down."""
        content, style = self.downs()
        if not (self.config.trains_downs and plan.has_content and plan.has_shielded):
            return self._down(x, self._stacked(content, style, plan).to(dtype))
        shielded = self._down(x[plan.shielded], self._stacked(content.detach(), style, plan).to(dtype))
        if not plan.has_free:
            return shielded
        free = self._down(x[plan.free], self._stacked(content, style, plan).to(dtype))
        hidden = free.new_empty(x.shape[0], *free.shape[1:])
        hidden[plan.free] = free
        hidden[plan.shielded] = shielded
        return hidden

    def _stacked(self, content: Tensor, style: Tensor, plan: RowPlan) -> Tensor:
        if not plan.has_style:
            return content
        if not plan.has_content:
            return style
        return torch.cat([content, style]) if self.config.trains_downs else self.down

    def _down(self, x: Tensor, weight: Tensor) -> Tensor:
        base = self.base
        if isinstance(base, nn.Conv2d):
            return F.conv2d(x, weight, None, base.stride, base.padding, base.dilation)
        return F.linear(x, weight)

    def _drop(self, hidden: Tensor) -> Tensor:
        """Element and rank dropout of the projection ``(rows, n, ranks)`` while training."""
        if not self.training:
            return hidden
        if self.config.dropout:
            hidden = F.dropout(hidden, self.config.dropout)
        if self.config.rank_dropout:
            ones = torch.ones(hidden.shape[0], 1, hidden.shape[2], dtype=hidden.dtype, device=hidden.device)
            hidden = hidden * F.dropout(ones, self.config.rank_dropout)
        return hidden


def _layer_shape(base: nn.Module, name: str) -> tuple[int, tuple[int, ...]]:
    """Output width, and the shape of one row of the down-factor."""
    if isinstance(base, nn.Linear):
        return base.out_features, (base.in_features,)
    if not isinstance(base, nn.Conv2d):
        raise PairError(f"{name}: only Linear and Conv2d layers can carry a LoRA, not {type(base).__name__}")
    if base.groups != 1:
        raise PairError(f"{name}: a grouped convolution (groups={base.groups}) cannot be coupled; leave it out")
    if base.padding_mode != "zeros":
        raise PairError(f"{name}: padding mode {base.padding_mode!r} cannot be coupled; leave this layer out")
    return base.out_channels, (base.in_channels, *base.kernel_size)


def _positions_first(value: Tensor, base: nn.Module) -> Tensor:
    """Linear (rows, …, dim) or convolution (rows, dim, h, w) values as (rows, positions, dim)."""
    if isinstance(base, nn.Conv2d):
        return value.flatten(2).mT
    return value.reshape(value.shape[0], -1, value.shape[-1])


def _positions_back(value: Tensor, like: Tensor, base: nn.Module) -> Tensor:
    return (value.mT if isinstance(base, nn.Conv2d) else value).reshape(like.shape)
