"""Style LoRA files: what is read, what is refused, and which layers of a model they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# (down, up) as kohya, PEFT and older diffusers spell them; all three are ones that ComfyUI's own loader knows.
SPELLINGS = (("lora_down", "lora_up"), ("lora_A", "lora_B"), ("lora.down", "lora.up"))
TEXT_ENCODER = ("lora_te", "lora_prior_te", "text_encoder", "cond_stage_model", "conditioner", "clip_l", "clip_g", "t5")
COUPLED = ("style.", "content.")
REMEDY = "rewrite it with: python -m convert a1111"

Target = str | tuple  # of a key map: weight's name, or (name, (axis, start, length)[, function]) for a part of it


class StyleFileError(ValueError):
    """The file cannot be used for style guidance; the message names it and says what to do."""


@dataclass(frozen=True)
class Layer:
    """The factors of one layer.

    Attributes:
        down: (rank, in_dim) or (rank, in_channels, *kernel).
        up: (out_dim, rank), with or without a kernel of ones.
        scale: alpha / rank.
    """

    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True)
class StyleFile:
    """A style LoRA: its tensors as they are in the file, and by layer."""

    name: str
    tensors: dict[str, Tensor]
    layers: dict[str, Layer]


@dataclass(frozen=True)
class Match:
    """Where a layer of the file belongs: ``rows`` is (start, length) in the weight ``key``, or None for all of it."""

    key: str
    rows: tuple[int, int] | None
    layer: Layer


def read_style(path: str | Path, name: str) -> StyleFile:
    """Reads a style LoRA.

    Args:
        path: A .safetensors file.
        name: What messages call it.

    Raises:
        StyleFileError: Not an intact safetensors file, a coupled checkpoint, text-encoder layers, or no plain LoRA.
    """
    if Path(path).suffix.lower() != ".safetensors":
        raise StyleFileError(f"{name}: only .safetensors is read; {REMEDY} {name}")
    try:
        tensors = load_file(path)
    except SafetensorError as cause:
        raise StyleFileError(f"{name}: not an intact safetensors file ({cause}); copy or download it again") from cause
    coupled = [key for key in tensors if key.startswith(COUPLED)]
    if coupled:
        raise StyleFileError(
            f"{name}: is a coupled checkpoint for training on; use the style LoRA beside it, "
            f"{Path(name).name.replace('.pair', '')}, or {REMEDY} {name}"
        )
    text = sorted(key for key in tensors if key.startswith(TEXT_ENCODER))
    if text:
        raise StyleFileError(
            f"{name}: {len(text)} of its {len(tensors)} tensors are for the text encoder ({text[0]}, …), which style "
            "guidance does not switch; use a style trained with --network_train_unet_only, or this one as a plain LoRA"
        )
    return StyleFile(name, tensors, _layers(tensors, name))


def _layers(tensors: Mapping[str, Tensor], name: str) -> dict[str, Layer]:
    layers, used = {}, set()
    for down_name, up_name in SPELLINGS:
        ending = f".{down_name}.weight"
        for key in [key for key in tensors if key.endswith(ending)]:
            base = key.removesuffix(ending)
            up_key, alpha_key = f"{base}.{up_name}.weight", f"{base}.alpha"
            if up_key not in tensors:
                raise StyleFileError(f"{name}: {key} has no {up_key}; the file is incomplete, copy or train it again")
            down, up = tensors[key], tensors[up_key]
            rank = down.shape[0]
            alpha = float(tensors[alpha_key]) if alpha_key in tensors else float(rank)
            layers[base] = Layer(down, up, alpha / rank)
            used |= {key, up_key, alpha_key}
    unexpected = sorted(tensors.keys() - used)
    if unexpected or not layers:
        what = f"{len(unexpected)} of its {len(tensors)} tensors are" if unexpected else "it holds nothing that is"
        example = f" ({unexpected[0]}, …)" if unexpected else ""
        raise StyleFileError(f"{name}: {what} no part of a plain LoRA{example}; {REMEDY} {name}")
    return layers


def match_layers(
    style: StyleFile, key_map: Mapping[str, Target], shape_of: Callable[[str], tuple[int, ...]]
) -> list[Match]:
    """The layers of a model that a style's layers belong to.

    ComfyUI logs what it cannot place and goes on; a picture with a part of the style, or none, looks like a weak style.

    Args:
        style: The style LoRA.
        key_map: ComfyUI's map from a LoRA's layer names to names of the model's weights.
        shape_of: Shape of the weight with a name, (out, in, *kernel).

    Raises:
        StyleFileError: A layer has no place in this model or another shape there.
    """
    unexpected = [name for name in style.layers if name not in key_map]
    if unexpected:
        raise StyleFileError(
            f"{style.name}: {len(unexpected)} of its {len(style.layers)} layers are not in this model "
            f"({', '.join(unexpected[:3])}{', …' if len(unexpected) > 3 else ''}); "
            f"load the kind of model that the style was trained on, or {REMEDY} {style.name}"
        )
    matches, wrong = [], []
    for name, layer in style.layers.items():
        key, rows = _place(key_map[name], name, style.name)
        shape = shape_of(key)
        wanted = (rows[1] if rows else shape[0], prod(shape[1:]))
        found = (layer.up.shape[0], layer.down.flatten(1).shape[1])
        if found != wanted or layer.up.flatten(1).shape[1] != layer.down.shape[0]:
            wrong.append(f"{name} is {found[0]} × {found[1]}, the model's {wanted[0]} × {wanted[1]}")
        matches.append(Match(key, rows, layer))
    if wrong:
        raise StyleFileError(
            f"{style.name}: {len(wrong)} of its {len(style.layers)} layers have another size than this model's "
            f"({wrong[0]}); load the kind of model that the style was trained on"
        )
    return matches


def _place(target: Target, name: str, file: str) -> tuple[str, tuple[int, int] | None]:
    """Name of the weight and the rows of it that a key map's entry means."""
    if isinstance(target, str):
        return target, None
    key, part = target[0], target[1] if len(target) > 1 else None
    if len(target) > 2 or (part is not None and part[0] != 0):
        raise StyleFileError(f"{file}: {name} is stored in another order than the model's; {REMEDY} {file}")
    return key, (part[1], part[2]) if part is not None else None
