"""How orthonormal and how large layers are, in numpy: looking at a file needs no torch.

The same measures as ``pair_network.network.orthogonal`` has for tensors; a test holds them together.
"""

from __future__ import annotations

import numpy as np

from .layers import Layer


def flat(down: np.ndarray) -> np.ndarray:
    """A down ``(rank, in, …)`` as rows ``(rank, width)``."""
    return down.reshape(down.shape[0], -1)


def gram_defect(rows: np.ndarray) -> float:
    """Largest entry of |rows · rowsᵀ − I| for rows ``(count, width)``."""
    return float(np.abs(rows @ rows.T - np.eye(len(rows))).max())


def branch_overlap(content: np.ndarray, style: np.ndarray) -> float:
    """Largest |cosine| between a row of one branch and a row of the other, in [0, 1]."""
    first, second = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (content, style))
    return float(np.abs(first @ second.T).max())


def delta_norm(layer: Layer) -> float:
    """Frobenius norm of alpha / rank · up @ down, from the two small Gram matrices."""
    down, up = flat(layer.down.numbers()), layer.up.numbers().reshape(-1, layer.rank)
    square = float(((up.T @ up) * (down @ down.T)).sum())
    return abs(layer.scale) * max(square, 0.0) ** 0.5
