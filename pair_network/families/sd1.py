"""Stable Diffusion 1."""

from .family import Family, PreviewInputs, SdScripts, Words
from .text_encoders import clip_l
from .unet import KINDS, READS, unet_blocks

FAMILY = Family(
    name="sd1",
    title="Stable Diffusion 1",
    order=10,
    component="unet",
    kohya_is_native=False,
    words=Words("sd_v1", "stable-diffusion-v1/lora", ("sd_v1", "sd_1", "sd1"), ("stable-diffusion-v1",), ui="SD1"),
    kinds=KINDS,
    blocks=unet_blocks((320, 640, 1280, 1280), (1, 1, 1, 0), 1, (0, 1, 1, 1), context=768),
    text_encoders=(clip_l("lora_te", "cond_stage_model.transformer."),),
    model_classes=("UNet2DConditionModel",),
    diffusers_class="UNet2DConditionModel",
    pipelines=("StableDiffusion",),
    marks=("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",),
    reads=READS,
    presets=("sd15", "paper_sd15", "sd15_vpred_zsnr"),
    sd_scripts=SdScripts(
        "sd",
        "train_network",
        "NetworkTrainer",
        PreviewInputs(("encoder_hidden_states",), cond_row=-1, default_steps=30),
        takes_folders=("pretrained_model_name_or_path", "vae"),
    ),
)
