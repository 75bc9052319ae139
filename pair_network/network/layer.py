"""A coupled LoRA layer: content and style branch as one low-rank product, routed per batch row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pair_network.errors import PairError

from .config import PairConfig
from .factors import CoupledDown, CoupledUp, gather_parts, joined_up, spread_parts
from .orthogonal import layer_generator, orthonormal_rows
from .product import add_up_product, down_product, dropped, positions_back, positions_first
from .route import Routing, RowPlan
from .targets import Layer


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

    base: Layer
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
        largest = max(self.content_rank, self.style_rank) // max(1, len(self.splits))
        if largest > width:
            raise PairError(
                f"{self.name}: rank {largest} is more than the {width} inputs of the layer; lower network_dim or "
                "content_dim, or give this block a smaller rank with block_dims"
            )
        if not self.config.trains_downs:
            return orthonormal_rows(count, width, generator, layer_name=self.name)
        # kohya's own initialisation, kaiming_uniform_(a=√5), is uniform within ±1/√width.
        return (torch.rand(count, width, generator=generator) * 2 - 1) / math.sqrt(width)

    def set_num_pairs(self, num_pairs: int) -> None:
        """Content ups anew, at zero, for that many pairs."""
        self.config = replace(self.config, num_pairs=num_pairs)
        self.content_up = nn.Parameter(self.content_up.new_zeros(num_pairs, *self.content_up.shape[1:]))

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

    def tensors(self, branch: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
        """A branch's down, up and alpha under kohya's names, on the CPU; alpha stays in float32."""
        number = int(branch == "style")
        down, up = self.downs()[number], self.ups()[number]
        scale = self.style_scale if branch == "style" else self.content_scale
        kernel = (1,) * (down.dim() - 2)  # convolutions: (out, rank, 1, 1)
        return {
            f"{self.name}.lora_down.weight": down.detach().to("cpu", dtype),
            f"{self.name}.lora_up.weight": up.detach().to("cpu", dtype).reshape(*up.shape, *kernel),
            f"{self.name}.alpha": torch.tensor(scale * down.shape[0]),
        }

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
        """The hook: ``output`` with the branches of the active rows."""
        if self.routing.multiplier == 0:
            return output
        x = args[0]
        plan = self.routing.plan(x.shape[0], x.device)
        if plan.num_active == 0 or self._skips_step():
            return output
        if not torch.is_grad_enabled() and not plan.is_scattered and output.is_contiguous():
            self._add_in_place(x, output, plan)
            return output
        if not plan.is_partial:
            return self._coupled(x, output, plan)
        # Rows that use no branch must keep their bits, so they take no part in the product.
        changed = output.clone() if torch.is_grad_enabled() else output
        changed[plan.active] = self._coupled(x[plan.active], output[plan.active], plan)
        return changed

    def _coupled(self, x: Tensor, output: Tensor, plan: RowPlan) -> Tensor:
        """``output`` with both branches of every active row added, for training."""
        dtype = output.dtype
        flat = positions_first(output, self.base)
        hidden = self._projected(x, dtype, plan) * self._weights(plan, dtype)
        apply: Callable[..., Tensor] = CoupledUp.apply
        return positions_back(apply(flat, hidden, *self._used_ups(plan, dtype), plan), output, self.base)

    def _add_in_place(self, x: Tensor, output: Tensor, plan: RowPlan) -> None:
        """The same without gradient, in ``output`` itself, which nobody else holds: the base layer just made it."""
        dtype, strength = output.dtype, 1.0
        hidden = self._projected(x[plan.active], dtype, plan)
        if plan.uniform_strength is None:
            hidden = hidden * self._weights(plan, dtype)
        else:
            strength = plan.uniform_strength * self.style_scale
        up = joined_up(*self._used_ups(plan, dtype), plan)
        add_up_product(output[plan.active], hidden, up, strength, self.base)

    def _skips_step(self) -> bool:
        probability = self.config.module_dropout
        return self.training and probability > 0 and bool(torch.rand(()) < probability)

    def _weights(self, plan: RowPlan, dtype: torch.dtype) -> Tensor:
        return plan.weights(self.content_rank, self.style_rank, self.content_scale, self.style_scale, dtype)

    def _used_ups(self, plan: RowPlan, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        content = spread_parts(self.content_up, self.splits).to(dtype) if plan.has_content else None
        return content, spread_parts(self.style_up, self.splits).to(dtype) if plan.has_style else None

    def _projected(self, x: Tensor, dtype: torch.dtype, plan: RowPlan) -> Tensor:
        """The used branches' projections ``(rows, positions, ranks)``, after dropout.

        Args:
            dtype: The host's precision, whether it comes from autocast or from the weights.
        """
        hidden = self._project(x.to(dtype), dtype, plan)
        return dropped(hidden, self.config.dropout, self.config.rank_dropout) if self.training else hidden

    def _project(self, x: Tensor, dtype: torch.dtype, plan: RowPlan) -> Tensor:
        """The down product; shielded rows never train the content down."""
        if not (self.config.trains_downs and plan.has_content and plan.has_shielded):
            return down_product(x, self._used_downs(plan).to(dtype), self.base)
        content, style = self.downs()
        if plan.has_free:
            used_style = style.to(dtype) if plan.has_style else None
            apply: Callable[..., Tensor] = CoupledDown.apply
            return apply(x, content.to(dtype), used_style, plan, self.base)
        return down_product(x, self._stacked(content.detach(), style, plan).to(dtype), self.base)

    def _used_downs(self, plan: RowPlan) -> Tensor:
        """The downs of the used branches, content before style; frozen ones are a view of one buffer."""
        if self.config.trains_downs:
            return self._stacked(self.content_down, self.style_down, plan)
        first = 0 if plan.has_content else self.content_rank
        return self.down[first : None if plan.has_style else self.content_rank]

    def _stacked(self, content: Tensor, style: Tensor, plan: RowPlan) -> Tensor:
        if not plan.has_style:
            return content
        return torch.cat([content, style]) if plan.has_content else style


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
