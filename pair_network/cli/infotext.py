"""Generation parameters in a PNG, as A1111 writes and reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ..checkpoint import atomic_file
from ..pipelines import Style

SAMPLER_NAMES = {
    "DDIMScheduler": "DDIM",
    "PNDMScheduler": "PLMS",
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "HeunDiscreteScheduler": "Heun",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "UniPCMultistepScheduler": "UniPC",
    "LCMScheduler": "LCM",
    "FlowMatchEulerDiscreteScheduler": "Euler",
}


def infotext(prompt: str, negative: str, fields: Mapping[str, Any]) -> str:
    """Prompt, negative prompt and ``Key: value`` fields in A1111's three lines; fields that are None are left out.

    A value with a comma, colon, quote or line break is quoted as JSON, which is how A1111 reads it back.
    """
    line = ", ".join(f"{key}: {_quoted(value)}" for key, value in fields.items() if value is not None)
    negative_line = [f"Negative prompt: {negative}"] if negative else []
    return "\n".join([prompt, *negative_line, line])


def _quoted(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:"\n') else text


def style_fields(styles: Sequence[Style]) -> dict[str, Any]:
    """One field for each guided style: file, words, λ, interval and multiplier."""
    fields = {}
    for number, style in enumerate(styles, start=1):
        fields[f"Style guidance {number}"] = (
            f"{Path(str(style.file_or_network)).stem} | {style.prompt_words} | scale {style.scale:g} | "
            f"start {style.start:g} | end {style.end:g} | multiplier {style.multiplier:g}"
        )
    return fields


def sampler_name(scheduler: Any) -> str:
    name = type(scheduler).__name__
    karras = " Karras" if getattr(scheduler.config, "use_karras_sigmas", False) else ""
    return SAMPLER_NAMES.get(name, name) + karras


def save_png(path: Path, picture: Image.Image, parameters: str) -> None:
    """Writes a PNG whole or not at all, its parameters in the text chunk that A1111's PNG Info shows."""
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text("parameters", parameters)
    with atomic_file(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=chunk)
