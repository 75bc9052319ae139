"""Stable Diffusion 2: the U-Net of 1 with another text encoder, which is wider."""

from dataclasses import replace

from . import sd1
from .family import Words
from .text_encoders import TextEncoder
from .unet import READS, unet_blocks

FAMILY = replace(
    sd1.FAMILY,
    name="sd2",
    title="Stable Diffusion 2",
    order=20,
    # Nothing in a LoRA tells the 512 model's from the 768 model's: the architecture is written without its size.
    words=Words("sd_v2", "stable-diffusion-v2/lora", ("sd_v2", "sd_2", "sd2"), ("stable-diffusion-v2",), ui="SD2"),
    blocks=unet_blocks((320, 640, 1280, 1280), (1, 1, 1, 0), 1, (0, 1, 1, 1), context=1024),
    text_encoders=(
        # OpenCLIP H has 24 layers, of which 23 are used.
        TextEncoder("lora_te", "text_encoder", "open_clip", 23, 1024, "cond_stage_model.model.transformer.", True),
    ),
    model_classes=(),  # the class is Stable Diffusion 1's
    pipelines=(),
    reads={ui: styles for ui, styles in READS.items() if ui != "Forge Neo"},
    presets=("sd2",),
)
