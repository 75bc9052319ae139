"""HunyuanImage 2.1."""

from .family import Family, SdScripts, Words

FAMILY = Family(
    name="hunyuan_image",
    title="HunyuanImage",
    order=80,
    component="transformer",
    kohya_is_native=True,
    words=Words("hunyuan-image-2.1", "hunyuan-image-2.1/lora", ("hunyuan-image", "hunyuan_image"), ("hunyuan-image",)),
    kinds={
        "attention": r"^(double_blocks\.\d+\.(img|txt)_attn_(qkv|proj)|single_blocks\.\d+\.linear[12])$",
        "ff": r"^double_blocks\.\d+\.(img|txt)_mlp\.fc[12]$",
        "modulation": r"^(double_blocks\.\d+\.(img|txt)_mod|single_blocks\.\d+\.modulation)\.linear$",
        "full": r"^(double|single)_blocks\.\d+\.",
    },
    trains_text_encoders=False,
    model_classes=("HYImageDiffusionTransformer",),
    diffusers_class="HunyuanImageTransformer2DModel",
    pipelines=("HunyuanImage",),
    marks=("double_blocks.0.img_attn_qkv.weight",),
    presets=("hunyuan_image",),
    sd_scripts=SdScripts("hunyuan_image", "hunyuan_image_train_network", "HunyuanImageNetworkTrainer"),
)
