"""Chroma: FLUX.1 without its modulation layers, which one distilled network feeds; its text encoder is T5 alone."""

from dataclasses import replace

from . import flux1
from .family import Words
from .layers import Blocks
from .text_encoders import t5_xxl

_OUTSIDE = """
img_in                                  x_embedder                                  h   64
txt_in                                  context_embedder                            h   4096
final_layer.linear                      proj_out                                    64  h
distilled_guidance_layer.in_proj        distilled_guidance_layer.in_proj            5120  64
distilled_guidance_layer.out_proj       distilled_guidance_layer.out_proj           h     5120
"""
_DISTILLED = """
in_layer   linear_1  5120  5120
out_layer  linear_2  5120  5120
"""

FAMILY = replace(
    flux1.FAMILY,
    name="chroma",
    title="Chroma",
    order=60,
    words=Words("chroma", "chroma/lora", ("chroma",), ("chroma",)),
    blocks=(
        Blocks(flux1.DOUBLE, "double_blocks.{}.", "transformer_blocks.{}.", 19),
        Blocks(flux1.SINGLE, "single_blocks.{}.", "single_transformer_blocks.{}.", 38),
        Blocks(_OUTSIDE),
        Blocks(_DISTILLED, "distilled_guidance_layer.layers.{}.", "distilled_guidance_layer.layers.{}.", 5),
    ),
    text_encoders=(t5_xxl("text_encoder"),),
    model_classes=("Chroma",),
    diffusers_class="ChromaTransformer2DModel",
    pipelines=("Chroma",),
    marks=("distilled_guidance_layer.in_proj.weight",),
    reads={
        "Forge": ("kohya", "native"),
        "Forge Neo": ("kohya", "native", "dotted", "onetrainer", "lycoris"),
        "ComfyUI": ("kohya", "native", "dotted", "onetrainer", "lycoris", "bare"),
        "diffusers": flux1.DIFFUSERS,
    },
    # Of this network the UIs know the original's names alone, and diffusers its own: what they map is FLUX.1's.
    unread={
        **dict.fromkeys(("Forge Neo", "ComfyUI"), r"^(?!diffusion_model\.|lora_unet_).*distilled_guidance_layer[._]"),
        "diffusers": r"^(diffusion_model\.|lora_unet_)distilled_guidance_layer[._]",
    },
    presets=(),
    # sd-scripts' FLUX trainer trains it; its own --model_type tells the two apart.
    sd_scripts=replace(flux1.SD_SCRIPTS, model_type="chroma"),
)
