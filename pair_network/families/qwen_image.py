"""Qwen-Image: text to image."""

from .family import Family, Musubi, Words

_PATH = r"^transformer_blocks\.\d+\."
_ATTENTION = _PATH + r"attn\.(to_(q|k|v|out\.0|add_out)|add_(q|k|v)_proj)$"
_FF = _PATH + r"(img|txt)_mlp\.net\.(0\.proj|2)$"

FAMILY = Family(
    name="qwen_image",
    title="Qwen-Image",
    order=110,
    component="transformer",
    kohya_is_native=True,
    words=Words("qwen_image", "Qwen-Image/lora", ("qwen_image",), ("qwen-image",)),
    kinds={
        "attention": _ATTENTION,
        "ff": _FF,
        "modulation": _PATH + r"(img|txt)_mod\.1$",
        "full": f"{_ATTENTION}|{_FF}",
    },
    trains_text_encoders=False,
    model_classes=("QwenImageTransformer2DModel",),
    diffusers_class="QwenImageTransformer2DModel",
    pipelines=("QwenImage",),
    presets=("qwen_image",),
    musubi=Musubi("qwen_image", "qwen_image", "QwenImageNetworkTrainer"),
)
