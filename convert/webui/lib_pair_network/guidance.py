"""Style guidance as functions of tensors (Pair Customization, eq. 10 and 11); linear, so ε, v, x0 and flow alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import GuidanceError

# One image's rows in a batch of prompt parts (AND): [(row, weight of the part), …]
Composition = Sequence[Sequence[tuple[int, float]]]


def style_shift(style: Tensor, cond: Tensor, scale: float, composition: Composition) -> Tensor:
    """δ = λ Σ_j w_j (style_j − cond_j) of each image, over the parts j that AND joins; one part of weight 1 as a rule.

    With AND a UI makes uncond + s Σ w_j (cond_j − uncond), so each part has its own style term of the same weight.

    Args:
        style: Predictions with the style LoRA and the style words, (rows, …).
        cond: The plain predictions of the same rows.
        scale: λ.
        composition: For each image its rows and their weights.

    Returns:
        (images, …)
    """
    difference = style - cond
    images = [torch.stack([weight * difference[row] for row, weight in rows]).sum(0) for rows in composition]
    return scale * torch.stack(images)


def add_to_rows(rows: Tensor, shift: Tensor, composition: Composition) -> None:
    """Adds δ in place to every row of its image, conditional or not.

    uncond + s (cond − uncond) then moves by exactly δ, whatever s, the weights of AND and skipped null rows are.

    Args:
        rows: (conditional rows, then whole sets of null rows, …) as the UI laid them out.
        shift: δ of each image, (images, …).
        composition: For each image its conditional rows and their weights.
    """
    total = 0
    for image, parts in enumerate(composition):
        for row, _ in parts:
            rows[row] += shift[image].to(rows.dtype)
            total += 1
    for row in range(total, rows.shape[0]):
        rows[row] += shift[(row - total) % len(composition)].to(rows.dtype)


def combine_rows(rows: Tensor, scale: float, composition: Composition) -> None:
    """Puts uncond + scale Σ_j w_j (cond_j − uncond) in place into every row of its image.

    Whatever CFG scale and weights the UI combines the rows with, it then gets that: CFG of the content is ``scale``.

    Args:
        rows: (conditional rows, then one null row of each image, …).
        scale: 1 for the plain conditional prediction.
        composition: For each image its conditional rows and their weights.

    Raises:
        GuidanceError: Each image has several null rows, as in models that edit a picture by instructions.
    """
    count = sum(map(len, composition))
    if rows.shape[0] != count + len(composition):
        raise GuidanceError("content CFG until: this model has a CFG of its own for the picture; set it to 1")
    for image, parts in enumerate(composition):
        null = rows[count + image]
        combined = null + scale * torch.stack([weight * (rows[row] - null) for row, weight in parts]).sum(0)
        for row in [*(row for row, _ in parts), count + image]:
            rows[row] = combined


def is_in_interval(progress: float, start: float, end: float) -> bool:
    """Whether a step that begins at ``progress`` (0 at the first step, 1 after the last) uses the style."""
    return start <= progress < end or (progress >= 1 <= end)


def schedule_progress(call: int, calls: int, entered: float = 0.0) -> float:
    """Part of the whole noise schedule that lies behind a model call.

    Args:
        call: Number of model calls before this one in the sampling.
        calls: All of the sampling; samplers of second order make two in a step.
        entered: Part of the schedule that was left out: image to image of strength 0.6 enters at 0.4.
    """
    return entered + (1 - entered) * min(call / max(calls, 1), 1.0)
