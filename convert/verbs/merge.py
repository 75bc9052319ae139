"""LoRAs into a checkpoint, tensor by tensor: W + weight · alpha / rank · up @ down, added in float32.

The checkpoint is a .safetensors file in an original layout (SD 1, 2, XL, 3, FLUX.1) or a diffusers folder. Tensors that
no LoRA touches are copied byte by byte; memory holds one weight and its delta.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from convert import paths
from convert.command import Command
from convert.conversion import Conversion
from convert.files.dtypes import same_bits
from convert.files.lazy import Lazy
from convert.files.links import leads_out
from convert.files.storage import open_tensors
from convert.files.writer import write_tensors
from convert.formats.checkpoints import BaseModel, Place, base_model
from convert.formats.layers import Branch, by_module, delta, join, needs_swap, swap_halves
from convert.formats.metadata import HISTORY_KEY, with_history
from convert.formats.read import is_lora
from convert.options import OfBranch, chosen_branch, read_source
from pair_network.errors import PairError
from pair_network.families import Family
from pair_network.files import PICKLES, atomic_folder
from pair_network.options import option

from .blend import summed, weighted

if TYPE_CHECKING:  # torch is imported with the first tensor
    from torch import Tensor

SUFFIX = "-merged.safetensors"
CHECKPOINT_HELP = ".safetensors checkpoint or diffusers folder"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merging(OfBranch):
    """How LoRAs are put into a checkpoint."""

    skip_missing: bool = option(False, "leave out layers that the checkpoint does not have", key="skip-missing")


@dataclass(frozen=True)
class BatchOptions(Merging):
    """The options of a batch, which merges each LoRA on its own into the one checkpoint."""

    checkpoint: Path = option(Path(), CHECKPOINT_HELP, Path, is_required=True)
    weights: Sequence[float] | None = option(None, "of every LoRA", float, nargs=1, metavar="W", default="1")


@dataclass(frozen=True)
class Options(Merging):
    """The options of the verb."""

    checkpoint: Path = option(Path(), CHECKPOINT_HELP, Path, is_positional=True)
    inputs: Sequence[Path] = option((), "", Path, is_positional=True, nargs="+", metavar="LORA")
    weights: Sequence[float] | None = option(None, "one for each LoRA", float, nargs="+", metavar="W", default="1")
    output: Path | None = option(
        None, "checkpoint or folder to write", Path, short="-o", default="beside the checkpoint"
    )


def suffix(options: Options | BatchOptions) -> str:
    """A folder's merge is a folder."""
    return SUFFIX.removesuffix(".safetensors") if options.checkpoint.is_dir() else SUFFIX


def run(options: Options) -> int:
    """Writes the merged checkpoint; returns the exit status."""
    target = paths.target_for(options.checkpoint, options.output, suffix(options), False)
    _merge(target, options)
    if options.verify:
        _verify(target, options)
    print(target)
    return 0


def convert(source: Path, target: Path, options: BatchOptions) -> list[Path]:
    """Writes ``options.checkpoint`` with one LoRA merged; returns what was written."""
    _merge(target, _of_one(source, options))
    return [target]


def verify(source: Path, target: Path, options: BatchOptions) -> None:
    """Reads what ``convert`` has written again, and compares it."""
    _verify(target, _of_one(source, options))


def _of_one(source: Path, options: BatchOptions) -> Options:
    return Options(**vars(options), inputs=[source])


def _merge(target: Path, options: Options) -> None:
    for source in (options.checkpoint, *options.inputs):
        paths.check_target(source, target, options.overwrite)
    _check_order(options)
    model = base_model(options.checkpoint)
    branch = _branch(model.family, options)
    _check_covered(branch, model, options)
    if options.checkpoint.is_dir():
        _merge_folder(target, options, model, branch)
    else:
        _merge_file(options.checkpoint, target, model.files[options.checkpoint], branch, _facts(options))


def _check_order(options: Options) -> None:
    """Raises PairError where the first argument is a LoRA; names the right order, or the verb for LoRAs alone."""
    if not is_lora(options.checkpoint):
        return
    first = options.checkpoint
    models = [source for source in options.inputs if source.exists() and not is_lora(source)]
    if models:
        others = " ".join(str(source) for source in (first, *options.inputs) if source != models[0])
        raise PairError(f"{first}: is a LoRA, and the checkpoint comes first: merge {models[0]} {others}")
    raise PairError(f"{first}: is a LoRA, not a checkpoint; blend puts several LoRAs into one file")


def _verify(target: Path, options: Options) -> None:
    """Compares every tensor with the one that it must be, computed again.

    Raises:
        PairError: One differs, by whatever little, or is missing.
    """
    model = base_model(options.checkpoint)
    branch = _branch(model.family, options)
    for file, places in model.files.items():
        written_file = target / file.relative_to(options.checkpoint) if options.checkpoint.is_dir() else target
        written = open_tensors(written_file)[0]
        for key, tensor in open_tensors(file)[0].items():
            wanted = _merged(key, tensor, places, branch)
            if key not in written or not same_bits(wanted.load(), written[key].load()):
                raise PairError(f"{written_file}: verification failed: {key} is not the merged one; remove the file")


def _facts(options: Options) -> dict[str, object]:
    """The line of history that the merged files carry."""
    weights = options.weights or [1.0] * len(options.inputs)
    names = [f"{source.name} × {weight:g}" for source, weight in zip(options.inputs, weights, strict=True)]
    return {"verb": "merge", "of": names, "branch": options.branch}


