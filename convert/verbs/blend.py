"""Several style LoRAs with weights in one file: exact by putting their ranks side by side, or reduced to a rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from convert import paths
from convert.command import Command
from convert.formats import metadata
from convert.formats.families import FAMILIES
from convert.formats.layers import Adapter, Branch, Layer, by_module, strengthened
from convert.formats.names import Modules
from convert.options import Choosing, Reading, chosen_branch, read_source, stacked
from pair_network.errors import PairError
from pair_network.options import option

from .kohya import kohya_layers, write_kohya

SUFFIX = "-blend.safetensors"


@dataclass(frozen=True)
class Options(Choosing, Reading):
    """The options of the verb."""

    inputs: Sequence[Path] = option((), "", Path, is_positional=True, nargs="+", metavar="LORA")
    weights: Sequence[float] | None = option(None, "one for each LoRA", float, nargs="+", metavar="W", default="1")
    rank: int | None = option(None, "reduce to this rank by SVD; without it the blend is exact", int)
    output: Path | None = option(None, "the file to write", Path, short="-o", default="beside the first LoRA")
    overwrite: bool = option(False, "replace the output if it exists")


def run(options: Options) -> int:
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
    layers = kohya_layers(branch, adapters[0].family, output)
    loss = 0.0
    if options.rank is not None:
        layers, loss = _reduced(layers, options.rank)
    _write(layers, adapters, weights, loss, output)
    ranks = [layer.rank for layer in layers.values()]
    print(f"{output}: ranks {min(ranks)} to {max(ranks)}, relative error {loss:.4f}")
    return 0


def of_one_family(adapters: list[Adapter], options: Options) -> list[Adapter]:
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
        adapter if adapter.family.name == name else read_source(adapter.source, replace(options, family=name))
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
    gathered: dict[Modules, list[Layer]] = {}
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
    from .lowrank import factored, truncated  # takes torch

    total = lost = 0.0
    reduced = {}
    for key, layer in tqdm(layers.items(), "reducing", leave=False, disable=None):
        parts = factored(layer)
        total, lost = total + float(parts.values.square().sum()), lost + parts.lost(rank)
        reduced[key] = truncated(layer, rank)
    return reduced, math.sqrt(lost / total) if total else 0.0


def _write(
    layers: dict[str, Layer], adapters: list[Adapter], weights: Sequence[float], loss: float, target: Path
) -> None:
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
    write_kohya(target, layers, mixed, "blend", facts)


VERB = Command(__doc__, Options, run)
