"""Which layers of a model carry a LoRA, and the keys by which kohya's files name them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import nn

from pair_network.errors import PairError
from pair_network.families import FAMILIES, Family, family_of_class
from pair_network.families.text_encoders import KINDS as TEXT_ENCODER_KINDS

from .config import PairConfig

UNET_PREFIX = "lora_unet"

PEFT_FACTOR = re.compile(r"\.lora_[AB]\.")
FUSED = re.compile(r"(attn\.qkv|attn2\.qkv|attn_qkv|attention\.qkv|single_blocks\.\d+\.linear1)$")


Layer = nn.Linear | nn.Conv2d


class UNetConfig(Protocol):
    """What is asked of the config of diffusers' U-Net."""

    addition_embed_type: str | None
    layers_per_block: int | Sequence[int]
    up_block_types: Sequence[str]


@dataclass(frozen=True)
class Target:
    """A layer to couple.

    Attributes:
        key: kohya's key, ``lora_unet_…`` or ``lora_te…``, without the tensor suffix.
        path: Dotted path below its model, by which ``block_dims`` selects.
        splits: Output widths of the parts that get factors of their own; empty: the layer is one part.
    """

    key: str
    path: str
    module: Layer
    splits: tuple[int, ...] = ()

    @property
    def is_text_encoder(self) -> bool:
        return not self.key.startswith(UNET_PREFIX)


def as_list(text_encoder: nn.Module | Sequence[nn.Module] | None) -> list[nn.Module]:
    """Hosts pass one text encoder bare, several as a list, and none as None."""
    if text_encoder is None:
        return []
    return list(text_encoder) if isinstance(text_encoder, Sequence) else [text_encoder]


def model_family(unet: nn.Module | None) -> Family:
    """The family whose layer names the model has."""
    return family_of_class(cls.__name__ for cls in type(unet).__mro__)


def all_layers(text_encoder: nn.Module | Sequence[nn.Module] | None, unet: nn.Module | None) -> Iterator[Target]:
    """Every linear and convolution layer with the key that kohya's files give it."""
    encoders = as_list(text_encoder)
    for number, encoder in enumerate(encoders, start=1):
        # T5 is the third text encoder of every family in kohya's keys, FLUX with its two included.
        place = 3 if is_t5(encoder) else number
        prefix = "lora_te" if len(encoders) == 1 else f"lora_te{place}"
        level = "text_model." if is_clip(encoder) else ""
        for path, module in _layers_of(encoder):
            # transformers 5 dropped the text_model level that every CLIP LoRA file carries in its keys.
            yield Target(_key(prefix, level + path.removeprefix("text_model.")), path, module)
    if unet is not None:
        rename = sdxl_rename(unet)
        for path, module in _layers_of(unet):
            yield Target(_key(UNET_PREFIX, rename(path)), path, module)


def is_clip(encoder: nn.Module) -> bool:
    return any(cls.__name__.startswith("CLIP") for cls in type(encoder).__mro__)


def is_t5(encoder: nn.Module) -> bool:
    return any(cls.__name__.startswith("T5") for cls in type(encoder).__mro__)


def find_targets(
    config: PairConfig, text_encoder: nn.Module | Sequence[nn.Module] | None, unet: nn.Module | None
) -> list[Target]:
    """The layers that the config's ``targets`` name.

    Raises:
        PairError: No layer matched, or ``split_qkv`` finds no fused layer.
    """
    family = model_family(unet)
    unet_pattern = _pattern(family.kinds, config.targets)
    encoder_pattern = _pattern(TEXT_ENCODER_KINDS, config.targets)
    if not family.trains_text_encoders and TEXT_ENCODER_KINDS.keys() & set(config.targets):
        raise PairError(
            f"network_args: {family.title}'s text encoders are not trained; take text_encoder out of targets"
        )
    found = [
        target
        for target in all_layers(text_encoder, unet)
        if (encoder_pattern if target.is_text_encoder else unet_pattern).search(target.path)
    ]
    if not found:
        model = type(unet).__name__ if unet is not None else "the given model"
        raise PairError(
            f"network_args: targets={'+'.join(config.targets)} matches no layer of {model}; this plug-in knows the "
            f"layers of {', '.join(each.title for each in FAMILIES.values())}, and this family has "
            f"{', '.join(family.kinds)}"
        )
    return split_targets(found) if config.split_qkv else found


