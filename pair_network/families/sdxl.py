"""SDXL, with all that was trained on it (Pony, Illustrious, NoobAI, …)."""

from .family import Family, PreviewInputs, SdScripts, Words
from .text_encoders import TextEncoder, clip_l
from .unet import KINDS, READS, unet_blocks

FAMILY = Family(
    name="sdxl",
    title="SDXL",
    order=30,
    component="unet",
    words=Words(
        "sdxl_base_v1-0",
        "stable-diffusion-xl-v1-base/lora",
        ("sdxl", "pony", "illustrious", "noobai", "animagine"),
        ("stable-diffusion-xl",),
        ui="SDXL",
    ),
    kinds=KINDS,
    blocks=unet_blocks((320, 640, 1280), (0, 2, 10), 10, (10, 2, 0), context=2048, is_xl=True),
    text_encoders=(
        clip_l("lora_te1", "conditioner.embedders.0.transformer."),
        TextEncoder(
            "lora_te2",
            "text_encoder_2",
            "open_clip",
            32,
            1280,
            "conditioner.embedders.1.model.transformer.",
            is_open_clip_there=True,
            projects=True,
        ),
    ),
    model_classes=("SdxlUNet2DConditionModel",),
    diffusers_class="UNet2DConditionModel",
    pipelines=("StableDiffusionXL",),
    marks=("input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight", "label_emb.0.0.weight"),
    reads=READS,
    presets=("sdxl_8gb", "sdxl_12gb", "sdxl_24gb", "sdxl_illustrious_pony", "sdxl_vpred_noobai"),
    sd_scripts=SdScripts(
        "sdxl",
        "sdxl_train_network",
        "SdxlNetworkTrainer",
        PreviewInputs(("context", "y"), cond_row=-1, default_steps=30),
        takes_folders=("pretrained_model_name_or_path", "vae"),
    ),
)
