"""Style LoRA files: what is read, what is refused, and which layers of a model they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

# (down, up) as kohya, PEFT and older diffusers spell them; all three are ones that ComfyUI's own loader knows.
SPELLINGS = (("lora_down", "lora_up"), ("lora_A", "lora_B"), ("lora.down", "lora.up"))
TEXT_ENCODER = ("lora_te", "lora_prior_te", "text_encoder", "cond_stage_model", "conditioner", "clip_l", "clip_g", "t5")
COUPLED = ("style.", "content.")
MAX_LETTERS = 600
REMEDY = "rewrite it with: python -m convert a1111"

Target = str | tuple  # of a key map: weight's name, or (name, (axis, start, length)[, function]) for a part of it


class StyleFileError(ValueError):
    """The file cannot be used for style guidance; the message names it and says what to do.

    One line, whatever the file's own names are, which may hold line breaks or be as long as the file.
    """

    def __init__(self, reason: str) -> None:
        line = " ".join("".join(letter if letter.isprintable() else " " for letter in reason).split())
        super().__init__(line if len(line) <= MAX_LETTERS else line[: MAX_LETTERS - 1] + "…")


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
    except (SafetensorError, OSError) as cause:
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


def trigger_words(path: str | Path) -> str:
    """The words that call the style, as the training wrote them into the file; empty where there are none."""
    try:
        with safe_open(str(path), "pt") as handle:
            words = (handle.metadata() or {}).get("modelspec.trigger_phrase", "")
    except (SafetensorError, OSError):
        return ""
    return " ".join(words.split())[:MAX_LETTERS]


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
            layers[base] = _layer(f"{name}: {base}", down, up, tensors.get(alpha_key))
            used |= {key, up_key, alpha_key}
    unexpected = sorted(tensors.keys() - used)
    if unexpected or not layers:
        what = f"{len(unexpected)} of its {len(tensors)} tensors are" if unexpected else "it holds nothing that is"
        example = f" ({unexpected[0]}, …)" if unexpected else ""
        raise StyleFileError(f"{name}: {what} no part of a plain LoRA{example}; {REMEDY} {name} --skip-unknown")
    return layers


def _layer(place: str, down: Tensor, up: Tensor, alpha: Tensor | None) -> Layer:
    """The factors and their scale; ``place`` is what messages call them."""
    shapes = f"{_shape(up)} and {_shape(down)}"
    is_product = down.ndim >= 2 and up.ndim >= 2 and up.shape[1] == down.shape[0] and up.numel() and down.numel()
    if not is_product or prod(up.shape[2:]) != 1:
        raise StyleFileError(f"{place} has factors {shapes} that do not multiply; the file is damaged, copy it again")
    if not (down.is_floating_point() and up.is_floating_point()):
        raise StyleFileError(f"{place} has factors of {down.dtype} and {up.dtype}, no floating-point numbers")
    if alpha is not None and (alpha.numel() != 1 or alpha.is_complex()):
        raise StyleFileError(f"{place} has an alpha of shape {_shape(alpha)}, not one number; the file is damaged")
    rank = down.shape[0]
    scale = (float(rank) if alpha is None else float(alpha.float().item())) / rank
    if not (isfinite(scale) and down.float().isfinite().all() and up.float().isfinite().all()):
        raise StyleFileError(f"{place} has NaN or infinite values; the file is damaged, copy or train it again")
    return Layer(down, up, scale)


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "no dimension"


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
