"""Any style LoRA, with the content LoRAs it was trained beside if there are any → our coupled checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.conversion import Conversion
from convert.files import lazy
from convert.files.elements import Element
from convert.files.lazy import from_tensor
from convert.files.writer import write_tensors
from convert.formats import metadata
from convert.formats.layers import ORTHONORMAL, Adapter, Layer, concatenated
from convert.formats.measures import flat, gram_defect
from convert.formats.names import kind_of
from convert.formats.read import read_adapter
from convert.options import Reading, Writing, as_given, of_pair, read_source
from convert.verify import compare
from pair_network.errors import PairError
from pair_network.network.config import PairConfig
from pair_network.network.pair_file import CONFIG_KEY, PAIR_SUFFIX
from pair_network.options import option

from .kohya import branch_of, kohya_layers, tensors_of

if TYPE_CHECKING:  # torch is imported with the first tensor
    from torch import Tensor

SUFFIX = PAIR_SUFFIX


@dataclass(frozen=True)
class Options(Writing, Reading):
    """The options of the verb."""

    content: Sequence[Path] = option(
        (),
        "content LoRA of a pair; once for each pair. Without any, the content branch starts from zero",
        Path,
        is_repeated=True,
        metavar="FILE",
    )


def convert(source: Path, target: Path, options: Options) -> list[Path]:
    """Writes ``source`` to ``target`` as a coupled checkpoint; returns what was written.

    Raises:
        PairError: A content LoRA is of another family, or its layers do not fit the style's.
    """
    adapter = read_source(source, options)
    style = kohya_layers(adapter.style, adapter.family, source)
    content = _content(adapter, options)
    _fill(style, content, source)
    config = _config(adapter, style, content)
    values = metadata.converted(adapter, "pair")
    metadata.set_kohya(values, adapter, branch_of(style), target.name.removesuffix(PAIR_SUFFIX))
    values["ss_network_module"], values[CONFIG_KEY] = "pair_network", config.to_json()
    write_tensors(target, {**tensors_of(content, "content."), **tensors_of(style, "style.")}, values)
    return [target]


def _content(adapter: Adapter, options: Options) -> dict[str, Layer]:
    """The content branch by kohya's keys: the checkpoint's own, or the files of ``--content``."""
    if adapter.content:
        if options.content:
            raise PairError(f"{adapter.source}: has a content branch already; leave --content out")
        return kohya_layers(adapter.content, adapter.family, adapter.source)
    pairs = []
    for file in options.content:
        other = read_source(file, options)
        if other.is_sure and other.family.name != adapter.family.name:
            raise PairError(f"--content {file}: is for {other.family.title}, the style LoRA for {adapter.family.title}")
        if not other.is_sure:
            other = read_source(file, replace(options, family=adapter.family.name))
        pairs.append(kohya_layers(other.style, adapter.family, file))
    keys = {key: None for pair in pairs for key in pair}
    if len(pairs) > 1 and any(key not in pair for key in keys for pair in pairs):
        raise PairError(
            f"{options.content[0]}: the content LoRAs have different layers; they must come from one training"
        )
    return {key: _paired([pair[key] for pair in pairs]) for key in keys}


def _paired(layers: list[Layer]) -> Layer:
    """Content layers of several pairs as one, with an up for each: (pairs, out, rank, …)."""
    import torch

    first = layers[0]
    if len({layer.scale for layer in layers}) > 1:
        layers = [replace(layer, up=lazy.scaled(layer.up, layer.scale / first.scale)) for layer in layers]
    if all(torch.equal(layer.down.load(), first.down.load()) for layer in layers[1:]):
        ups = [lazy.reshaped(layer.up, (1, *layer.up.shape)) for layer in layers]
        return replace(first, up=ups[0] if len(ups) == 1 else concatenated(ups))
    # Pairs with rows of their own: all rows stacked, and each pair's up is zero where the rows are another's.
    rank, element, position, ups = sum(layer.rank for layer in layers), first.up.element, 0, []
    for layer in layers:
        pad = (position, rank - position - layer.rank)
        shape = (1, first.up.shape[0], rank, *first.up.shape[2:])
        ups.append(lazy.mapped(layer.up, _padded(pad, shape, element), shape, element))
        position += layer.rank
    return Layer(first.modules, concatenated([layer.down for layer in layers]), concatenated(ups), first.scale * rank)


def _padded(pad: tuple[int, int], shape: tuple[int, ...], element: Element) -> Callable[[Tensor], Tensor]:
    """Function: an up with zero columns before and after its own."""
    from torch.nn.functional import pad as padded

    return lambda up: padded(up.flatten(1), pad).to(element.dtype).reshape(shape)


def _fill(style: dict[str, Layer], content: dict[str, Layer], source: Path) -> None:
    """Gives either branch the layers that only the other has: up zero, rows orthogonal to the other's."""
    pairs = max((layer.up.shape[0] for layer in content.values()), default=1)
    for key, layer in style.items():
        if key not in content:
            content[key] = _zero_layer(key, layer, (pairs,), source)
    for key, layer in content.items():
        if key not in style:
            style[key] = _zero_layer(key, layer, (), source)


