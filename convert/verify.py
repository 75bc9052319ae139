"""Compares what was written with what was read, layer by layer, without forming a dense delta."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pair_network.errors import PairError

from .formats.layers import Branch, Layer, by_module
from .formats.read import read_adapter
from .options import OfBranch, Reading, as_given, chosen_branch

if TYPE_CHECKING:  # torch is imported with the first tensor
    from torch import Tensor

PROBES = 4
# Largest relative error of a verb that only moves and rescales numbers, by the coarsest type of the output.
TOLERANCE = {"F64": 1e-6, "F32": 1e-6, "F16": 2e-3, "BF16": 1e-2, "F8_E4M3": 7e-2, "F8_E5M2": 0.13}


def same(source: Path, target: Path, options: OfBranch, factor: float = 1.0, partial: bool = False) -> None:
    """Reads ``target`` again and compares it with the branch of ``source`` that it was made of.

    Args:
        factor: Of the branch in the target.
        partial: Layers may be missing.

    Raises:
        PairError: A layer is missing, or its delta differs by more than rounding.
    """
    branch = chosen_branch(as_given(source, options), options)
    compare(branch, read_adapter(target, options.family).style, factor, target, partial)


def readable(source: Path, target: Path, options: Reading) -> None:
    """Reads ``target`` again, of a verb whose result is meant to differ and is measured when it is made.

    Raises:
        PairError: It cannot be read.
    """
    read_adapter(target, options.family)


def compare(original: Branch, written: Branch, factor: float, target: Path, partial: bool = False) -> float:
    """Largest relative error of any module's delta; ``factor`` × the original is what is wanted.

    Raises:
        PairError: A module is missing or added, or the error is above the dtype's rounding.
    """
    first, second = by_module(original, target), by_module(written, target)
    worst = 0.0
    for modules in first.keys() | second.keys():
        if modules not in second and partial:
            continue
        wanted, found = _product(first.get(modules), factor), _product(second.get(modules), 1.0)
        if wanted is None or found is None:
            only = found if wanted is None else wanted
            error = 0.0 if only is None or not only.any() else float("inf")
        else:
            error = relative_error(wanted, found)
        tolerance = TOLERANCE[_coarsest(first.get(modules), second.get(modules))]
        if error > tolerance:
            raise PairError(f"{target}: verification failed: {modules[0]} differs by {error:.1e}; remove the file")
        worst = max(worst, error)
    return worst


def relative_error(wanted: Tensor, found: Tensor) -> float:
    if wanted.shape != found.shape:
        return float("inf")
    norm = float(wanted.norm())
    difference = float((wanted - found).norm())
    return difference / norm if norm else difference


def _coarsest(*layers: Layer | None) -> str:
    names = {tensor.element.name for layer in layers if layer for tensor in (layer.up, layer.down)}
    return max(names, key=lambda name: TOLERANCE[name])


def _product(layer: Layer | None, factor: float) -> Tensor | None:
    """The delta times fixed random vectors, (…, out, PROBES) in float64."""
    import torch

    if layer is None:
        return None
    down = layer.down.load().double().flatten(1)
    up = layer.up.load().double()
    up = up.reshape(*up.shape[: len(up.shape) - len(layer.down.shape)], layer.out_dim, layer.rank)
    generator = torch.Generator().manual_seed(down.shape[1])
    probes = torch.randn(down.shape[1], PROBES, generator=generator, dtype=torch.float64)
    return layer.scale * factor * (up @ (down @ probes))
