"""Layers of the text encoders: CLIP in transformers' and in OpenCLIP's names, and T5."""

from __future__ import annotations

from functools import lru_cache

CLIP_LAYERS, T5_LAYERS = 32, 24  # OpenCLIP bigG has 32, CLIP L 12, OpenCLIP H 24 (Stable Diffusion 2 uses 23)

CLIP = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
# OpenCLIP keeps q, k and v in one tensor, attn.in_proj_weight, stacked in this order.
OPEN_CLIP = {"self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
OPEN_CLIP_JOINT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
OPEN_CLIP_JOINT_NAME = "attn.in_proj"
T5 = (
    *(f"layer.0.SelfAttention.{part}" for part in "qkvo"),
    *(f"layer.1.DenseReluDense.{part}" for part in ("wi_0", "wi_1", "wo")),
)


@lru_cache
def clip_modules(layers: int = CLIP_LAYERS) -> tuple[str, ...]:
    return tuple(f"text_model.encoder.layers.{number}.{part}" for number in range(layers) for part in CLIP)


@lru_cache
def t5_modules() -> tuple[str, ...]:
    return tuple(f"encoder.block.{number}.{part}" for number in range(T5_LAYERS) for part in T5)
