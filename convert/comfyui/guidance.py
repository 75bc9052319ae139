"""Style guidance as functions of tensors (Pair Customization, eq. 10 and 11); nothing of ComfyUI is needed here."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def style_shift(
    cond: Tensor, styles: Sequence[Tensor], scales: Sequence[float], coverages: Sequence[Tensor | float]
) -> Tensor:
    """δ = Σ λ_i m_i (style_i − cond), the last term of eq. 10 and 11.

    Added to any combination uncond + s · (cond − uncond) it gives the guided prediction. ComfyUI's models predict the
    clean latents x0; for one x and σ that is affine in ε, v and flow, so the formula is the same for all of them.

    Args:
        cond: The base model's prediction under the positive prompt, (batch, channels, …).
        styles: Predictions with one style LoRA each under its style prompt, shaped like ``cond``.
        scales: λ of each style.
        coverages: m of each style: 1, or how much of each place its own area or mask covers, shaped like ``cond``.
    """
    shift = cond.new_zeros(cond.shape)
    for style, scale, coverage in zip(styles, scales, coverages, strict=True):
        shift = shift + scale * coverage * (style - cond)
    return shift


def is_in_interval(sigma: float, first_sigma: float, last_sigma: float) -> bool:
    """Whether a step at noise level ``sigma`` uses the style: from ``first_sigma`` down to above ``last_sigma``."""
    return last_sigma < sigma <= first_sigma
