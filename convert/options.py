"""Options that verbs share, and what they mean."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from pair_network.errors import PairError
from pair_network.options import option

from .files import lazy
from .files.elements import BF16, F16, F32, Element
from .files.header import printable
from .formats.families import FAMILIES
from .formats.foreign import UNKNOWN, in_words
from .formats.layers import Adapter, Branch, Layer, concatenated, fold_alpha
from .formats.read import read_adapter

DTYPES = {"fp32": F32, "fp16": F16, "bf16": BF16}
BRANCHES = ("style", "content", "both")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How an input is read."""

    family: str | None = option(None, "model family, where the file leaves it open", choices=list(FAMILIES))
    skip_unknown: bool = option(
        False,
        "leave out what is no plain LoRA layer of the family, and name it, instead of refusing the file",
        key="skip-unknown",
    )
    allow_pickle: bool = option(
        False, "also read .pt and .ckpt, through torch's weights_only loading", key="allow-pickle"
    )


@dataclass(frozen=True)
class Writing:
    """What every conversion is told of its output."""

    overwrite: bool = option(False, "replace outputs that exist")
    verify: bool = option(False, "read each output again and compare every layer's delta")


@dataclass(frozen=True)
class Choosing:
    """Which branch of a coupled checkpoint becomes the LoRA."""

    branch: str = option("style", "branch of a .pair.safetensors", choices=BRANCHES)
    pair: int = option(0, "which pair's content branch, from 0", int, metavar="N")


@dataclass(frozen=True)
class OfBranch(Choosing, Writing, Reading):
    """All of it: what most conversions have."""


def element_named(dtype: str | None) -> Element | None:
    """The element type that ``--dtype`` names; None: the file's own."""
    return DTYPES[dtype] if dtype else None


def as_given(source: Path, options: Reading) -> Adapter:
    """The LoRA in an input, as ``--family``, ``--skip-unknown`` and ``--allow-pickle`` say."""
    return read_adapter(source, options.family, options.allow_pickle, options.skip_unknown)


def read_source(source: Path, options: Reading, carries: bool = False) -> Adapter:
    """The LoRA in an input for a verb to write, with notes on what is guessed or left out.

    Args:
        source: The input.
        options: How it is read.
        carries: The verb has a place for bundled embeddings and for differences beside the factors.

    Raises:
        PairError: The input cannot be read, or holds what the verb has no place for.
    """
    adapter = as_given(source, options)
    _check_skipped(adapter)
    if not adapter.is_sure and len(adapter.fits) > 1:
        titles = ", ".join(FAMILIES[name].title for name in adapter.fits)
        logger.warning(printable(f"{source}: fits {titles}; read as {adapter.family.title} (--family sets it)"))
    if adapter.left_out:
        logger.warning("%s: left out: %s", source, in_words(adapter.left_out))
    if not carries:
        refuse_additions(adapter)
        name_embeddings(adapter)
    return adapter


def refuse_additions(adapter: Adapter) -> None:
    """Raises PairError where the file changes weights in other ways than by its factors."""
    if adapter.additions:
        words = in_words(dict.fromkeys(adapter.additions, "difference"))
        raise PairError(
            f"{adapter.source}: beside its factors it holds {words}, which have no place in this format; pass "
            "--skip-unknown to leave them out"
        )


def name_embeddings(adapter: Adapter) -> None:
    """Says that bundled embeddings stay behind: they are prompts' words, and no part of the LoRA's change."""
    if adapter.embeddings:
        words = in_words(dict.fromkeys(adapter.embeddings, "bundled embedding"))
        logger.warning("%s: left out, as the format has no place for it: %s", adapter.source, words)


def _check_skipped(adapter: Adapter) -> None:
    """Refuses to take a few layers out of a file that is for another model."""
    unknown = [key for key, what in adapter.left_out.items() if what == UNKNOWN]
    if len(unknown) > 3 * len(adapter.style):  # a layer has two or three tensors
        raise PairError(
            f"{adapter.source}: most of it has names unknown in {adapter.family.title} ({len(unknown)} tensors), so it "
            "is for another model; info shows what is known of it"
        )


def chosen_branch(adapter: Adapter, options: Choosing) -> Branch:
    """The layers that ``--branch`` and ``--pair`` name.

    Raises:
        PairError: The file has no content branch, or not so many pairs.
    """
    if options.branch == "style":
        return adapter.style
    if not adapter.content:
        raise PairError(f"{adapter.source}: has no content branch; only a .pair.safetensors has")
    content = of_pair(adapter, options.pair)
    if options.branch == "content":
        return content
    both = dict(adapter.style)
    for key, layer in content.items():
        both[key] = stacked([both[key], layer]) if key in both else layer
    return both


def of_pair(adapter: Adapter, pair: int) -> Branch:
    """The content branch of one pair."""
    return {key: content_of_pair(layer, pair, adapter.source) for key, layer in adapter.content.items()}


def content_of_pair(layer: Layer, pair: int, source: object) -> Layer:
    """One pair's layer of a content branch, whose up holds every pair's."""
    count = layer.up.shape[0]
    if not 0 <= pair < count:
        raise PairError(f"{source}: --pair {pair}: it holds {count} pair(s), numbered from 0")
    if count == 1:
        return replace(layer, up=lazy.reshaped(layer.up, layer.up.shape[1:]))
    return replace(layer, up=lazy.mapped(layer.up, lambda up: up[pair], layer.up.shape[1:]))


def stacked(layers: list[Layer]) -> Layer:
    """The sum of several layers over the same modules: their ranks side by side, exactly."""
    if len(layers) == 1:
        return layers[0]
    if len({layer.scale for layer in layers}) > 1:
        layers = [fold_alpha(layer) for layer in layers]
    rank = sum(layer.rank for layer in layers)
    down = concatenated([layer.down for layer in layers])
    up = concatenated([layer.up for layer in layers], dim=1)
    return Layer(layers[0].modules, down, up, layers[0].scale * rank)
