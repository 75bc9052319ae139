"""Chroma: FLUX.1 without its modulation layers, which one distilled network feeds; its text encoder is T5 alone."""

from dataclasses import replace

from . import flux1
from .family import Words

FAMILY = replace(
    flux1.FAMILY,
    name="chroma",
    title="Chroma",
    order=60,
    words=Words("chroma", "chroma/lora", ("chroma",), ("chroma",)),
    blocks=(),
    text_encoders=(),
    model_classes=("Chroma",),
    diffusers_class="ChromaTransformer2DModel",
    pipelines=("Chroma",),
    marks=("distilled_guidance_layer.in_proj.weight",),
    presets=(),
    # sd-scripts' FLUX trainer trains it; its own --model_type tells the two apart.
    sd_scripts=replace(flux1.SD_SCRIPTS, model_type="chroma"),
)
