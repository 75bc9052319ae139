"""What every format is read into and written from: low-rank layers under diffusers' names.

A layer's weight difference is alpha / rank · up @ down. A layer may cover several of diffusers' modules (a joint qkv
projection): the rows of its up are then theirs, one after the other. Splitting and joining such layers moves rows and
columns and rounds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from convert.files import lazy
from convert.files.dtypes import promoted, same_bits
from convert.files.elements import F32, Element
from convert.files.lazy import Lazy
from pair_network.errors import PairError
from pair_network.families import Family
from pair_network.network.config import PairConfig

from .names import Modules, row_share

if TYPE_CHECKING:  # torch is imported with the first tensor
    from torch import Tensor

# Largest |Gram − I| of rows that count as one orthonormal basis; bfloat16 alone costs 1e-3.
ORTHONORMAL = 5e-3


@dataclass(frozen=True)
class Layer:
    """One low-rank layer.

    Attributes:
        modules: diffusers modules with component whose rows ``up`` holds, in order.
        down: ``(rank, in)`` or ``(rank, in, kh, kw)``.
        up: ``(out, rank)`` or ``(out, rank, 1, 1)``; a content branch has one for each pair, ``(pairs, out, rank, …)``.
        alpha: The layer's scale is alpha / rank.
    """

    modules: Modules
    down: Lazy
    up: Lazy
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank if self.rank else 0.0

    @property
    def is_conv(self) -> bool:
        return len(self.down.shape) == 4

    @property
    def out_dim(self) -> int:
        return self.up.shape[-4 if self.is_conv else -2]


Branch = dict[Modules, Layer]


@dataclass
class Adapter:
    """A LoRA file, whatever its format.

    Attributes:
        family: Model family.
        style: The layers; of a coupled checkpoint, its style branch.
        content: The content branch, empty unless the file is a coupled checkpoint.
        metadata: Text metadata of the file.
        source: The file, named in errors.
        format: Name of the format it was read from.
        is_sure: The family follows from the file; otherwise it is the likeliest of several.
        config: Settings of a coupled checkpoint.
        styles: Styles of names found.
        fits: Families that names and widths fit, the chosen one among them.
        embeddings: Bundled textual inversions, by key.
        additions: Differences beside the factors (norms, biases, whole weights), by key.
        left_out: What was left out on request, key -> what it is.
    """

    family: Family
    style: Branch
    content: Branch
    metadata: dict[str, str]
    source: Path
    format: str
    is_sure: bool = True
    config: PairConfig | None = None
    styles: frozenset[str] = field(default_factory=frozenset)
    embeddings: dict[str, Lazy] = field(default_factory=dict)
    additions: dict[str, Lazy] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    fits: tuple[str, ...] = ()


def fold_alpha(layer: Layer) -> Layer:
    """The same delta with alpha = rank. The factor goes into up alone: down's rows may be orthonormal."""
    return replace(layer, up=lazy.scaled(layer.up, layer.scale), alpha=float(layer.rank))


def strengthened(layer: Layer, factor: float) -> Layer:
    """The layer with its delta × factor, in alpha."""
    return layer if factor == 1 else replace(layer, alpha=layer.alpha * factor)


def swap_halves(layer: Layer) -> Layer:
    """The layer with the halves of its rows exchanged: (shift, scale) ↔ (scale, shift)."""
    half = layer.out_dim // 2
    return replace(layer, up=lazy.mapped(layer.up, lambda up: up.roll(half, dims=-2)))


def needs_swap(layer: Layer) -> bool:
    """Of the layers that may be (shift, scale), those are that have twice as many rows as inputs."""
    return layer.out_dim == 2 * layer.down.shape[1]


def row_ranges(modules: Modules, out_dim: int, source: object) -> list[tuple[int, int]]:
    """First and last row (exclusive) of each module in a joint layer.

    Raises:
        PairError: The number of rows does not divide as the modules' shares want.
    """
    shares = [row_share(module) for module in modules] if len(modules) > 1 else [1]
    unit, left = divmod(out_dim, sum(shares))
    if left:
        raise PairError(
            f"{source}: {modules[0]} and its joint parts have {out_dim} rows, which do not divide by {shares}"
        )
    ends = list(accumulate(share * unit for share in shares))
    return list(zip([0, *ends], ends, strict=False))


def split(layer: Layer, source: object) -> list[Layer]:
    """A joint layer as one layer for each module.

    Each keeps only the ranks that reach its rows: what ``join`` stacked comes apart again, and a dense joint layer
    gives all of its ranks to every module. A module that no rank reaches is left out, its delta is zero.
    """
    if len(layer.modules) == 1:
        return [layer]
    up = layer.up.load()
    parts = []
    for module, (first, last) in zip(layer.modules, row_ranges(layer.modules, layer.out_dim, source), strict=True):
        rows = up[..., first:last, :]
        used = rows.reshape(-1, layer.rank).ne(0).any(dim=0)
        if used.any() or not up.any():
            parts.append(_part(layer, module, first, last, used if used.any() else ~used))
    return parts


