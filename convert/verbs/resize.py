"""A LoRA at a lower rank: by rank, by share of energy, or by size of the file. The loss is reported.

Every layer is truncated at its singular values, the best approximation there is. The new downs have orthonormal rows.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from tqdm import tqdm

from convert.conversion import Conversion
from convert.files.writer import write_tensors
from convert.formats import metadata
from convert.formats.layers import Layer
from convert.options import DTYPES, add_branch, chosen_branch, read_source
from pair_network.errors import PairError

from .kohya import branch_of, kohya_layers, tensors_of
from .lowrank import factored, rank_for_energy, ranks_for_size, truncated

SUFFIX = "-resized.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_branch(parser)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rank", type=int, help="highest rank of a layer")
    how.add_argument("--energy", type=float, help="share of every layer's squared norm to keep, above 0 and up to 1")
    how.add_argument("--size", type=float, metavar="MB", help="size of the file in megabytes (10^6 bytes)")
    parser.add_argument("--dtype", choices=list(DTYPES), help="dtype of the weights (the file's own)")


def convert(source: Path, target: Path, options: argparse.Namespace) -> list[Path]:
    """Writes ``source`` at a lower rank to ``target``, in kohya's naming; returns what was written."""
    adapter = read_source(source, options)
    layers = dict(kohya_layers(chosen_branch(adapter, options), adapter.family, source))
    resized, loss = shrink(layers, options)
    values = metadata.converted(adapter, "resize", {"relative_error": round(loss, 6)})
    metadata.set_kohya(values, adapter, branch_of(resized), target.stem)
    write_tensors(target, tensors_of(resized.items()), values)
    ranks = [layer.rank for layer in resized.values()]
    print(f"{target.name}: ranks {min(ranks)} to {max(ranks)}, relative error {loss:.4f}")
    return [target]


def shrink(layers: dict[str, Layer], options: argparse.Namespace) -> tuple[dict[str, Layer], float]:
    """The truncated layers, and the relative error ‖new − old‖ / ‖old‖ over all of them."""
    _check(options)
    spectra = {
        key: factored(layer).values for key, layer in tqdm(layers.items(), "singular values", leave=False, disable=None)
    }
    ranks = _ranks(layers, spectra, options)
    dtype = DTYPES[options.dtype].dtype if options.dtype else None
    total = sum(float(values.square().sum()) for values in spectra.values())
    lost = sum(float(values[ranks[key] :].square().sum()) for key, values in spectra.items())
    resized = {
        key: truncated(layer, ranks[key], dtype)
        for key, layer in tqdm(layers.items(), "truncating", leave=False, disable=None)
    }
    return resized, math.sqrt(lost / total) if total else 0.0


def _check(options: argparse.Namespace) -> None:
    if options.rank is not None and options.rank < 1:
        raise PairError(f"--rank {options.rank}: must be at least 1")
    if options.energy is not None and not 0 < options.energy <= 1:
        raise PairError(f"--energy {options.energy}: is a share, above 0 and up to 1")
    if options.size is not None and not options.size > 0:
        raise PairError(f"--size {options.size}: must be above 0")


def _ranks(layers: dict[str, Layer], spectra: dict, options: argparse.Namespace) -> dict[str, int]:
    if options.rank is not None:
        return dict.fromkeys(layers, options.rank)
    if options.energy is not None:
        return {key: rank_for_energy(values, options.energy) for key, values in spectra.items()}
    width = (DTYPES[options.dtype] if options.dtype else next(iter(layers.values())).down.element).size
    costs = [layer.out_dim + layer.down.nbytes // layer.down.element.size // layer.rank for layer in layers.values()]
    header = 400 * len(layers)  # names, shapes and offsets of three tensors
    budget = int((options.size * 1e6 - header) / width)
    if budget < sum(costs):
        least = (sum(costs) * width + header) / 1e6
        raise PairError(f"--size {options.size}: rank 1 in every layer alone takes {least:.1f} MB; give a larger size")
    return dict(zip(layers, ranks_for_size(list(spectra.values()), costs, budget), strict=True))


VERB = Conversion(__doc__, SUFFIX, add_arguments, convert)