def _pattern(kinds: Mapping[str, str], wanted: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{kinds[kind]})" for kind in wanted if kind in kinds) or r"(?!)")


def split_targets(targets: Sequence[Target]) -> list[Target]:
    """The targets, fused q, k, v (and MLP) layers with the widths of their parts.

    Raises:
        PairError: None of them is fused.
    """
    split = [
        replace(target, splits=_part_widths(target)) if FUSED.search(target.path) else target for target in targets
    ]
    if not any(target.splits for target in split):
        raise PairError("network_args: split_qkv: no layer of this model fuses q, k and v; remove it")
    return split


def _part_widths(target: Target) -> tuple[int, ...]:
    """Widths of q, k, v and, in a single block's linear1, of the MLP."""
    module = target.module
    assert isinstance(module, nn.Linear)
    width, out = module.in_features, module.out_features
    if target.path.endswith("linear1"):
        return (width, width, width, out - 3 * width)
    # Lumina's keys and values have fewer heads than its queries.
    return (width, (out - width) // 2, (out - width) // 2)


def block_ranks(config: PairConfig, targets: Sequence[Target]) -> dict[str, tuple[int, int]]:
    """Style and content rank by key; a block's content rank keeps the network's ratio. Rank 0 leaves the layer out.

    The last matching entry of ``block_dims`` wins.

    Raises:
        PairError: An entry matches no layer, or every layer is left out.
    """
    for part, _ in config.block_dims:
        if not any(part in target.path for target in targets):
            example = ", ".join(sorted({".".join(target.path.split(".")[:2]) for target in targets})[:8])
            raise PairError(f"network_args: block_dims: {part!r} is in no layer's path; the blocks are {example} …")
    ranks = {}
    for target in targets:
        rank = config.rank
        for part, block_rank in config.block_dims:
            if part in target.path:
                rank = block_rank
        if rank:
            ranks[target.key] = (rank, max(1, round(config.content_rank * rank / config.rank)))
    if not ranks:
        raise PairError("network_args: block_dims leaves no layer to train; give at least one block a rank above 0")
    return ranks


def _layers_of(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Linear and convolution layers by path; those that peft has wrapped, by the path they had before."""
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not PEFT_FACTOR.search(path):
            yield path.removesuffix(".base_layer"), module


def _key(prefix: str, path: str) -> str:
    return f"{prefix}_{path}".replace(".", "_")


def sdxl_rename(unet: nn.Module) -> Callable[[str], str]:
    """Function from a layer's path to the path in kohya's files.

    Only diffusers' SDXL U-Net needs one: kohya's SDXL files keep the original input_blocks / output_blocks names,
    which are also the only ones that every loader reads whole.
    """
    config: UNetConfig | None = getattr(unet, "config", None)
    if config is None or getattr(config, "addition_embed_type", None) != "text_time":
        return lambda path: path
    per_block = config.layers_per_block if isinstance(config.layers_per_block, int) else config.layers_per_block[0]
    has_attention = ["CrossAttn" in kind for kind in config.up_block_types]
    return lambda path: _sgm_path(path, per_block, has_attention)


_RESNET_NAMES = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _sgm_path(path: str, per_block: int, has_attention: Sequence[bool]) -> str:
    """``down_blocks.1.attentions.0.…`` → ``input_blocks.4.1.…`` and so on; other paths unchanged."""
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", path)
    if match:
        side, block, part, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if side == "down":
            number = 1 + (per_block + 1) * block + (per_block if part == "downsamplers" else index)
            place = f"input_blocks.{number}"
        else:
            number = (per_block + 1) * block + (per_block if part == "upsamplers" else index)
            place = f"output_blocks.{number}"
        slot = {"resnets": 0, "attentions": 1, "downsamplers": 0}.get(part, 2 if has_attention[block] else 1)
        if part == "downsamplers":
            rest = rest.replace("conv", "op", 1)
        return f"{place}.{slot}.{_RESNET_NAMES.get(rest, rest) if part == 'resnets' else rest}"
    match = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", path)
    if match:
        slot = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{slot}.{_RESNET_NAMES.get(match[3], match[3])}"
    return path
