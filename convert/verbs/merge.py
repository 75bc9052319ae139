"""LoRAs into a checkpoint, tensor by tensor: W + weight · alpha / rank · up @ down, added in float32.

The checkpoint is a .safetensors file in an original layout (SD 1, 2, XL, 3, FLUX.1) or a diffusers folder. Tensors that
no LoRA touches are copied byte by byte; memory holds one weight and its delta.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from pair_network.errors import PairError

from .. import paths
from ..checkpoints import BaseModel, Place, base_model
from ..families import Family
from ..files import atomic_folder, open_tensors
from ..layers import Branch, by_module, delta, join, needs_swap, strengthened, swap_halves
from ..lazy import Lazy
from ..options import add_branch, add_reading, chosen_branch
from ..read import read_adapter
from ..writer import write_tensors
from .blend import summed

HELP = "LoRAs into a checkpoint, streaming"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help=".safetensors checkpoint or diffusers folder")
    parser.add_argument("inputs", nargs="+", type=Path, metavar="LORA")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="one for each LoRA (1)")
    parser.add_argument(
        "--skip-missing", action="store_true", help="leave out layers that the checkpoint does not have"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the checkpoint, or folder, to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
    add_reading(parser)
    add_branch(parser)


def run(options: argparse.Namespace) -> int:
    """Writes the merged checkpoint; returns the exit status."""
    for source in (options.checkpoint, *options.inputs):
        paths.check_target(source, options.output, options.overwrite)
    model = base_model(options.checkpoint)
    branch = _branch(model.family, options)
    _check_covered(branch, model, options)
    if options.checkpoint.is_dir():
        _merge_folder(options, model, branch)
    else:
        _merge_file(options.checkpoint, options.output, model.files[options.checkpoint], branch)
    print(options.output)
    return 0


def _branch(family: Family, options: argparse.Namespace) -> Branch:
    """The sum of all LoRAs, by diffusers module."""
    weights = options.weights or [1.0] * len(options.inputs)
    if len(weights) != len(options.inputs):
        raise PairError(f"--weights: {len(weights)} given for {len(options.inputs)} LoRAs; give one for each")
    branches = []
    for source, weight in zip(options.inputs, weights, strict=True):
        adapter = read_adapter(source, None, options.allow_pickle)
        if adapter.is_sure and adapter.family.name != family.name:
            raise PairError(f"{source}: is for {adapter.family.title}, the checkpoint is {family.title}")
        adapter = adapter if adapter.is_sure else read_adapter(source, family.name, options.allow_pickle)
        branch = by_module(chosen_branch(adapter, options), source)
        branches.append({key: strengthened(layer, weight) for key, layer in branch.items()})
    return summed(branches, options.output)


def _check_covered(branch: Branch, model: BaseModel, options: argparse.Namespace) -> None:
    found = {module for _, _, _, place in model.named() for module in place.modules}
    missing = [modules[0] for modules in branch if modules[0] not in found]
    if len(missing) == len(branch):
        raise PairError(f"{options.checkpoint}: has none of the LoRA's {len(branch)} layers")
    if missing and not options.skip_missing:
        raise PairError(
            f"{options.checkpoint}: lacks {len(missing)} of the LoRA's layers, the first is {missing[0]}; pass "
            "--skip-missing to merge the others"
        )


def _merge_file(source: Path, target: Path, places: Mapping[str, Place], branch: Branch) -> None:
    tensors, metadata = open_tensors(source)
    if any("scaled_fp8" in key or key.endswith(".scale_weight") for key in tensors):
        raise PairError(
            f"{source}: is a scaled fp8 checkpoint, whose weights have scales of their own; merge into fp16"
        )
    progress = tqdm(total=len(tensors), desc=target.name, leave=False, disable=None)
    merged = {key: _merged(key, tensor, places, branch, progress) for key, tensor in tensors.items()}
    values = {key: value for key, value in metadata.items() if key != "modelspec.hash_sha256"}
    write_tensors(target, merged, values, hashed=False)
    progress.close()


def _merged(key: str, tensor: Lazy, places: Mapping[str, Place], branch: Branch, progress: tqdm) -> Lazy:
    place = places.get(key)
    if place is None or not any((module,) in branch for module in place.modules):
        progress.update()
        return tensor

    def load() -> Tensor:
        progress.update()
        return added(tensor.load(), place, branch, key)

    return Lazy(tensor.shape, tensor.dtype, load)


def added(weight: Tensor, place: Place, branch: Branch, key: str) -> Tensor:
    """The weight with the deltas of its modules added, in its own dtype.

    Raises:
        PairError: The LoRA's shapes are not the weight's.
    """
    layer = join([branch[(module,)] for module in place.modules if (module,) in branch], place.modules, key)
    layer = swap_halves(layer) if place.swaps and needs_swap(layer) else layer
    difference = delta(layer)
    squeezed = tuple(size for size in difference.shape if size != 1), tuple(size for size in weight.shape if size != 1)
    if squeezed[0] != squeezed[1]:
        raise PairError(f"{key}: the LoRA's delta is {tuple(difference.shape)}, the weight {tuple(weight.shape)}")
    return difference.reshape(weight.shape).add_(weight.float()).to(weight.dtype)


def _merge_folder(options: argparse.Namespace, model: BaseModel, branch: Branch) -> None:
    """A copy of a diffusers folder with the LoRA-bearing weights merged."""
    source: Path = options.checkpoint
    if options.output.exists():
        raise PairError(f"{options.output}: exists already; a model folder is never replaced, name a new one with -o")
    with atomic_folder(options.output) as folder:
        for file in _plain_files(source):
            if file not in model.files:
                copy = folder / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        for file, places in model.files.items():
            _merge_file(file, folder / file.relative_to(source), places, branch)


def _plain_files(folder: Path) -> Iterable[Path]:
    """The folder's files. Links must stay inside: one that leads out could bring in any file of the machine.

    Raises:
        PairError: A link leads out of the folder.
    """
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            if not path.resolve().is_relative_to(root):
                raise PairError(f"{path}: is a link out of the folder; copy the model with its files (cp -rL) first")
            yield path
