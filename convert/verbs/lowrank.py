"""Sums and truncations of low-rank layers, computed on their factors and never on a dense matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convert.files.lazy import from_tensor
from convert.formats.layers import Layer


@dataclass(frozen=True)
class Factored:
    """Singular value decomposition of a delta: left @ diag(values) @ right.

    Attributes:
        left: ``(out, rank)``, orthonormal columns, float64.
        values: ``(rank,)``, falling, float64.
        right: ``(rank, in)``, orthonormal rows, float64.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def lost(self, rank: int) -> float:
        """Square of what truncation to ``rank`` loses, in the Frobenius norm."""
        return float(self.values[rank:].square().sum())


def factored(layer: Layer) -> Factored:
    """The layer's delta, alpha included, by its singular values: two thin QRs and an SVD of (rank, rank)."""
    up = layer.up.load().double().reshape(layer.out_dim, layer.rank) * layer.scale
    down = layer.down.load().double().flatten(1)
    left, left_core = torch.linalg.qr(up)
    right, right_core = torch.linalg.qr(down.mT)
    core, values, core_right = torch.linalg.svd(left_core @ right_core.mT, full_matrices=False)
    return Factored(left @ core, values, core_right @ right.mT)


def truncated(layer: Layer, rank: int, dtype: torch.dtype | None = None) -> Layer:
    """The best approximation of a rank; its down has orthonormal rows and its alpha is its rank.

    Args:
        layer: Any layer; one that has no more than ``rank`` directions keeps them all.
        rank: At least 1.
        dtype: Of the result; the layer's own by default.
    """
    parts = factored(layer)
    kept = min(rank, int(parts.values.count_nonzero().clamp(min=1)))
    up = parts.left[:, :kept] * parts.values[:kept]
    down = parts.right[:kept]
    up = up.reshape(*layer.up.shape[:1], kept, *layer.up.shape[2:]).to(dtype or layer.up.dtype)
    down = down.reshape(kept, *layer.down.shape[1:]).to(dtype or layer.down.dtype)
    return Layer(layer.modules, from_tensor(down.contiguous()), from_tensor(up.contiguous()), float(kept))


def rank_for_energy(values: Tensor, energy: float) -> int:
    """Smallest rank whose singular values hold this share of the squared norm; at least 1."""
    squares = values.square()
    total = float(squares.sum())
    if not total:
        return 1
    shares = squares.cumsum(0) / total
    return min(int((shares < energy).sum()) + 1, len(values))


def ranks_for_size(spectra: Sequence[Tensor], widths: Sequence[int], budget: int) -> list[int]:
    """Ranks that keep the most energy in ``budget`` numbers.

    Greedy by energy per number spent, which is optimal here as singular values fall within each layer.

    Args:
        spectra: Singular values of each layer, falling.
        widths: Numbers that one rank costs in each layer, inputs + outputs.
        budget: Numbers to spend; every layer gets one rank even where that alone exceeds it.
    """
    ranks = [1] * len(spectra)
    left = budget - sum(widths)
    gains = [
        (float(value) ** 2 / width, index, position)
        for index, (values, width) in enumerate(zip(spectra, widths, strict=True))
        for position, value in enumerate(values[1:].tolist(), start=1)
    ]
    for _, index, position in sorted(gains, key=lambda gain: (-gain[0], gain[1], gain[2])):
        # A rank is worth nothing without the ones before it; ties could otherwise skip one.
        if widths[index] <= left and position == ranks[index]:
            ranks[index] += 1
            left -= widths[index]
    return ranks


def dense_factors(matrix: Tensor, rank: int, generator: torch.Generator, iterations: int = 4) -> Factored:
    """The leading ``rank`` singular triples of a dense matrix ``(out, in)``, in float32.

    Randomised subspace iteration: for a rank far below the width it is many times faster than a full SVD, and exact to
    rounding where the matrix has no more than ``rank`` directions. Small or wide requests take the full SVD.
    """
    matrix = matrix.float()
    smaller = min(matrix.shape)
    if rank * 4 >= smaller:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return Factored(left[:, :rank], values[:rank], right[:rank])
    probes = torch.randn(matrix.shape[1], rank + 8, generator=generator)
    basis, _ = torch.linalg.qr(matrix @ probes)
    for _ in range(iterations):
        other, _ = torch.linalg.qr(matrix.mT @ basis)
        basis, _ = torch.linalg.qr(matrix @ other)
    left, values, right = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
    return Factored(basis @ left[:, :rank], values[:rank], right[:rank])
