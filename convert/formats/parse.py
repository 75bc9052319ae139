"""A file's tensors grouped by layer: what the ends of their names say, before any model family is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from convert.files.lazy import Lazy, reshaped

PARTS = {"down": "down", "A": "down", "up": "up", "B": "up", "mid": "mid", "alpha": "alpha"}
# The ends of names and the syntax that each belongs to; the first that fits holds. PEFT puts the name of an adapter,
# which is the user's own, between factor and "weight".
ENDS = (
    # xflux names its processors' layers qkv_lora and proj_lora; elsewhere "_lora" is no part of a layer's name.
    (re.compile(r"(?:(?<=qkv_lora)|(?<=proj_lora)|(?<=_lora[12]))\.(down|up)\.weight$"), "xflux"),
    (re.compile(r"[._]lora(?:_linear_layer)?\.(down|up|mid)\.weight$"), "diffusers"),
    (re.compile(r"\.lora_(down|up|mid)(?:\..+)?\.weight$"), "kohya"),
    (re.compile(r"\.lora_(A|B)(?:\..+)?\.weight$"), "peft"),
    (re.compile(r"\.lora_(down|up)$"), "kohya"),
    (re.compile(r"\.lora_(A|B)$"), "peft"),
    (re.compile(r"(?:[._]lora(?:_linear_layer)?)?\.(alpha)$"), "alpha"),
)
PROCESSOR = re.compile(r"\.processor\.(?!(?:qkv|proj)_lora)")


@dataclass
class RawLayer:
    """Tensors of one layer under its name in the file.

    Attributes:
        tensors: "down", "up", "mid" (CP-decomposed convolutions) and "alpha".
        keys: The tensors' own names, by part.
        syntax: "kohya", "peft", "diffusers" or "xflux".
    """

    tensors: dict[str, Lazy] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    syntax: str = "kohya"


@dataclass
class Parsed:
    """A file's tensors grouped by layer name.

    Attributes:
        layers: The layers.
        unexpected: Keys that are no factor and no alpha.
        twice: Pairs of keys that give the same part of the same layer, such as those of two adapters.
    """

    layers: dict[str, RawLayer]
    unexpected: list[str]
    twice: list[tuple[str, str]]


def suffix_of(key: str) -> tuple[str, str, str] | None:
    """The end of a tensor's name that is no part of the layer's, the part it gives, and its syntax; or None."""
    for pattern, syntax in ENDS:
        found = pattern.search(key)
        if found:
            return found.group(), PARTS[found.group(1)], syntax
    return None


def parse_keys(tensors: Mapping[str, Lazy]) -> Parsed:
    layers: dict[str, RawLayer] = {}
    unexpected: list[str] = []
    twice: list[tuple[str, str]] = []
    for key, tensor in tensors.items():
        row = suffix_of(key)
        if row is None:
            unexpected.append(key)
            continue
        suffix, part, syntax = row
        layer = layers.setdefault(normal_name(key[: -len(suffix)]), RawLayer())
        if part in layer.tensors:
            twice.append((layer.keys[part], key))
        layer.tensors[part], layer.keys[part] = tensor, key
        layer.syntax = syntax if part != "alpha" else layer.syntax
    for layer in layers.values():
        _level(layer.tensors)
    return Parsed(layers, unexpected, twice)


def _level(tensors: dict[str, Lazy]) -> None:
    """Gives an up the dimensions of its down, where the one is stored as of a convolution and the other is not: the
    UIs flatten both. (A content branch's up has one dimension more than its down, never two.)"""
    down, up = tensors.get("down"), tensors.get("up")
    if down is None or up is None or {len(down.shape), len(up.shape)} != {2, 4}:
        return
    if all(size == 1 for size in up.shape[2:]):
        tensors["up"] = reshaped(up, (*up.shape[:2], *(1 for _ in down.shape[2:])))


def normal_name(name: str) -> str:
    """A layer's name without the attention processor that diffusers' first releases put into it."""
    return PROCESSOR.sub(".", name)
