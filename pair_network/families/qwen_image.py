"""Qwen-Image, and Qwen-Image-Edit and -Layered, which have the same layers. All formats use one set of names."""

from .family import Family, Musubi, Words
from .layers import Blocks

_ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj",
              "attn.add_v_proj", "attn.to_add_out")  # fmt: skip
_WIDTHS = {
    **dict.fromkeys(_ATTENTION, "h h"),
    "img_mlp.net.0.proj": "4h h",
    "img_mlp.net.2": "h 4h",
    "img_mod.1": "6h h",
    "txt_mlp.net.0.proj": "4h h",
    "txt_mlp.net.2": "h 4h",
    "txt_mod.1": "6h h",
}
_BLOCK = "\n".join(f"{name} {name} {widths}" for name, widths in _WIDTHS.items())
_OUTSIDE = """
img_in                                      img_in                                      h   64
txt_in                                      txt_in                                      h   3584
time_text_embed.timestep_embedder.linear_1  time_text_embed.timestep_embedder.linear_1  h   256
time_text_embed.timestep_embedder.linear_2  time_text_embed.timestep_embedder.linear_2  h   h
norm_out.linear                             norm_out.linear                             2h  h
proj_out                                    proj_out                                    64  h
"""
_PATH = r"^transformer_blocks\.\d+\."

FAMILY = Family(
    name="qwen_image",
    title="Qwen-Image",
    order=100,
    words=Words("qwen_image", "Qwen-Image/lora", ("qwen_image", "qwen-image"), ("qwen-image", "qwen_image")),
    kinds={
        "attention": _PATH + r"attn\.(to_(q|k|v|out\.0|add_out)|add_(q|k|v)_proj)$",
        "ff": _PATH + r"(img|txt)_mlp\.net\.(0\.proj|2)$",
        "modulation": _PATH + r"(img|txt)_mod\.1$",
        "full": _PATH + r"(attn|(img|txt)_mlp)\.",
    },
    blocks=(Blocks(_BLOCK, "transformer_blocks.{}.", "transformer_blocks.{}.", 60), Blocks(_OUTSIDE)),
    hidden=(3072,),
    trains_text_encoders=False,
    model_classes=("QwenImageTransformer2DModel",),
    diffusers_class="QwenImageTransformer2DModel",
    pipelines=("QwenImage",),
    marks=("transformer_blocks.0.img_mod.1.weight",),
    presets=("qwen_image",),
    musubi=Musubi("qwen_image", "qwen_image", "QwenImageNetworkTrainer"),
    reads={
        "ComfyUI": ("kohya", "native", "dotted", "bare", "lycoris"),
        "Forge Neo": ("kohya", "native", "dotted", "bare", "lycoris"),
        "diffusers": (
            *(f"{form} {end} *" for form in ("kohya", "native") for end in ("lora_down", "lora_A", "default")),
            "dotted lora_A -",
            "bare lora_down +",
            "bare lora_A +",
            "bare default *",
        ),
    },
)
