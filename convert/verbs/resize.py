"""A LoRA at a lower rank: by rank, by share of energy, or by size of the file. The loss is reported.

Every layer is truncated at its singular values, the best approximation there is. The new downs have orthonormal rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from convert import verify
from convert.conversion import Conversion
from convert.formats.layers import Layer
from convert.options import DTYPES, OfBranch, chosen_branch, element_named, read_source
from pair_network.errors import PairError
from pair_network.options import option

from .kohya import kohya_layers, write_kohya

if TYPE_CHECKING:  # torch is imported with the first tensor
    from torch import Tensor

SUFFIX = "-resized.safetensors"


@dataclass(frozen=True)
class Options(OfBranch):
    """The options of the verb."""

    rank: int | None = option(None, "highest rank of a layer", int, one_of="how")
    energy: float | None = option(
        None, "share of every layer's squared norm to keep, above 0 and up to 1", float, one_of="how"
    )
    size: float | None = option(None, "size of the file in megabytes (10^6 bytes)", float, metavar="MB", one_of="how")
    dtype: str | None = option(None, "dtype of the weights", choices=list(DTYPES), default="the file's own")


def convert(source: Path, target: Path, options: Options) -> list[Path]:
    """Writes ``source`` at a lower rank to ``target``, in kohya's naming; returns what was written."""
    adapter = read_source(source, options)
    layers = kohya_layers(chosen_branch(adapter, options), adapter.family, source)
    resized, loss = shrink(layers, options)
    write_kohya(target, resized, adapter, "resize", {"relative_error": round(loss, 6)})
    ranks = [layer.rank for layer in resized.values()]
    print(f"{target.name}: ranks {min(ranks)} to {max(ranks)}, relative error {loss:.4f}")
    return [target]


def shrink(layers: dict[str, Layer], options: Options) -> tuple[dict[str, Layer], float]:
    """The truncated layers, and the relative error ‖new − old‖ / ‖old‖ over all of them."""
    from .lowrank import factored, truncated  # takes torch

    _check(options)
    spectra = {
        key: factored(layer).values for key, layer in tqdm(layers.items(), "singular values", leave=False, disable=None)
    }
    ranks = _ranks(layers, spectra, options)
    element = element_named(options.dtype)
    total = sum(float(values.square().sum()) for values in spectra.values())
    lost = sum(float(values[ranks[key] :].square().sum()) for key, values in spectra.items())
    resized = {
        key: truncated(layer, ranks[key], element.dtype if element else None)
        for key, layer in tqdm(layers.items(), "truncating", leave=False, disable=None)
    }
    return resized, math.sqrt(lost / total) if total else 0.0


def _check(options: Options) -> None:
    if options.rank is not None and options.rank < 1:
        raise PairError(f"--rank {options.rank}: must be at least 1")
    if options.energy is not None and not 0 < options.energy <= 1:
        raise PairError(f"--energy {options.energy}: is a share, above 0 and up to 1")
    if options.size is not None and not options.size > 0:
        raise PairError(f"--size {options.size}: must be above 0")


def _ranks(layers: dict[str, Layer], spectra: dict[str, Tensor], options: Options) -> dict[str, int]:
    from .lowrank import rank_for_energy, ranks_for_size

    if options.rank is not None:
        return dict.fromkeys(layers, options.rank)
    if options.energy is not None:
        return {key: rank_for_energy(values, options.energy) for key, values in spectra.items()}
    assert options.size is not None  # one of the three is there
    width = (element_named(options.dtype) or next(iter(layers.values())).down.element).size
    costs = [layer.out_dim + layer.down.nbytes // layer.down.element.size // layer.rank for layer in layers.values()]
    header = 400 * len(layers)  # names, shapes and offsets of three tensors
    budget = int((options.size * 1e6 - header) / width)
    if budget < sum(costs):
        least = (sum(costs) * width + header) / 1e6
        raise PairError(f"--size {options.size}: rank 1 in every layer alone takes {least:.1f} MB; give a larger size")
    return dict(zip(layers, ranks_for_size(list(spectra.values()), costs, budget), strict=True))


VERB = Conversion(__doc__, Options, SUFFIX, convert, verify.readable)
