"""Generation parameters in a PNG, as A1111 writes and reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin

from pair_network.files import atomic_file

from ..pipelines import Style
from ..protocols import Scheduler

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


def infotext(prompt: str, negative: str, fields: Mapping[str, object]) -> str:
    """Prompt, negative prompt and ``Key: value`` fields in A1111's three lines; fields that are None are left out.

    A value with a comma, colon, quote or line break is quoted as JSON, which is how A1111 reads it back.
    """
    line = ", ".join(f"{key}: {_quoted(value)}" for key, value in fields.items() if value is not None)
    negative_line = [f"Negative prompt: {negative}"] if negative else []
    return "\n".join([prompt, *negative_line, line])


def _quoted(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:"\n') else text


def style_fields(styles: Sequence[Style], cfg_end: float = 1.0) -> dict[str, object]:
    """Style guidance under the keys of our A1111 and Forge extension, which takes them up when they are pasted."""
    fields: dict[str, object] = {}
    for number, style in enumerate(styles, start=1):
        values = {
            "LoRA": lora_name(style),
            "words": style.prompt_words or None,
            "scale": style.scale,
            "start": style.start,
            "end": style.end,
            "multiplier": None if style.multiplier == 1 else style.multiplier,  # the extension's is always 1
        }
        fields |= {f"Style guidance {name} {number}": value for name, value in values.items()}
    return fields | ({"Style guidance content CFG until": cfg_end} if cfg_end < 1 else {})


def lora_name(style: Style) -> str:
    """What the UIs call the style's file: its name without folder and ending."""
    return Path(str(style.file_or_network)).stem.removesuffix(".pair")


def model_name(model: str) -> str:
    """The same for a checkpoint; of a folder or a hub name the last part, dots included."""
    return Path(model).name.removesuffix(".safetensors")


def sampler_name(scheduler: Scheduler) -> str:
    name = type(scheduler).__name__
    karras = " Karras" if getattr(scheduler.config, "use_karras_sigmas", False) else ""
    return SAMPLER_NAMES.get(name, name) + karras


def save_png(path: Path, picture: Image.Image, parameters: str) -> None:
    """Writes a PNG whole or not at all, its parameters in the text chunk that A1111's PNG Info shows."""
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text("parameters", parameters)
    with atomic_file(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=chunk)