def _zero_layer(key: str, other: Layer, lead: tuple[int, ...], source: Path) -> Layer:
    import torch

    from pair_network.network.orthogonal import layer_generator, orthonormal_rows

    rows = other.down.load().float().flatten(1)
    rank = min(other.rank, rows.shape[1] - rows.shape[0])
    if rank < 1:
        raise PairError(f"{source}: {key} has rank {other.rank} of {rows.shape[1]}; resize it before, no row is left")
    down = orthonormal_rows(rank, rows.shape[1], layer_generator(0, key), orthogonal_to=rows, layer_name=key)
    down = down.reshape(rank, *other.down.shape[1:]).to(other.down.dtype)
    up = torch.zeros(*lead, other.out_dim, rank, *(1,) * (down.dim() - 2), dtype=other.up.dtype)
    return Layer(other.modules, from_tensor(down), from_tensor(up), other.scale * rank)


def _config(adapter: Adapter, style: Mapping[str, Layer], content: Mapping[str, Layer]) -> PairConfig:
    """The checkpoint's own settings, or those that these layers have."""
    num_pairs = max(layer.up.shape[0] for layer in content.values())
    if adapter.config is not None:
        return adapter.config
    first, other = (max(layers.values(), key=lambda layer: layer.rank) for layers in (style, content))
    joined = (
        np.concatenate([flat(layer.down.numbers()), flat(content[key].down.numbers())]) for key, layer in style.items()
    )
    is_frozen = all(gram_defect(rows) < ORTHONORMAL for rows in joined)
    # Each layer has its alpha beside it; these are what a new one would get, and 0 would be none.
    alpha, content_alpha = (layer.alpha or float(layer.rank) for layer in (first, other))
    return PairConfig(
        rank=first.rank, alpha=alpha, content_rank=other.rank, content_alpha=content_alpha,
        orthogonality="frozen" if is_frozen else "none", targets=_targets(style), num_pairs=num_pairs,
    )  # fmt: skip


def _targets(layers: Mapping[str, Layer]) -> tuple[str, ...]:
    """The trainer's names for the kinds of layer that are there."""
    found = {kind_of(module) for layer in layers.values() for module in layer.modules}
    return tuple(kind for kind in ("attention", "ff", "conv", "text_encoder") if kind in found)


def verify(source: Path, target: Path, options: Options) -> None:
    """Reads the checkpoint again; compares the style, and every pair's content with its own or with ``--content``.

    Raises:
        PairError: A layer is missing, or its delta differs by more than rounding.
    """
    original, written = as_given(source, options), read_adapter(target, options.family)
    compare(original.style, written.style, 1.0, target)
    known = replace(options, family=original.family.name)
    count = next((layer.up.shape[0] for layer in original.content.values()), len(options.content))
    for pair in range(count):
        content = of_pair(original, pair) if original.content else as_given(options.content[pair], known).style
        compare(content, of_pair(written, pair), 1.0, target)


VERB = Conversion(__doc__, Options, SUFFIX, convert, verify)