def _branch(family: Family, options: Options) -> Branch:
    """The sum of all LoRAs, by diffusers module."""
    weights = options.weights or [1.0] * len(options.inputs)
    if len(weights) != len(options.inputs):
        raise PairError(f"--weights: {len(weights)} given for {len(options.inputs)} LoRAs; give one for each")
    branches = []
    for source, weight in zip(options.inputs, weights, strict=True):
        adapter = read_source(source, replace(options, family=None))
        if adapter.is_sure and adapter.family.name != family.name:
            raise PairError(f"{source}: is for {adapter.family.title}, the checkpoint is {family.title}")
        adapter = adapter if adapter.is_sure else read_source(source, replace(options, family=family.name))
        branches.append(weighted(by_module(chosen_branch(adapter, options), source), weight))
    return summed(branches, options.inputs[0])


def _check_covered(branch: Branch, model: BaseModel, options: Options) -> None:
    found = {module for _, _, _, place in model.named() for module in place.modules}
    missing = [modules[0] for modules in branch if modules[0] not in found]
    if len(missing) == len(branch):
        raise PairError(f"{options.checkpoint}: has none of the LoRA's {len(branch)} layers")
    if missing and not options.skip_missing:
        raise PairError(
            f"{options.checkpoint}: lacks {len(missing)} of the LoRA's layers, the first is {missing[0]}; pass "
            "--skip-missing to merge the others"
        )


def _merge_file(
    source: Path, target: Path, places: Mapping[str, Place], branch: Branch, facts: Mapping[str, object]
) -> None:
    tensors, metadata = open_tensors(source)
    if any("scaled_fp8" in key or key.endswith(".scale_weight") for key in tensors):
        raise PairError(
            f"{source}: is a scaled fp8 checkpoint, whose weights have scales of their own; merge into fp16"
        )
    progress = tqdm(total=len(tensors), desc=target.name, leave=False, disable=None)
    merged = {key: _merged(key, tensor, places, branch, progress.update) for key, tensor in tensors.items()}
    values = {key: value for key, value in metadata.items() if key != "modelspec.hash_sha256"}
    values[HISTORY_KEY] = with_history(metadata, facts)
    write_tensors(target, merged, values, hashed=False)
    progress.close()


def _merged(
    key: str,
    tensor: Lazy,
    places: Mapping[str, Place],
    branch: Branch,
    step: Callable[[], object] = lambda: None,
) -> Lazy:
    """The tensor as it is, or with its deltas; ``step`` is called when it is taken or computed."""
    place = places.get(key)
    if place is None or not any((module,) in branch for module in place.modules):
        step()
        return tensor

    def load() -> Tensor:
        step()
        return added(tensor.load(), place, branch, key)

    return Lazy(tensor.shape, tensor.element, load)


def added(weight: Tensor, place: Place, branch: Branch, key: str) -> Tensor:
    """The weight with the deltas of its modules added, in its own dtype.

    Raises:
        PairError: The LoRA's shapes are not the weight's.
    """
    difference = placed_delta(branch, place, key)
    squeezed = tuple(size for size in difference.shape if size != 1), tuple(size for size in weight.shape if size != 1)
    if squeezed[0] != squeezed[1]:
        raise PairError(f"{key}: the LoRA's delta is {tuple(difference.shape)}, the weight {tuple(weight.shape)}")
    return difference.reshape(weight.shape).add_(weight.float()).to(weight.dtype)


def placed_delta(branch: Branch, place: Place, key: str) -> Tensor:
    """The deltas of a weight's modules, in the order of its rows, float32."""
    layer = join([branch[(module,)] for module in place.modules if (module,) in branch], place.modules, key)
    return delta(swap_halves(layer) if place.swaps and needs_swap(layer) else layer)


def _merge_folder(target: Path, options: Options, model: BaseModel, branch: Branch) -> None:
    """A copy of a diffusers folder with the LoRA-bearing weights merged."""
    source = options.checkpoint
    if target.exists():
        raise PairError(f"{target}: exists already; a model folder is never replaced, name a new one with -o")
    components = {file.parent for file in model.files}
    files = [*_plain_files(source)]
    with atomic_folder(target, sum(file.stat().st_size for file in files)) as folder:
        for file in files:
            if file.parent in components and _is_weights(file, model):
                logger.warning("%s: left out, another form of weights that are merged", file)
            elif file not in model.files:
                copy = folder / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        for file, places in model.files.items():
            _merge_file(file, folder / file.relative_to(source), places, branch, _facts(options))


def _is_weights(file: Path, model: BaseModel) -> bool:
    """Whether a file holds the weights of a merged component once more: another variant, or a pickle of them."""
    return file not in model.files and file.suffix.lower() in (".safetensors", ".msgpack", ".h5", *PICKLES)


def _plain_files(folder: Path) -> Iterable[Path]:
    """The folder's files. Links must stay inside: one that leads out could bring in any file of the machine.

    Raises:
        PairError: A link leads out of the folder.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            if leads_out(path, folder):
                raise PairError(f"{path}: is a link out of the folder; copy the model with its files (cp -rL) first")
            yield path


VERB = Command(__doc__, Options, run, Conversion(__doc__, BatchOptions, suffix, convert, verify, base="checkpoint"))
