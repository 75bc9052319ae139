"""The two files of a run: a plain kohya style LoRA, and the coupled checkpoint beside it.

NAME.safetensors       KEY.lora_down.weight, KEY.lora_up.weight, KEY.alpha: the style branch as any kohya LoRA
NAME.pair.safetensors  style.KEY.… and content.KEY.… in the same shapes; a content up is (pairs, out, rank).
                       The metadata's pair_network_config holds the config as JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pair_network.errors import PairError
from pair_network.files import PICKLES, atomic_files

# A CLIP layer as kohya's own network module names it under transformers 5, whose encoders lost one level.
FLAT_CLIP_KEY = re.compile(r"^(lora_te\d?)_encoder_layers_")
_NO_HASH = "0" * 64


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    Raises:
        PairError: No such file, a pickle, or not an intact safetensors file.
    """
    with _opened(Path(path)) as handle:
        return load_file(path), dict(handle.metadata() or {})


def read_keys(path: str | Path) -> list[str]:
    """Names of a safetensors file's tensors, from its header alone.

    Raises:
        PairError: As in ``read``.
    """
    with _opened(Path(path)) as handle:
        return list(handle.keys())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    if not path.is_file():
        raise PairError(f"{path}: no such file")
    if path.suffix.lower() in PICKLES:
        raise PairError(
            f"{path}: pickled weights can run code when loaded and are not read; convert the file to .safetensors"
        )
    try:
        with safe_open(path, "pt") as handle:
            yield handle
    except SafetensorError as cause:
        raise PairError(f"{path}: not an intact safetensors file ({cause}); copy or download it again") from cause


def write_together(files: Mapping[Path, tuple[Mapping[str, Tensor], Mapping[str, object]]]) -> None:
    """Writes safetensors files whole, all or none, with kohya's content hash (sshs_model_hash) in their metadata.

    Args:
        files: Tensors and metadata by path.

    Raises:
        PairError: A tensor holds NaN or infinity, or the disk is full: the files on disk are left as they were.
    """
    checked = {path: (_checked(path, tensors), _texts(metadata)) for path, (tensors, metadata) in files.items()}
    needed = sum(tensor.nbytes for tensors, _ in checked.values() for tensor in tensors.values())
    with atomic_files(list(files), needed) as temporary:
        for file, (tensors, metadata) in zip(temporary, checked.values(), strict=True):
            save_file(tensors, file, {**metadata, "sshs_model_hash": _NO_HASH})
            _write_hash(file)


