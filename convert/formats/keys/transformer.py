"""Layers of the transformers of FLUX.1 and Stable Diffusion 3 / 3.5."""

from __future__ import annotations

from functools import lru_cache

from .entry import Entry

FLUX_DOUBLE, FLUX_SINGLE = 19, 38
SD3_BLOCKS = 38  # SD3.5 large; SD3 and SD3.5 medium have 24


# Original name -> diffusers' name(s), several joined by "+". {i} is the block's number.
FLUX_BLOCK = {
    "double_blocks.{i}.img_attn.qkv": "transformer_blocks.{i}.attn.{{to_q+to_k+to_v}}",
    "double_blocks.{i}.img_attn.proj": "transformer_blocks.{i}.attn.to_out.0",
    "double_blocks.{i}.img_mlp.0": "transformer_blocks.{i}.ff.net.0.proj",
    "double_blocks.{i}.img_mlp.2": "transformer_blocks.{i}.ff.net.2",
    "double_blocks.{i}.img_mod.lin": "transformer_blocks.{i}.norm1.linear",
    "double_blocks.{i}.txt_attn.qkv": "transformer_blocks.{i}.attn.{{add_q_proj+add_k_proj+add_v_proj}}",
    "double_blocks.{i}.txt_attn.proj": "transformer_blocks.{i}.attn.to_add_out",
    "double_blocks.{i}.txt_mlp.0": "transformer_blocks.{i}.ff_context.net.0.proj",
    "double_blocks.{i}.txt_mlp.2": "transformer_blocks.{i}.ff_context.net.2",
    "double_blocks.{i}.txt_mod.lin": "transformer_blocks.{i}.norm1_context.linear",
}
FLUX_SINGLE_BLOCK = {
    "single_blocks.{i}.linear1": "single_transformer_blocks.{i}.{{attn.to_q+attn.to_k+attn.to_v+proj_mlp}}",
    "single_blocks.{i}.linear2": "single_transformer_blocks.{i}.proj_out",
    "single_blocks.{i}.modulation.lin": "single_transformer_blocks.{i}.norm.linear",
}
FLUX_OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
SD3_BLOCK = {
    "joint_blocks.{i}.x_block.attn.qkv": "transformer_blocks.{i}.attn.{{to_q+to_k+to_v}}",
    "joint_blocks.{i}.x_block.attn.proj": "transformer_blocks.{i}.attn.to_out.0",
    "joint_blocks.{i}.x_block.attn2.qkv": "transformer_blocks.{i}.attn2.{{to_q+to_k+to_v}}",
    "joint_blocks.{i}.x_block.attn2.proj": "transformer_blocks.{i}.attn2.to_out.0",
    "joint_blocks.{i}.x_block.mlp.fc1": "transformer_blocks.{i}.ff.net.0.proj",
    "joint_blocks.{i}.x_block.mlp.fc2": "transformer_blocks.{i}.ff.net.2",
    "joint_blocks.{i}.x_block.adaLN_modulation.1": "transformer_blocks.{i}.norm1.linear",
    "joint_blocks.{i}.context_block.attn.qkv": "transformer_blocks.{i}.attn.{{add_q_proj+add_k_proj+add_v_proj}}",
    "joint_blocks.{i}.context_block.attn.proj": "transformer_blocks.{i}.attn.to_add_out",
    "joint_blocks.{i}.context_block.mlp.fc1": "transformer_blocks.{i}.ff_context.net.0.proj",
    "joint_blocks.{i}.context_block.mlp.fc2": "transformer_blocks.{i}.ff_context.net.2",
    "joint_blocks.{i}.context_block.adaLN_modulation.1": "transformer_blocks.{i}.norm1_context.linear",
}
SD3_OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
# diffusers' AdaLayerNormContinuous wants (scale, shift); in SD3 the last context block is one, and only that one.
SWAPPING = ("norm_out.linear", "norm1_context.linear")


@lru_cache
def flux_entries() -> tuple[Entry, ...]:
    return (*_numbered(FLUX_BLOCK, FLUX_DOUBLE), *_numbered(FLUX_SINGLE_BLOCK, FLUX_SINGLE), *_plain(FLUX_OUTSIDE))


@lru_cache
def sd3_entries() -> tuple[Entry, ...]:
    return (*_numbered(SD3_BLOCK, SD3_BLOCKS), *_plain(SD3_OUTSIDE))


def _numbered(table: dict[str, str], count: int) -> list[Entry]:
    return [_entry(native.format(i=i), modules.format(i=i)) for i in range(count) for native, modules in table.items()]


def _plain(table: dict[str, str]) -> list[Entry]:
    return [_entry(native, module) for native, module in table.items()]


def _entry(native: str, modules: str) -> Entry:
    stem, brace, joint = modules.partition("{")
    names = tuple(stem + name for name in joint.rstrip("}").split("+")) if brace else (modules,)
    return Entry(native, names, swaps=names[0].endswith(SWAPPING))
