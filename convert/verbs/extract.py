"""A style LoRA from the difference of two checkpoints: every weight's tuned − base, at its best rank.

Both are .safetensors checkpoints in an original layout, or diffusers folders, of the same family.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from convert import paths
from convert.command import Command
from convert.conversion import Conversion
from convert.files import lazy
from convert.files.dtypes import same_bits
from convert.files.lazy import Lazy, from_tensor
from convert.files.storage import open_tensors
from convert.formats import metadata
from convert.formats.checkpoints import BaseModel, Place, base_model
from convert.formats.layers import Adapter, Branch, Layer, by_module, needs_swap, swap_halves
from convert.formats.names import kind_of
from convert.formats.read import is_lora, read_adapter
from convert.options import DTYPES, Writing
from convert.verify import TOLERANCE
from pair_network.errors import PairError
from pair_network.families import Family
from pair_network.options import option

from .kohya import kohya_layers, write_kohya
from .merge import placed_delta

if TYPE_CHECKING:  # torch is imported with the first tensor
    from torch import Tensor

SUFFIX = "-extracted.safetensors"
KINDS = ("attention", "ff", "conv", "text_encoder", "other")
BASE_HELP = "checkpoint or diffusers folder before the training"
# Layers that read the latents, and in inpainting and editing models a mask and a picture beside them.
INPUT_LAYERS = ("conv_in", "x_embedder", "pos_embed.proj")
logger = logging.getLogger(__name__)
NOISE = 1e-3  # of the reported error: it is the root of a difference of squares in float32


@dataclass(frozen=True)
class Extraction(Writing):
    """What a LoRA of a difference is to be."""

    rank: int = option(32, "highest rank of a layer", int)
    energy: float = option(1.0, "share of the squared norm at which a layer may stop", float)
    dtype: str = option("fp16", "dtype of the LoRA", choices=list(DTYPES))
    targets: Sequence[str] = option(KINDS, "kinds of layer", nargs="+", choices=KINDS, default="all")


@dataclass(frozen=True)
class BatchOptions(Extraction):
    """The options of a batch, which compares each tuned model with the one base."""

    base: Path = option(Path(), BASE_HELP, Path, is_required=True)


@dataclass(frozen=True)
class Options(Extraction):
    """The options of the verb."""

    base: Path = option(Path(), BASE_HELP, Path, is_positional=True)
    tuned: Path = option(Path(), "checkpoint or diffusers folder after it", Path, is_positional=True)
    output: Path | None = option(None, "the LoRA to write", Path, short="-o", default="beside the tuned model")


def run(options: Options) -> int:
    """Writes the LoRA; returns the exit status."""
    target = paths.target_for(options.tuned, options.output, SUFFIX, False)
    convert(options.tuned, target, options)
    if options.verify:
        verify(options.tuned, target, options)
    return 0


def convert(source: Path, target: Path, options: Options | BatchOptions) -> list[Path]:
    """Writes what ``source`` has over ``options.base`` as a LoRA; returns what was written.

    Raises:
        PairError: The models do not fit each other, or do not differ.
    """
    for model in (options.base, source):
        paths.check_target(model, target, options.overwrite)
    if options.rank < 1 or not 0 < options.energy <= 1:
        raise PairError("--rank must be at least 1, --energy above 0 and up to 1")
    family, pairs = _weights(options.base, source, options.targets)
    branch: Branch = {}
    total = lost = 0.0
    for key, (place, base, tuned) in tqdm(pairs.items(), "extracting", leave=False, disable=None):
        layer, square, missed = _layer(key, place, base, tuned, options)
        total, lost = total + square, lost + missed
        if layer is not None:
            branch[layer.modules] = layer
    if not branch:
        raise PairError(f"{source}: differs from {options.base} by rounding at most, in no layer that a LoRA can carry")
    loss = math.sqrt(max(lost, 0.0) / total)
    adapter = Adapter(family, branch, {}, {}, source, "checkpoint")
    facts = {"relative_error": round(loss, 6), "base": options.base.name}
    write_kohya(target, kohya_layers(branch, family, target), adapter, "extract", facts)
    print(f"{target}: {len(branch)} layers, relative error {loss:.4f}")
    return [target]


def verify(source: Path, target: Path, options: Options | BatchOptions) -> None:
    """Measures how far the LoRA is from the models' difference, against what was reported and its dtype's rounding.

    Raises:
        PairError: It is farther, or a layer has no place.
    """
    family, pairs = _weights(options.base, source, options.targets)
    written = read_adapter(target, family.name)
    layers = by_module(written.style, target)
    total = missed = 0.0
    for key, (place, base, tuned) in pairs.items():
        change = _change(base.load(), tuned.load())
        total += float(change.square().sum())
        if any((module,) in layers for module in place.modules):
            change -= placed_delta(layers, place, key).reshape(change.shape)
        missed += float(change.square().sum())
    told = json.loads(written.metadata.get(metadata.HISTORY_KEY, "[{}]"))[-1].get("relative_error", 0.0)
    error = math.sqrt(missed / total)
    if error > told + NOISE + TOLERANCE[DTYPES[options.dtype].name]:
        raise PairError(f"{target}: verification failed: relative error {error:.4f}, not {told}; remove the file")


def _weights(base: Path, tuned: Path, targets: Collection[str]) -> tuple[Family, dict[str, tuple[Place, Lazy, Lazy]]]:
    """The weights of these kinds that a LoRA can carry, from both models, by key.

    Raises:
        PairError: The models are of different families, a file and a folder, or a weight has another shape.
    """
    if base.is_dir() != tuned.is_dir():
        raise PairError(f"{tuned}: one is a file and the other a folder; give two of the same layout")
    first, second = (_model(path) for path in (base, tuned))
    if first.family.name != second.family.name:
        raise PairError(f"{tuned}: is {second.family.title}, the base is {first.family.title}")
    mine, theirs = _opened(first), _opened(second)
    pairs = {}
    for name in sorted(mine.keys() & theirs.keys()):
        (place, before), (_, after) = mine[name], theirs[name]
        if kind_of(place.modules[0]) not in targets:
            continue
        if before.shape != after.shape:
            if _reads_more(place, before, after):
                logger.warning(
                    "%s: left out, it has %d inputs in the tuned model and %d in the base, as inpainting models do",
                    name, after.shape[1], before.shape[1],
                )  # fmt: skip
                continue
            raise PairError(f"{name}: has shape {before.shape} in the base and {after.shape} in the tuned model")
        pairs[name] = (place, before, after)
    return first.family, pairs


def _model(path: Path) -> BaseModel:
    """Raises PairError, which names the verb that helps, where the file is a LoRA."""
    if is_lora(path):
        raise PairError(
            f"{path}: is a LoRA, not a checkpoint; for the difference of two LoRAs use blend --weights 1 -1"
        )
    return base_model(path)


def _reads_more(place: Place, before: Lazy, after: Lazy) -> bool:
    """Whether a weight is the model's first layer, of which one model gives more than latents to read."""
    is_first = place.modules[0].partition(".")[2] in INPUT_LAYERS
    return is_first and before.shape[:1] + before.shape[2:] == after.shape[:1] + after.shape[2:]