def _checked(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are written: contiguous, on the CPU."""
    for key, tensor in tensors.items():
        if not is_finite(tensor):
            raise PairError(f"{path}: {key} is not finite, nothing was written; lower the learning rate")
    return {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}


def is_finite(tensor: Tensor) -> bool:
    """Whether it holds neither NaN nor infinity, by its extremes: a twentieth of the time of asking every element."""
    values = tensor.half() if tensor.dtype.itemsize == 1 and tensor.is_floating_point() else tensor
    return not values.numel() or all(math.isfinite(extreme) for extreme in torch.aminmax(values.detach()))


def _texts(metadata: Mapping[str, object]) -> dict[str, str]:
    """Metadata as safetensors has it: lists and dictionaries as JSON."""
    return {
        key: json.dumps(value) if isinstance(value, (dict, list)) else str(value) for key, value in metadata.items()
    }


def _write_hash(path: Path) -> None:
    """Puts the SHA-256 of the bytes behind the header into it, by which kohya and A1111 identify a LoRA."""
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header, digest = file.read(length), hashlib.sha256()
        while piece := file.read(1 << 22):
            digest.update(piece)
        file.seek(8)
        # A quote within a value is escaped, so this stands nowhere else.
        entry = '"sshs_model_hash":"%s"'
        file.write(header.replace((entry % _NO_HASH).encode(), (entry % digest.hexdigest()).encode()))


def split_branches(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The content and style tensors of a coupled checkpoint, their prefixes removed.

    Raises:
        PairError: A key belongs to neither branch.
    """
    branches: dict[str, dict[str, Tensor]] = {"content": {}, "style": {}}
    for key, tensor in tensors.items():
        branch, _, rest = key.partition(".")
        if branch not in branches:
            raise PairError(f"{source}: unexpected tensor {key} in a coupled checkpoint")
        branches[branch][rest] = tensor
    return branches["content"], branches["style"]


def standard_key(key: str) -> str:
    """The key by which every UI knows a layer: CLIP's with ``text_model``, whatever transformers the trainer had."""
    return FLAT_CLIP_KEY.sub(r"\1_text_model_encoder_layers_", key)


def layers_of(tensors: Mapping[str, Tensor], source: str) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Down, up and alpha of every layer of a kohya LoRA, by the layer's key. Without an alpha tensor, alpha = rank.

    Raises:
        PairError: The file is empty, names a layer twice, or a layer is incomplete or of a kind that is no LoRA (LoHa,
            DoRA, …).
    """
    grouped: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        key, _, suffix = name.partition(".")
        parts = grouped.setdefault(standard_key(key), {})
        if suffix in parts:
            raise PairError(f"{source}: holds {standard_key(key)} under two names; keep one of the two LoRAs")
        parts[suffix] = tensor
    if not grouped:
        raise PairError(f"{source}: the file holds no tensors")
    layers = {}
    for key, factors in grouped.items():
        if (
            not {"lora_down.weight", "lora_up.weight"}
            <= set(factors)
            <= {"lora_down.weight", "lora_up.weight", "alpha"}
        ):
            raise PairError(
                f"{source}: {key} has {_listed(factors)}, a kohya LoRA has lora_down.weight and lora_up.weight; "
                f"convert the file first: python -m convert kohya {source}"
            )
        down, up = factors["lora_down.weight"], factors["lora_up.weight"]
        _check_factors(down, up, f"{source}: {key}")
        # torch multiplies no 8-bit floats; float16 holds them exactly.
        down, up = (factor.half() if factor.dtype.itemsize == 1 else factor for factor in (down, up))
        layers[key] = (down, up, _alpha(factors.get("alpha"), down.shape[0], f"{source}: {key}"))
    return layers


def _listed(names: Collection[str], most: int = 3) -> str:
    """Some of the names in words."""
    shown = ", ".join(sorted(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "no tensors"


def _check_factors(down: Tensor, up: Tensor, where: str) -> None:
    """Raises PairError unless the factors are finite floats that multiply; content ups have an axis more, of pairs."""
    shapes = f"down {tuple(down.shape)} and up {tuple(up.shape)}"
    axis = up.dim() - down.dim() + 1  # of the ranks in up
    if down.dim() not in (2, 4) or axis not in (1, 2) or not down.numel() or not up.numel():
        raise PairError(f"{where} has {shapes}, which are no LoRA's; is the file damaged?")
    if not (down.is_floating_point() and up.is_floating_point()):
        raise PairError(f"{where} has factors of {down.dtype} and {up.dtype}, floats are needed; is the file damaged?")
    if up.shape[axis] != down.shape[0] or any(size != 1 for size in up.shape[axis + 1 :]):
        raise PairError(f"{where}: {shapes} do not multiply; is the file damaged?")
    if not (is_finite(down) and is_finite(up)):
        raise PairError(f"{where} holds NaN or infinity; take an earlier save")


def _alpha(alpha: Tensor | None, rank: int, where: str) -> float:
    if alpha is None:
        return float(rank)
    if alpha.numel() != 1 or alpha.is_complex() or not math.isfinite(float(alpha)):
        raise PairError(f"{where}: alpha has shape {tuple(alpha.shape)} or no finite value, one number is needed")
    return float(alpha)


def check_branches(style: Mapping[str, object], content: Mapping[str, object], source: str) -> None:
    """Raises PairError unless both branches of a coupled checkpoint have the same layers."""
    lonely = sorted(style.keys() ^ content.keys())
    if lonely:
        raise PairError(
            f"{source}: {lonely[0]} stands in one branch only ({len(lonely)} layers do); a coupled checkpoint has "
            "every layer in both, take the file as it was saved"
        )
