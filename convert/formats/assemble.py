"""Layers of one branch from a file's grouped tensors: checked, with alpha, and with decomposed kernels folded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from convert.files import lazy
from convert.files.dtypes import promoted
from convert.files.elements import F32, numbers
from convert.files.lazy import Lazy, bytes_of
from pair_network.errors import PairError, printable
from pair_network.families import Family

from .families import COMPONENTS
from .layers import Branch, Layer, needs_swap, row_ranges, swap_halves
from .names import Name
from .parse import Parsed, RawLayer
from .peft_folder import AlphaOf, check_settings, config_alphas
from .spelling import known_name

if TYPE_CHECKING:  # torch is imported with the first tensor
    from torch import Tensor


def own_rank(name: str, module: str, rank: int) -> float:
    """Alpha where a file says nothing: the scale is 1."""
    return float(rank)


def adapter_alphas(metadata: Mapping[str, str], path: Path, skip: bool = False) -> AlphaOf:
    """Alphas of diffusers' ``lora_adapter_metadata``: the settings of PEFT, prefixed with the component in a pipeline's
    file; one model's own file has them bare."""
    if "lora_adapter_metadata" not in metadata:
        return own_rank
    try:
        values = dict(json.loads(metadata["lora_adapter_metadata"]))
    except (ValueError, TypeError, RecursionError) as cause:
        raise PairError(
            f"{path}: its lora_adapter_metadata cannot be read ({printable(str(cause), 80)}), and its scale may stand "
            "there; save it again with the program that made it"
        ) from cause
    configs: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        component, dot, setting = key.partition(".")
        for name in [component] if dot else COMPONENTS:
            configs.setdefault(name, {})[setting if dot else key] = value
    for config in configs.values():
        check_settings(config, path, skip)
    return config_alphas(configs, path)


def branch_of(
    parsed: Parsed, family: Family, path: Path, alphas: AlphaOf, has_pairs: bool = False
) -> tuple[Branch, frozenset[str]]:
    """The layers by their modules, and the styles of their names.

    Args:
        parsed: The file's tensors, whose names the family all has.
        family: The model family.
        path: The file, named in errors.
        alphas: Alpha of layers without a tensor for it.
        has_pairs: The ups are those of a content branch, with an axis for the pairs.

    Raises:
        PairError: A layer is incomplete, of impossible shapes, or given twice.
    """
    names = names_in(parsed, family)
    branch: Branch = {}
    covered: Counter[str] = Counter()
    for name, raw in parsed.layers.items():
        known = names[name]
        branch[known.modules] = _layer(name, raw, known, path, alphas, has_pairs)
        covered.update(known.modules)
    twice = [module for module, count in covered.items() if count > 1]
    if twice or len(branch) != len(parsed.layers):
        raise PairError(f"{path}: {(twice or ['a layer'])[0]} is given under two names; which one is meant is unclear")
    return branch, frozenset(known.style for known in names.values())


def names_in(parsed: Parsed, family: Family) -> dict[str, Name]:
    """What the layers' names mean, of those that the family has."""
    found = {name: known_name(name, family) for name in parsed.layers}
    return {name: known for name, known in found.items() if known is not None}


def _layer(name: str, raw: RawLayer, known: Name, path: Path, alphas: AlphaOf, has_pairs: bool) -> Layer:
    shown = printable(name, 100)
    if not {"down", "up"} <= set(raw.tensors):
        missing = sorted({"down", "up"} - set(raw.tensors))
        raise PairError(
            f"{path}: {shown} has no {' and no '.join(missing)} tensor; the file is incomplete; --skip-unknown leaves "
            "such layers out"
        )
    down, up = raw.tensors["down"], raw.tensors["up"]
    if "mid" in raw.tensors:
        down = _folded(down, raw.tensors["mid"], f"{path}: {shown}")
    _check_shapes(down, up, f"{path}: {shown}", has_pairs)
    alpha = _alpha(name, raw, known, down.shape[0], alphas, f"{path}: {shown}")
    layer = Layer(known.modules, down, up, alpha)
    row_ranges(known.modules, layer.out_dim, path)  # raises where a joint layer's rows are not its parts'
    return swap_halves(layer) if known.swaps and needs_swap(layer) else layer


