"""Several style LoRAs with weights in one file: exact by putting their ranks side by side, or reduced to a rank."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from tqdm import tqdm

from convert import paths
from convert.command import Command
from convert.files.writer import write_tensors
from convert.formats import metadata
from convert.formats.families import FAMILIES
from convert.formats.layers import Adapter, Branch, Layer, by_module, strengthened
from convert.options import add_branch, add_reading, chosen_branch, read_source, replaced, stacked
from pair_network.errors import PairError

from .kohya import branch_of, kohya_layers, tensors_of
from .lowrank import factored, truncated

SUFFIX = "-blend.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", type=Path, metavar="LORA")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="one for each LoRA (1)")
    parser.add_argument("--rank", type=int, help="reduce to this rank by SVD; without it the blend is exact")
    parser.add_argument("-o", "--output", type=Path, help="the file to write (beside the first LoRA)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    add_reading(parser)
    add_branch(parser)


def run(options: argparse.Namespace) -> int:
    """Writes the blend; returns the exit status."""
    weights = options.weights or [1.0] * len(options.inputs)
    if len(weights) != len(options.inputs):
        raise PairError(f"--weights: {len(weights)} given for {len(options.inputs)} LoRAs; give one for each")
    output = paths.target_for(options.inputs[0], options.output, SUFFIX, False)
    for source in options.inputs:
        paths.check_target(source, output, options.overwrite)
    adapters = [read_source(source, options) for source in options.inputs]
    adapters = of_one_family(adapters, options)
    branches = [chosen_branch(adapter, options) for adapter in adapters]
    branch = summed([weighted(b, weight) for b, weight in zip(branches, weights, strict=True)], output)
    layers = dict(kohya_layers(branch, adapters[0].family, output))
    loss = 0.0
    if options.rank is not None:
        layers, loss = _reduced(layers, options.rank)
    _write(layers, adapters, weights, loss, output)
    ranks = [layer.rank for layer in layers.values()]
    print(f"{output}: ranks {min(ranks)} to {max(ranks)}, relative error {loss:.4f}")
    return 0


def of_one_family(adapters: list[Adapter], options: argparse.Namespace) -> list[Adapter]:
    """The LoRAs, read again where a file that fits several models was taken for another than the rest is of.

    Raises:
        PairError: No model fits them all.
    """
    common = [name for name in FAMILIES if all(name in adapter.fits for adapter in adapters)]
    certain = {adapter.family.name for adapter in adapters if adapter.is_sure}
    if not common or not certain <= set(common) or len(certain) > 1:
        found = ", ".join(dict.fromkeys(adapter.family.title for adapter in adapters))
        raise PairError(f"{adapters[0].source} …: LoRAs of different families ({found}) cannot be blended")
    name = next(iter(certain), common[0])
    return [
        adapter if adapter.family.name == name else read_source(adapter.source, replaced(options, family=name))
        for adapter in adapters
    ]


def weighted(branch: Branch, weight: float) -> Branch:
    """The branch times a weight.

    Raises:
        PairError: The weight is no number.
    """
    if not math.isfinite(weight):
        raise PairError(f"--weights {weight}: must be a number")
    return {key: strengthened(layer, weight) for key, layer in branch.items()}


def summed(branches: list[Branch], source: object) -> Branch:
    """The layers of all branches, stacked where several have one."""
    if len({frozenset(branch) for branch in branches}) > 1:
        branches = [by_module(branch, source) for branch in branches]
    gathered: dict = {}
    for branch in branches:
        for key, layer in branch.items():
            gathered.setdefault(key, []).append(layer)
    shapes = {key: {(layer.down.shape[1:], layer.out_dim) for layer in layers} for key, layers in gathered.items()}
    for key, found in shapes.items():
        if len(found) > 1:
            raise PairError(
                f"{source}: {key[0]} has different shapes in the LoRAs: {sorted(found)}; are they of one model?"
            )
    return {key: stacked(layers) for key, layers in gathered.items()}


def _reduced(layers: dict[str, Layer], rank: int) -> tuple[dict[str, Layer], float]:
    if rank < 1:
        raise PairError(f"--rank {rank}: must be at least 1")
    total = lost = 0.0
    reduced = {}
    for key, layer in tqdm(layers.items(), "reducing", leave=False, disable=None):
        parts = factored(layer)
        total, lost = total + float(parts.values.square().sum()), lost + parts.lost(rank)
        reduced[key] = truncated(layer, rank)
    return reduced, math.sqrt(lost / total) if total else 0.0


def _write(layers: dict[str, Layer], adapters: list[Adapter], weights: list[float], loss: float, target: Path) -> None:
    """The first LoRA's metadata is carried over only where all agree: a blend has no single training."""
    first = adapters[0]
    shared = {k: v for k, v in first.metadata.items() if all(a.metadata.get(k) == v for a in adapters)}
    names = [adapter.metadata.get("ss_output_name") or adapter.source.stem for adapter in adapters]
    words = [metadata.trigger_words(adapter.metadata) for adapter in adapters]
    if any(words):
        shared["modelspec.trigger_phrase"] = ", ".join(dict.fromkeys(word for word in words if word))
    mixed = Adapter(first.family, {}, {}, shared, first.source, first.format, all(a.is_sure for a in adapters))
    facts = {
        "of": [f"{name} × {weight:g}" for name, weight in zip(names, weights, strict=True)],
        "relative_error": loss,
    }
    values = metadata.converted(mixed, "blend", facts)
    metadata.set_kohya(values, mixed, branch_of(layers), target.stem)
    write_tensors(target, tensors_of(layers.items()), values)


VERB = Command(__doc__, add_arguments, run)
