"""What a style's conditioning takes over from the positive one, so that the two differ by the style alone."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Condition = dict[str, Any]

# What a text encoder writes beside its main output. All else in a condition says where, when and with what it acts.
TEXT = {
    "cross_attn",
    "pooled_output",
    "attention_mask",
    "conditioning_llama3",
    "t5xxl_ids",
    "t5xxl_weights",
    "clip_start_percent",
    "clip_end_percent",
}
OWN = {"model_conds", "uuid", "hooks"}  # belong to one condition
REGION = {"area", "mask"}
PLACING = REGION | {"control", "gligen", "start_percent", "end_percent", "strength", "default"}
PLACED = {"timestep_start", "timestep_end", "mask_strength", "set_area_to_bounds", "control_apply_to_uncond"}


def is_placed(style: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a style's conditioning has an area, mask, ControlNet or time range of its own."""
    return any(PLACING & condition.keys() for condition in style)


def has_region(style: Sequence[Mapping[str, Any]]) -> bool:
    return any(REGION & condition.keys() for condition in style)


def take_over(
    style: Sequence[Mapping[str, Any]], positive: Sequence[Mapping[str, Any]], join_hooks: Callable[[Any, Any], Any]
) -> list[Condition]:
    """The style's conditions with everything of the positive ones but their text.

    ControlNet, areas, masks, time ranges, FLUX's guidance, the picture of an inpainting or editing model: were they
    missing, style − cond would hold their absence, multiplied by λ. Each text of the style is put in the place of each
    positive one. A style that has places or times of its own keeps them, and takes the rest.

    Args:
        style: Conditions of the style's conditioning.
        positive: Conditions of the positive prompt, as ComfyUI prepared them for sampling.
        join_hooks: Joins the hooks of a positive condition and of the style; either may be None.
    """
    own_places = is_placed(style)
    result, joined = [], {}
    for base in positive[:1] if own_places else positive:
        dropped = TEXT | OWN | (PLACING | PLACED if own_places else set())
        kept = {key: value for key, value in base.items() if key not in dropped}
        for condition in style:
            pair = base.get("hooks"), condition.get("hooks")
            # One group of hooks for all conditions with the same ones: ComfyUI runs and caches them by group.
            identity = tuple(map(id, pair))
            if identity not in joined:
                joined[identity] = join_hooks(*pair)
            merged = {**kept, **condition, "uuid": uuid.uuid4()}
            merged.pop("hooks", None)
            if joined[identity] is not None:
                merged["hooks"] = joined[identity]
            result.append(merged)
    return result


def is_active(conditions: Sequence[Mapping[str, Any]], sigma: float) -> bool:
    """Whether any condition acts at this noise level; ComfyUI predicts zeros where none does."""
    return any(
        sigma <= float(condition.get("timestep_start", float("inf")))
        and sigma >= float(condition.get("timestep_end", 0.0))
        for condition in conditions
    )
