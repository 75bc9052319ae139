"""Which layers of a model carry a LoRA, and the keys by which kohya's files name them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from .config import PairConfig
from .errors import PairError

UNET_PREFIX = "lora_unet"

# Layer paths below a U-Net in Stable Diffusion's layout, in diffusers' names and in the original (LDM / SGM) ones.
# "ff" is what kohya's networks train besides attention: the feed-forward parts and the transformers' projections.
UNET_KINDS = {
    "attention": r"\.attn[12]\.to_(q|k|v|out\.0)$",
    "ff": r"(\.ff\.net\.(0\.proj|2)|attentions\.\d+\.proj_(in|out)|blocks?\.\d+\.\d+\.proj_(in|out)|middle_block\.1\.proj_(in|out))$",
    "conv": r"(resnets\.\d+\.(conv1|conv2|conv_shortcut|time_emb_proj)|(down|up)samplers\.0\.conv"
    r"|in_layers\.2|out_layers\.3|emb_layers\.1|skip_connection|blocks\.\d+\.\d+\.(op|conv))$",
}
CLIP_LAYER = r"encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])$"


@dataclass(frozen=True)
class Target:
    """A layer to couple.

    Attributes:
        key: kohya's key, ``lora_unet_…`` or ``lora_te…``, without the tensor suffix.
        path: Dotted path below its model, by which ``block_dims`` selects.
        module: The ``nn.Linear`` or ``nn.Conv2d``.
    """

    key: str
    path: str
    module: nn.Module

    @property
    def is_text_encoder(self) -> bool:
        return not self.key.startswith(UNET_PREFIX)


def as_list(text_encoder: nn.Module | Sequence[nn.Module] | None) -> list[nn.Module]:
    """Hosts pass one text encoder bare, several as a list, and none as None."""
    if text_encoder is None:
        return []
    return list(text_encoder) if isinstance(text_encoder, (list, tuple)) else [text_encoder]  # type: ignore[list-item]


def all_layers(text_encoder: nn.Module | Sequence[nn.Module] | None, unet: nn.Module | None) -> Iterator[Target]:
    """Every linear and convolution layer with the key that kohya's files give it."""
    encoders = as_list(text_encoder)
    for number, encoder in enumerate(encoders, start=1):
        prefix = "lora_te" if len(encoders) == 1 else f"lora_te{number}"
        for path, module in _layers_of(encoder):
            # transformers 5 dropped the text_model level that every LoRA file carries in its keys.
            yield Target(_key(prefix, f"text_model.{path.removeprefix('text_model.')}"), path, module)
    if unet is not None:
        rename = sdxl_rename(unet)
        for path, module in _layers_of(unet):
            yield Target(_key(UNET_PREFIX, rename(path)), path, module)


def find_targets(
    config: PairConfig, text_encoder: nn.Module | Sequence[nn.Module] | None, unet: nn.Module | None
) -> list[Target]:
    """The layers that the config's ``targets`` name.

    Raises:
        PairError: No layer matched.
    """
    unet_pattern = re.compile("|".join(UNET_KINDS[kind] for kind in config.targets if kind in UNET_KINDS) or r"(?!)")
    clip_pattern = re.compile(CLIP_LAYER if "text_encoder" in config.targets else r"(?!)")
    found = [
        target
        for target in all_layers(text_encoder, unet)
        if (clip_pattern if target.is_text_encoder else unet_pattern).search(target.path)
    ]
    if not found:
        model = type(unet).__name__ if unet is not None else "the given model"
        raise PairError(
            f"network_args: targets={'+'.join(config.targets)} matches no layer of {model}; this plug-in knows the "
            "layers of Stable Diffusion 1, 2 and XL"
        )
    return found


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


def _layers_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((path, m) for path, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)))


def _key(prefix: str, path: str) -> str:
    return f"{prefix}_{path}".replace(".", "_")


def sdxl_rename(unet: nn.Module):
    """Function from a layer's path to the path in kohya's files.

    Only diffusers' SDXL U-Net needs one: kohya's SDXL files keep the original input_blocks / output_blocks names,
    which are also the only ones that every loader reads whole.
    """
    config = getattr(unet, "config", None)
    if getattr(config, "addition_embed_type", None) != "text_time":
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