def _change(base: Tensor, tuned: Tensor) -> Tensor:
    """tuned − base in float32; zero where the two differ by nothing but the rounding of a dtype.

    A model that was saved in a narrower dtype, or trained in one, differs from its base everywhere. Where every number
    of a layer is just the base's in that dtype, or the other way round, there is no training in it.
    """
    import torch

    if _is_rounded(base, tuned) or _is_rounded(tuned, base):
        return torch.zeros(tuned.shape)
    return tuned.to(torch.float32) - base.to(torch.float32)


def _is_rounded(exact: Tensor, other: Tensor) -> bool:
    """Whether ``other`` is ``exact`` in its own dtype, directly or by way of a half precision."""
    return any(
        same_bits(exact.to(way).to(other.dtype), other) for way in (other.dtype, *(half.dtype for half in lazy.HALVES))
    )


def _opened(model: BaseModel) -> dict[str, tuple[Place, Lazy]]:
    tensors = {file: open_tensors(file)[0] for file in model.files}
    return {name: (place, tensors[file][key]) for name, file, key, place in model.named()}


def _layer(key: str, place: Place, base: Lazy, tuned: Lazy, options: Extraction) -> tuple[Layer | None, float, float]:
    """The layer (None where nothing changed), the squared norm of the difference, and how much of it is lost."""
    import torch

    from .lowrank import dense_factors

    change = _change(base.load(), tuned.load())
    square = float(change.square().sum())
    if not square:
        return None, 0.0, 0.0
    flat = change.flatten(1)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "little")
    parts = dense_factors(flat, min(options.rank, *flat.shape), torch.Generator().manual_seed(seed))
    shares = parts.values.square().cumsum(0) / square
    rank = min(int((shares < options.energy).sum()) + 1, len(parts.values))
    layer = _shaped(place, change, parts.left[:, :rank] * parts.values[:rank], parts.right[:rank], options)
    return layer, square, square - float(parts.values[:rank].square().sum())


def _shaped(place: Place, change: Tensor, up: Tensor, down: Tensor, options: Extraction) -> Layer:
    rank, dtype = down.shape[0], DTYPES[options.dtype].dtype
    kernel = change.shape[2:]
    down = down.reshape(rank, change.shape[1], *kernel).to(dtype)
    up = up.reshape(-1, rank, *(1,) * len(kernel)).to(dtype)
    layer = Layer(place.modules, from_tensor(down.contiguous()), from_tensor(up.contiguous()), float(rank))
    return swap_halves(layer) if place.swaps and needs_swap(layer) else layer


VERB = Command(__doc__, Options, run, Conversion(__doc__, BatchOptions, SUFFIX, convert, verify, base="base"))
