"""A file's tensors grouped by layer: what their suffixes say, before any model family is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from convert.files.lazy import Lazy

# Tensor suffixes and the part they give. Longer ones first: ".lora.down.weight" also ends in ".down.weight".
SUFFIXES = (
    (".lora_linear_layer.down.weight", "down", "diffusers"),
    (".lora_linear_layer.up.weight", "up", "diffusers"),
    (".lora_down.weight", "down", "kohya"),
    (".lora_up.weight", "up", "kohya"),
    (".lora_A.default.weight", "down", "peft"),
    (".lora_B.default.weight", "up", "peft"),
    (".lora_A.weight", "down", "peft"),
    (".lora_B.weight", "up", "peft"),
    (".lora.down.weight", "down", "diffusers"),
    (".lora.up.weight", "up", "diffusers"),
    ("_lora.down.weight", "down", "diffusers"),
    ("_lora.up.weight", "up", "diffusers"),
    (".down.weight", "down", "xflux"),
    (".up.weight", "up", "xflux"),
    (".alpha", "alpha", "kohya"),
)
# xflux's qkv_lora.down.weight is no attention processor's to_q_lora.down.weight.
XFLUX_ENDS = {
    f"_lora.{part}.weight": (f"qkv_lora.{part}.weight", f"proj_lora.{part}.weight") for part in ("down", "up")
}
OTHER_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "CP-decomposed LoCon",
    "oft_": "OFT",
    "lora_B.bias": "LoRA with biases",
    "glora": "GLoRA",
}


@dataclass
class RawLayer:
    """Tensors of one layer under its name in the file."""

    tensors: dict[str, Lazy] = field(default_factory=dict)
    syntax: str = "kohya"


@dataclass
class Parsed:
    """A file's tensors grouped by layer name, and the keys that belong to no LoRA layer."""

    layers: dict[str, RawLayer]
    unexpected: list[str]


def kind_of_tensor(key: str) -> str | None:
    """What other method a tensor belongs to, by its name; None where that says nothing."""
    if key.endswith((".diff", ".diff_b")):
        return "full difference"
    return next((title for part, title in OTHER_KINDS.items() if part in key), None)


def suffix_of(key: str) -> tuple[str, str, str] | None:
    """The row of ``SUFFIXES`` that a tensor's name ends in, or None."""
    for row in SUFFIXES:
        if key.endswith(row[0]) and not key.endswith(XFLUX_ENDS.get(row[0], ())):
            return row
    return None


def parse_keys(tensors: Mapping[str, Lazy]) -> Parsed:
    layers: dict[str, RawLayer] = {}
    unexpected = []
    for key, tensor in tensors.items():
        row = suffix_of(key)
        if row is None:
            unexpected.append(key)
            continue
        suffix, part, syntax = row
        layer = layers.setdefault(normal_name(key[: -len(suffix)]), RawLayer())
        layer.tensors[part] = tensor
        layer.syntax = syntax if part != "alpha" else layer.syntax
    return Parsed(layers, unexpected)


def normal_name(name: str) -> str:
    """A layer's name without the attention processor that diffusers' first releases put into it."""
    if ".processor." in name and not name.startswith(("double_blocks.", "single_blocks.", "diffusion_model.")):
        return name.replace(".processor.", ".")
    return name
