"""Style guidance as functions of tensors (paper, eq. 9 to 11); linear, so it holds for ε, v, x0 and flow models.

At λ = 1 eq. 10 is style + (s − 1) (cond − uncond): the content's CFG is all that separates the picture from the style's
own prediction, and late in the schedule it pulls the prompt's colours back. ``cfg_end`` ends it before that, which is a
guidance interval (arXiv:2404.07724) for the content's CFG alone; the style's term goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def style_shift(cond: Tensor, styles: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """δ = Σ λ_i (style_i − cond), the last term of eq. 10 and 11.

    Added to both the conditional and the unconditional prediction it shifts any combination
    uncond + s · (cond − uncond) by exactly δ, for hosts that combine the two themselves.

    Args:
        cond: The base model's conditional prediction ε_θ0(x_t, c), of any shape.
        styles: Predictions with one style LoRA each and its style prompt, shaped like ``cond``.
        scales: λ of each style.
    """
    shift = cond.new_zeros(cond.shape)
    for style, scale in zip(styles, scales, strict=True):
        shift = shift + scale * (style - cond)
    return shift


def style_guided(
    uncond: Tensor | None, cond: Tensor, styles: Sequence[Tensor], guidance_scale: float, scales: Sequence[float]
) -> Tensor:
    """uncond + guidance_scale (cond − uncond) + Σ λ_i (style_i − cond): eq. 10, and eq. 11 for several styles.

    Args:
        uncond: Null-prompt prediction, or None for distilled models that run without CFG.
        cond, styles, scales: As in ``style_shift``.
        guidance_scale: λ_cfg of eq. 9, the content's CFG; see ``content_cfg`` for a schedule.
    """
    plain = cond if uncond is None or guidance_scale == 1 else uncond + guidance_scale * (cond - uncond)
    return plain + style_shift(cond, styles, scales)


def shift_for_rescale(uncond: Tensor, shift: Tensor, guidance_scale: float) -> Tensor:
    """The null prediction u' with u' + s (cond − u') = uncond + s (cond − uncond) + δ: the whole of δ on the null rows.

    For hosts that combine the two themselves and then rescale to the spread of cond (guidance_rescale), which must
    therefore stay unshifted.

    Args:
        uncond: Null-prompt prediction, of any shape.
        shift: δ, shaped like ``uncond``.
        guidance_scale: s, above 1.
    """
    return uncond - shift / (guidance_scale - 1)


def content_cfg(guidance_scale: float, progress: float, cfg_end: float) -> float:
    """λ_cfg of a step: ``guidance_scale`` before ``cfg_end``, 1 from there on.

    Args:
        guidance_scale: λ_cfg of eq. 9.
        progress: Part of the schedule behind the step, 0 at the first step.
        cfg_end: Part of the schedule after which the prediction is cond + Σ λ_i (style_i − cond); 1 leaves eq. 10.
    """
    return guidance_scale if is_in_interval(progress, 0.0, cfg_end) else 1.0


def is_in_interval(progress: float, start: float, end: float) -> bool:
    """Whether a step that begins at ``progress`` (0 at the first step, 1 after the last) is guided."""
    return start <= progress < end or (progress >= 1 <= end)
