"""The U-Nets of Stable Diffusion 1, 2 and XL: their layers in the original names and in diffusers', and their kinds."""

from __future__ import annotations

from collections.abc import Iterator

from .layers import Blocks

PER_BLOCK = 2  # resnets in a down block; an up block has one more

# "sd" of kohya's network module: diffusers' names and the original (LDM, SGM) ones. "ff" is what it trains besides
# attention: feed-forward parts and projections.
_ATTENTION = r"\.attn[12]\.to_(q|k|v|out\.0)$"
_FF = (
    r"(\.ff\.net\.(0\.proj|2)|attentions\.\d+\.proj_(in|out)|blocks?\.\d+\.\d+\.proj_(in|out)"
    r"|middle_block\.1\.proj_(in|out))$"
)
KINDS = {
    "attention": _ATTENTION,
    "ff": _FF,
    "conv": r"(resnets\.\d+\.(conv1|conv2|conv_shortcut|time_emb_proj)|(down|up)samplers\.0\.conv"
    r"|in_layers\.2|out_layers\.3|emb_layers\.1|skip_connection|blocks\.\d+\.\d+\.(op|conv))$",
    "full": f"{_ATTENTION}|{_FF}",
}
_KOHYA = ("kohya", "kohya-diffusers", "kohya-native")
READS = {
    "A1111": _KOHYA,
    **dict.fromkeys(("Forge", "Forge Neo", "ComfyUI"), (*_KOHYA, "native", "lycoris", "processor")),
    "diffusers": (
        "kohya lora_down *", "kohya-diffusers lora_down *", "dotted lora_A -", "dotted lora.down -",
        "processor _lora.down -",
    ),
}  # fmt: skip

# diffusers' names within a block and beside the blocks, with the original ones.
RESNET = {"conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3"}
SHORTCUT = {"conv_shortcut": "skip_connection"}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
OUTSIDE_XL = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
# Rows and columns; inpainting models read more channels than others.
_OUTSIDE_WIDTHS = {
    "conv_in": "320 *", "conv_out": "4 320", "time_embedding.linear_1": "1280 320", "time_embedding.linear_2":
    "1280 1280", "add_embedding.linear_1": "1280 2816", "add_embedding.linear_2": "1280 1280",
}  # fmt: skip
TIME = 1280


def unet_blocks(
    widths: tuple[int, ...], down: tuple[int, ...], middle: int, up: tuple[int, ...], context: int, is_xl: bool = False
) -> tuple[Blocks, ...]:
    """Every linear and convolution layer of a U-Net.

    Args:
        widths: Channels of each down block.
        down: Transformer depth of each down block; 0: no attention there.
        middle: Of the middle block.
        up: Of each up block.
        context: Width of the text that attn2 reads.
        is_xl: It has SDXL's embedding of picture sizes.
    """
    lines = [*_down(widths, down, context), *_middle(widths[-1], middle, context), *_up(widths, up, context)]
    outside = {**OUTSIDE, **OUTSIDE_XL} if is_xl else OUTSIDE
    lines += [f"{native} {module} {_OUTSIDE_WIDTHS[module]}" for module, native in outside.items()]
    return (Blocks("\n".join(lines)),)


def _down(widths: tuple[int, ...], depths: tuple[int, ...], context: int) -> Iterator[str]:
    before = widths[0]
    for block, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        first = 1 + (PER_BLOCK + 1) * block
        for index in range(PER_BLOCK):
            place, module = f"input_blocks.{first + index}", f"down_blocks.{block}"
            yield from _resnet(f"{place}.0", f"{module}.resnets.{index}", before, width)
            yield from _attention(f"{place}.1", f"{module}.attentions.{index}", width, depth, context)
            before = width
        if block + 1 < len(widths):
            place = f"input_blocks.{first + PER_BLOCK}.0.op"
            yield f"{place} down_blocks.{block}.downsamplers.0.conv {width} {width}"


def _middle(width: int, depth: int, context: int) -> Iterator[str]:
    for index in range(2):
        yield from _resnet(f"middle_block.{2 * index}", f"mid_block.resnets.{index}", width, width)
    yield from _attention("middle_block.1", "mid_block.attentions.0", width, depth, context)


def _up(widths: tuple[int, ...], depths: tuple[int, ...], context: int) -> Iterator[str]:
    # An up block reads its input joined with what the down path put aside, the last of it first.
    aside = [widths[0]]
    for block, width in enumerate(widths):
        aside += [width] * (PER_BLOCK + (block + 1 < len(widths)))
    before = widths[-1]
    for block, (width, depth) in enumerate(zip(reversed(widths), depths, strict=True)):
        first = (PER_BLOCK + 1) * block
        for index in range(PER_BLOCK + 1):
            place, module = f"output_blocks.{first + index}", f"up_blocks.{block}"
            yield from _resnet(f"{place}.0", f"{module}.resnets.{index}", before + aside.pop(), width)
            yield from _attention(f"{place}.1", f"{module}.attentions.{index}", width, depth, context)
            before = width
        if block + 1 < len(widths):
            place = f"output_blocks.{first + PER_BLOCK}.{2 if depth else 1}.conv"
            yield f"{place} up_blocks.{block}.upsamplers.0.conv {width} {width}"


def _resnet(native: str, module: str, inputs: int, width: int) -> Iterator[str]:
    columns = {"conv1": inputs, "time_emb_proj": TIME, "conv2": width, "conv_shortcut": inputs}
    for name, original in {**RESNET, **(SHORTCUT if inputs != width else {})}.items():
        yield f"{native}.{original} {module}.{name} {width} {columns[name]}"


def _attention(native: str, module: str, width: int, depth: int, context: int) -> Iterator[str]:
    if not depth:
        return
    for name in ("proj_in", "proj_out"):
        yield f"{native}.{name} {module}.{name} {width} {width}"
    for number in range(depth):
        path = f"transformer_blocks.{number}"
        for attention, source in (("attn1", width), ("attn2", context)):
            for part, columns in (("to_q", width), ("to_k", source), ("to_v", source), ("to_out.0", width)):
                name = f"{path}.{attention}.{part}"
                yield f"{native}.{name} {module}.{name} {width} {columns}"
        for part, rows, columns in (("net.0.proj", 8 * width, width), ("net.2", width, 4 * width)):
            yield f"{native}.{path}.ff.{part} {module}.{path}.ff.{part} {rows} {columns}"
