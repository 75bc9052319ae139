"""Reads a style LoRA in kohya's format, and refuses whatever forward hooks on a U-Net cannot do exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import GuidanceError

UNET, TEXT_ENCODERS = "lora_unet_", ("lora_te_", "lora_te1_", "lora_te2_", "lora_te3_")
DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
PLAIN = {DOWN, UP, ALPHA}
# The first letters of a tensor's suffix -> what such a file is. Nothing of it is a plain product of two factors.
OTHER_KINDS = {
    "hada_": "LoHa", "lokr_": "LoKr", "oft_": "OFT", "dora_scale": "DoRA", "lora_mid": "CP-decomposed LoCon",
    "diff": "full differences", "on_input": "IA3", "glora_": "GLoRA", "a1.": "GLoRA", "b1.": "GLoRA",
}  # fmt: skip
REMEDY = "python -m convert a1111 FILE --skip-unknown"
PAIR_BRANCHES = ("style.", "content.")
SHOWN = 3


@dataclass(frozen=True)
class Layer:
    """One layer's factors; its delta is scale · up @ down.

    Attributes:
        down: (rank, in) or (rank, in, kernel, kernel).
        up: (out, rank) or (out, rank, 1, 1).
        scale: alpha / rank.
    """

    down: Tensor
    up: Tensor
    scale: float


def read_style(path: Path) -> dict[str, Layer]:
    """kohya's layer names (``lora_unet_…``) -> factors, in the file's dtype on the CPU.

    Raises:
        GuidanceError: The file is not an intact safetensors file, not a plain LoRA in kohya's names, or has layers
            of a text encoder.
    """
    if path.suffix.lower() != ".safetensors":
        raise GuidanceError(f"{path.name}: only .safetensors files are read")
    try:
        with safe_open(str(path), "pt") as handle:
            names = list(handle.keys())
            _check_names(path, names)
            tensors = {name: handle.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as cause:
        raise GuidanceError(
            f"{path.name}: not an intact safetensors file ({cause}); copy or download it again"
        ) from cause
    keys = dict.fromkeys(name.partition(".")[0] for name in names)
    return {key: _layer(path, key, tensors) for key in keys}


def _check_names(path: Path, names: list[str]) -> None:
    if not names:
        raise GuidanceError(f"{path.name}: holds no tensors")
    if all(name.startswith(PAIR_BRANCHES) for name in names):
        raise GuidanceError(
            f"{path.name}: is the coupled checkpoint of a training; choose the style LoRA beside it, "
            f"{path.name.replace('.pair.safetensors', '.safetensors')}"
        )
    encoders = [name for name in names if name.startswith(TEXT_ENCODERS)]
    if encoders:
        raise GuidanceError(
            f"{path.name}: has text-encoder layers ({_some(encoders)}), which guidance cannot add for the style alone; "
            f"use a style LoRA of the U-Net only, or put this one into the prompt"
        )
    for name in names:
        suffix = name.partition(".")[2]
        kind = next((kind for start, kind in OTHER_KINDS.items() if suffix.startswith(start)), None)
        if kind:
            raise GuidanceError(
                f"{path.name}: is a {kind} file ({name}); guidance takes plain LoRAs, {REMEDY} leaves out what is none"
            )
    strange = [name for name in names if not name.startswith(UNET) or name.partition(".")[2] not in PLAIN]
    if strange:
        raise GuidanceError(f"{path.name}: not in kohya's names ({_some(strange)}); {REMEDY} makes such a file")


def _layer(path: Path, key: str, tensors: dict[str, Tensor]) -> Layer:
    down, up = tensors.get(f"{key}.{DOWN}"), tensors.get(f"{key}.{UP}")
    if down is None or up is None:
        raise GuidanceError(f"{path.name}: {key} lacks its {DOWN if down is None else UP}; the file is damaged")
    if down.ndim not in (2, 4) or up.ndim not in (2, 4) or up.shape[1] != down.shape[0]:
        raise GuidanceError(f"{path.name}: {key} has factors {_shape(up)} and {_shape(down)} that do not multiply")
    if up.ndim == 4 and up.shape[2:] != (1, 1):
        raise GuidanceError(f"{path.name}: {key} has an up-factor of kernel {_shape(up)}; guidance takes 1 × 1")
    if not (down.is_floating_point() and up.is_floating_point() and down.numel() and up.numel()):
        raise GuidanceError(f"{path.name}: {key} has factors without numbers ({down.dtype}, {_shape(down)})")
    scale = _alpha(path, key, tensors.get(f"{key}.{ALPHA}"), down.shape[0]) / down.shape[0]
    if not (torch.isfinite(down.float()).all() and torch.isfinite(up.float()).all() and isfinite(scale)):
        raise GuidanceError(f"{path.name}: {key} has NaN or infinite values; the file is damaged")
    return Layer(down, up, scale)


def _alpha(path: Path, key: str, alpha: Tensor | None, rank: int) -> float:
    if alpha is None:
        return float(rank)
    if alpha.numel() != 1 or alpha.is_complex():
        raise GuidanceError(f"{path.name}: {key} has an {ALPHA} of shape {_shape(alpha)}, not one number")
    return float(alpha.float().item())


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "no dimension"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
