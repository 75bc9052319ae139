"""The pairs of a run in one picture: content beside style, with their captions, to be looked at before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pair_network.sampling.previews import grid, save_picture
from pair_network.training.prepare import Pair, fitted

MOST = 12  # rows; of more pairs the first are shown


def write_sheet(pairs: Sequence[Pair], path: Path, fit: str = "error", background: str = "white") -> None:
    """Writes the sheet as PNG; raises as ``fitted`` does."""
    rows = [[picture.image for picture in fitted(pair, fit, background)] for pair in pairs[:MOST]]
    more = f" (the first {MOST} of {len(pairs)})" if len(pairs) > MOST else ""
    labels = ["content: the photo", "style: the same, painted"]
    save_picture(path, grid(rows, labels, [pair.name for pair in pairs[:MOST]], f"pairs{more}"))