def _check_shapes(down: Lazy, up: Lazy, where: str, has_pairs: bool) -> None:
    pairs = len(up.shape) - len(down.shape)
    if not (down.element.is_float and up.element.is_float):
        kinds = " and ".join(dict.fromkeys((down.element.torch_name, up.element.torch_name)))
        raise PairError(f"{where} has factors of type {kinds}, and only floating-point ones are read: save it in fp16")
    shapes = f"{down.shape} and {up.shape}"
    if 0 in down.shape or 0 in up.shape:
        raise PairError(
            f"{where} has tensors of shape {shapes}, which hold nothing; --skip-unknown leaves such layers out"
        )
    if len(down.shape) not in (2, 4) or pairs != has_pairs:
        raise PairError(
            f"{where} has tensors of shape {shapes}, which are no LoRA's; the file is damaged, copy it again"
        )
    rank = pairs + 1
    if up.shape[rank] != down.shape[0] or any(size != 1 for size in up.shape[rank + 1 :]):
        raise PairError(
            f"{where}: down {down.shape} and up {up.shape} do not multiply; the file is damaged, copy it again"
        )


def _folded(down: Lazy, mid: Lazy, where: str) -> Lazy:
    """The kernel of a CP-decomposed convolution (LyCORIS' LoCon) in its down-factor: up · mid · down = up · down'.

    Args:
        down: ``(rank, in, 1, 1)``.
        mid: ``(rank, rank, kh, kw)``.
        where: File and layer, for errors.

    Returns:
        ``(rank, in, kh, kw)``: down'[a, i] = Σ_b mid[a, b] · down[b, i], in float32 at least.
    """
    rank = down.shape[0] if down.shape else 0
    is_pair = len(down.shape) == len(mid.shape) == 4 and down.shape[2:] == (1, 1) and mid.shape[:2] == (rank, rank)
    if not is_pair or not (down.element.is_float and mid.element.is_float):
        raise PairError(f"{where}: is a CP-decomposed LoCon with factors {down.shape} and {mid.shape} that do not fit")
    element = promoted(down.element, mid.element, F32)

    def load() -> Tensor:
        import torch

        product = torch.einsum("abhw,bi->aihw", mid.load().double(), down.load().double().flatten(1))
        return product.to(element.dtype).contiguous()

    return Lazy((rank, down.shape[1], *mid.shape[2:]), element, load)


def _alpha(name: str, raw: RawLayer, known: Name, rank: int, alphas: AlphaOf, where: str) -> float:
    """The alpha tensor, else the one of a PEFT config, else the rank."""
    if "alpha" not in raw.tensors:
        return alphas(name, known.modules[0], rank)
    stored = raw.tensors["alpha"]
    if stored.nbytes != stored.element.size:
        raise PairError(f"{where}: alpha has shape {stored.shape}, one number is needed")
    if stored.stored is None:
        alpha = float(stored.load())
    else:
        alpha = float(numbers(bytes_of(stored.stored, checked=False), stored.element)[0])
    if alpha != alpha or abs(alpha) == float("inf"):
        raise PairError(f"{where}: alpha is {alpha}; the file is damaged")
    return alpha


def without(parsed: Parsed, names: set[str]) -> Parsed:
    """The file without some of its layers."""
    kept = {name: layer for name, layer in parsed.layers.items() if name not in names}
    return replace(parsed, layers=kept)


def alone(up: Lazy) -> Lazy:
    """A content branch's up of one pair, with the axis of pairs that a coupled checkpoint has."""
    return lazy.reshaped(up, (1, *up.shape))
