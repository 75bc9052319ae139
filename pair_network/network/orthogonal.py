"""Orthogonal bases for the down-factors, and measures of how far two branches are from orthogonal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from pair_network.errors import PairError


def layer_generator(basis_seed: int, layer_name: str) -> torch.Generator:
    """A CPU generator that depends on the seed and the layer's name alone.

    Two layers never share a basis, and a network can be rebuilt from its config whatever was drawn before.
    """
    digest = hashlib.sha256(f"{basis_seed}:{layer_name}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") % (1 << 63))


def orthonormal_rows(
    count: int,
    width: int,
    generator: torch.Generator,
    *,
    orthogonal_to: Tensor | None = None,
    layer_name: str = "layer",
) -> Tensor:
    """Random rows of one orthonormal basis (paper, section 4.2; the frozen A_content and A_style of eq. 8).

    Args:
        count: Number of rows.
        width: Length of a row: the layer's input width (times the kernel's area for a convolution).
        generator: Private generator; the caller's random stream is left alone.
        orthogonal_to: Rows ``(other, width)`` whose span is avoided; they need not be orthonormal themselves.
        layer_name: Named in the error.

    Returns:
        Tensor ``(count, width)``, float32; its Gram matrix is the identity to 1e-6.

    Raises:
        PairError: There are not ``count`` orthogonal directions in ``width`` dimensions.
    """
    taken = 0 if orthogonal_to is None else orthogonal_to.shape[0]
    if taken + count > width:
        raise PairError(
            f"{layer_name}: {taken + count} orthogonal rows (content rank + style rank) do not fit an input of width "
            f"{width}; lower network_dim or content_dim, or give this block a smaller rank with block_dims"
        )
    rows = torch.randn(count, width, generator=generator, dtype=torch.float64)
    if orthogonal_to is not None:
        known, _ = torch.linalg.qr(orthogonal_to.double().cpu().T)
        rows = rows - (rows @ known) @ known.T
    basis, triangular = torch.linalg.qr(rows.T)
    # QR leaves the signs to the LAPACK build; a positive diagonal makes the basis the same everywhere.
    drawn: Tensor = (basis * triangular.diagonal().sign()).T.float().contiguous()
    return drawn


def gram_defect(rows: Tensor) -> float:
    """Largest entry of |rows · rowsᵀ − I| for ``rows`` of shape (count, width), computed in float64."""
    flat = rows.detach().cpu().double().flatten(1)  # not every device has float64
    identity = torch.eye(flat.shape[0], dtype=flat.dtype, device=flat.device)
    return float((flat @ flat.T - identity).abs().max())


def branch_overlap(content_down: Tensor, style_down: Tensor) -> float:
    """Largest |cosine| between a row of one branch and a row of the other, in [0, 1]; 0 means orthogonal branches."""
    content, style = (down.detach().cpu().double().flatten(1) for down in (content_down, style_down))
    lengths = torch.outer(content.norm(dim=1), style.norm(dim=1)).clamp_min(1e-24)  # rows of zeros overlap with none
    return float(((content @ style.T).abs() / lengths).max())


def overlap_penalty(downs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean over layers of ‖Â_content Â_styleᵀ‖²_F, rows at length 1: a soft form of the paper's orthogonality.

    Cosines between rows, so that the penalty turns the branches apart instead of shrinking them. Layers of one shape
    are taken together, and no normalised copies are made: a third of the time of one layer after the other
    (benchmarks/NOTES.md).

    Args:
        downs: For each layer the content down ``(content_rank, in, …)`` and the style down ``(style_rank, in, …)``.

    Returns:
        Scalar in float32, between 0 and min(content_rank, style_rank) for orthonormal rows.
    """
    groups: dict[tuple[torch.Size, torch.Size], list[tuple[Tensor, Tensor]]] = {}
    for content, style in downs:
        groups.setdefault((content.shape, style.shape), []).append((content, style))
    sums = []
    for group in groups.values():
        content, style = (torch.stack(branch).float().flatten(2) for branch in zip(*group, strict=True))
        lengths = content.norm(dim=2).unsqueeze(2) * style.norm(dim=2).unsqueeze(1)
        sums.append((content @ style.mT / lengths.clamp_min(1e-12)).square().sum())
    return torch.stack(sums).sum() / len(downs)
