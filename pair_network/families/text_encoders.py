"""Text encoders: CLIP in transformers' and in OpenCLIP's names, and T5; which of their layers a LoRA may carry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .layers import Width

CLIP = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
# OpenCLIP keeps q, k and v in one tensor, attn.in_proj_weight, stacked in this order.
OPEN_CLIP = {"self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
OPEN_CLIP_JOINT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
OPEN_CLIP_JOINT_NAME = "attn.in_proj"
PROJECTION = "text_projection"
T5 = (
    *(f"layer.0.SelfAttention.{part}" for part in "qkvo"),
    *(f"layer.1.DenseReluDense.{part}" for part in ("wi_0", "wi_1", "wo")),
)
# Gemma 2 and Qwen 3.
LLM = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)
# Between Anima's text encoder and its denoiser; a part of the original's denoiser, and a model of its own in diffusers.
ADAPTER = (*(f"{attention}_attn.{part}_proj" for attention in ("self", "cross") for part in "qkvo"), "mlp.0", "mlp.2")
# What ``targets`` of the network arguments takes of text encoders, by their paths in transformers' models.
KINDS = {
    # CLIP; then Gemma 2 (Lumina) and Qwen 3 (Anima).
    "text_encoder": r"encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])$"
    r"|^layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)$",
    "t5": r"^encoder\.block\.\d+\.layer\.\d+\.(SelfAttention\.(q|k|v|o)|DenseReluDense\.w(i|i_0|i_1|o))$",
}


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder of a family.

    Attributes:
        prefix: kohya's, before its layers' names.
        component: diffusers' name of it.
        kind: "clip", "open_clip", "t5", "llm" or "adapter".
        layers: Number of its layers.
        width: Its hidden width.
        checkpoint: Prefix of its keys in single-file checkpoints.
        is_open_clip_there: Its layers have OpenCLIP's names in single-file checkpoints.
        projects: The model reads its text projection, which some trainers give a LoRA.
    """

    prefix: str
    component: str
    kind: str
    layers: int
    width: int
    checkpoint: str
    is_open_clip_there: bool = False
    projects: bool = False

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of its layers."""
        if self.kind in ("llm", "adapter"):
            blocks, parts = ("layers", LLM) if self.kind == "llm" else ("blocks", ADAPTER)
            return tuple(f"{blocks}.{number}.{part}" for number in range(self.layers) for part in parts)
        if self.kind == "t5":
            return t5_modules(self.layers)
        return (*clip_modules(self.layers), *([PROJECTION] if self.projects else []))

    def widths(self, module: str) -> tuple[Width, Width]:
        """Rows and columns of one of its layers."""
        own = Width((self.width,))
        if self.kind == "llm":
            return Width(), own if not module.endswith(("o_proj", "down_proj")) else Width()
        inner = Width((10240,) if self.kind == "t5" else (4 * self.width,))
        if module.endswith(("mlp.fc1", "wi_0", "wi_1", "mlp.0")):
            return inner, own
        return own, inner if module.endswith(("mlp.fc2", ".wo", "mlp.2")) else own


@lru_cache
def clip_modules(layers: int) -> tuple[str, ...]:
    return tuple(f"text_model.encoder.layers.{number}.{part}" for number in range(layers) for part in CLIP)


@lru_cache
def t5_modules(layers: int) -> tuple[str, ...]:
    return tuple(f"encoder.block.{number}.{part}" for number in range(layers) for part in T5)


def clip_l(prefix: str, checkpoint: str, projects: bool = False) -> TextEncoder:
    """OpenAI's CLIP L, the first text encoder of every family that has it."""
    return TextEncoder(prefix, "text_encoder", "clip", 12, 768, checkpoint, projects=projects)


def t5_xxl(component: str) -> TextEncoder:
    """T5 XXL, te3 in kohya's keys whatever its place."""
    return TextEncoder("lora_te3", component, "t5", 24, 4096, "text_encoders.t5xxl.transformer.")