def _part(layer: Layer, module: str, first: int, last: int, used: Tensor) -> Layer:
    keep = used.nonzero().flatten()
    is_all = len(keep) == layer.rank
    up_shape = (*layer.up.shape[:-2], last - first, len(keep))
    up = lazy.mapped(layer.up, lambda up: up[..., first:last, :][..., keep], up_shape)
    down = (
        layer.down if is_all else lazy.mapped(layer.down, lambda down: down[keep], (len(keep), *layer.down.shape[1:]))
    )
    return Layer((module,), down, up, layer.scale * len(keep))


def join(parts: Sequence[Layer], modules: Modules, source: object) -> Layer:
    """Layers of some of ``modules`` as one joint layer over all of them; absent modules get zero rows.

    Parts with the same down share it, so that splitting is undone; otherwise the ranks are stacked.

    Raises:
        PairError: The parts' widths do not fit each other.
    """
    if len(parts) == 1 and parts[0].modules == modules:
        return parts[0]
    parts = sorted(parts, key=lambda part: modules.index(part.modules[0]))
    unit, ranges = _joint_rows(parts, modules, source)
    if len({part.scale for part in parts}) > 1:
        parts = [fold_alpha(part) for part in parts]
    shared = all(_same(part.down, parts[0].down) for part in parts)
    element = promoted(*(part.up.element for part in parts))
    rank = parts[0].rank if shared else sum(part.rank for part in parts)
    lead = parts[0].up.shape[:-2]
    out_dim = unit * sum(row_share(module) for module in modules)

    def load_up() -> Tensor:
        import torch

        dtype = element.dtype
        up, column = torch.zeros(*lead, out_dim, rank, dtype=dtype), 0
        for part, (first, last) in zip(parts, ranges, strict=True):
            up[..., first:last, column : column + part.rank] = part.up.load().to(dtype)
            column += 0 if shared else part.rank
        return up

    down = parts[0].down if shared else concatenated([part.down for part in parts])
    return Layer(modules, down, Lazy((*lead, out_dim, rank), element, load_up), parts[0].scale * rank)


def _joint_rows(parts: Sequence[Layer], modules: Modules, source: object) -> tuple[int, list[tuple[int, int]]]:
    """Width of one share, and the rows of each part in the joint layer."""
    units = {part.out_dim / sum(row_share(module) for module in part.modules) for part in parts}
    widths = {part.down.shape[1:] for part in parts}
    if len(units) != 1 or len(widths) != 1 or not next(iter(units)).is_integer():
        raise PairError(
            f"{source}: {', '.join(p.modules[0] for p in parts)} have widths that do not fit one joint layer"
        )
    unit = int(next(iter(units)))
    ends = list(accumulate(row_share(module) * unit for module in modules))
    starts = dict(zip(modules, [0, *ends], strict=False))
    ranges = []
    for part in parts:
        position = modules.index(part.modules[0])
        if modules[position : position + len(part.modules)] != part.modules:
            raise PairError(f"{source}: {part.modules[0]} is given twice, or in an order that the model does not have")
        ranges.append((starts[part.modules[0]], starts[part.modules[0]] + part.out_dim))
    return unit, ranges


def _same(first: Lazy, second: Lazy) -> bool:
    if first is second or (first.stored is not None and first.stored == second.stored):
        return True
    return first.shape == second.shape and first.element == second.element and same_bits(first.load(), second.load())


def concatenated(parts: Sequence[Lazy], dim: int = 0) -> Lazy:
    """``torch.cat`` along a dimension, in the widest of the parts' types."""
    element = promoted(*(part.element for part in parts))
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)

    def load() -> Tensor:
        import torch

        return torch.cat([part.load().to(element.dtype) for part in parts], dim)

    return Lazy(tuple(shape), element, load)


def by_module(branch: Mapping[Modules, Layer], source: object) -> Branch:
    """The branch with every joint layer split."""
    return {part.modules: part for layer in branch.values() for part in split(layer, source)}


def delta(layer: Layer, element: Element = F32) -> Tensor:
    """alpha / rank · up @ down, in the shape of the base weight: (out, in) or (out, in, kh, kw)."""
    up, down = (factor.load().to(element.dtype) for factor in (layer.up, layer.down))
    product = up.reshape(-1, layer.rank) @ down.flatten(1)
    return (product * layer.scale).reshape(-1, *down.shape[1:])
