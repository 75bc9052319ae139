"""The style rows of a model call: which inputs they share with the image's cond row, and which are the style's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from ..protocols import ModelInputs
from .prompts import Conditioning

# Inputs that describe token positions, not batch rows, where they have two dimensions (FLUX).
POSITIONS = ("img_ids", "txt_ids")


def latents_of(inputs: ModelInputs) -> Tensor:
    """The noisy latents ``(rows, …)``: U-Nets call them sample, transformers hidden_states."""
    return inputs["sample"] if "sample" in inputs else inputs["hidden_states"]


def with_style_rows(inputs: ModelInputs, cond: slice, styles: Sequence[Conditioning], kept: slice) -> ModelInputs:
    """The model's inputs with the cond rows once more for every style, behind those of the base rows that are kept.

    Latents, timesteps, ControlNet residuals, size and crop ids, image prompts: all of them belong to the image and are
    those of its cond row. Only the prompt is the style's own.

    Args:
        inputs: The model's arguments by name; every tensor whose first dimension is the batch is extended.
        cond: The rows that hold the prompt.
        styles: The styles' prompts; of one length unless there is only one.
        kept: Base rows that stay: all of them, the cond rows, or none.
    """
    rows = latents_of(inputs).shape[0]
    keeps_base = kept.start < kept.stop

    def repeat(value: Tensor) -> Tensor:
        has_rows = value.dim() > 0 and value.shape[0] == rows
        return torch.cat([value[kept], *[value[cond]] * len(styles)]) if has_rows else value

    def with_prompts(base: Tensor, own: Sequence[Tensor | None]) -> Tensor:
        # No empty slice of base: its prompts may have another length.
        return torch.cat(
            [*([base[kept]] if keeps_base else []), *(value.to(base) for value in own if value is not None)]
        )

    extended = cast(ModelInputs, {name: _repeated(name, value, repeat) for name, value in inputs.items()})
    extended["encoder_hidden_states"] = with_prompts(inputs["encoder_hidden_states"], [c.embeds for c in styles])
    pooled = [c.pooled for c in styles]
    if (own_pooled := inputs.get("pooled_projections")) is not None:
        extended["pooled_projections"] = with_prompts(own_pooled, pooled)
    added, added_rows = inputs.get("added_cond_kwargs") or {}, extended.get("added_cond_kwargs")
    if added_rows and "text_embeds" in added:
        added_rows["text_embeds"] = with_prompts(added["text_embeds"], pooled)
    if not keeps_base and (text_ids := styles[0].text_ids) is not None:
        extended["txt_ids"] = text_ids
    if "encoder_hidden_states_mask" in inputs:
        mask = inputs["encoder_hidden_states_mask"]
        own = [(inputs["encoder_hidden_states"][kept], None if mask is None else mask[kept])] if keeps_base else []
        extended["encoder_hidden_states_mask"] = _masks([*own, *((c.embeds, c.mask) for c in styles)])
    return extended


def _masks(prompts: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    """The padding masks of prompts ``(rows, tokens, …)`` in one batch; None where no prompt has padding."""
    given = [mask for _, mask in prompts if mask is not None]
    if not given:
        return None
    return torch.cat([given[0].new_ones(e.shape[:2]) if mask is None else mask for e, mask in prompts])


def _repeated(name: str, value: object, repeat: Callable[[Tensor], Tensor]) -> object:
    """An input for the longer batch; token positions without rows as they are."""
    is_rowless = name in POSITIONS and isinstance(value, Tensor) and value.dim() == 2
    return value if is_rowless else _each(value, repeat)


def _each(value: object, change: Callable[[Tensor], Tensor]) -> object:
    """The value with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _each(entry, change) for key, entry in value.items()}
    return type(value)(_each(entry, change) for entry in value) if isinstance(value, (list, tuple)) else value
