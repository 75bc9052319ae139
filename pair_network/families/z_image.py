"""Z-Image and Z-Image-Turbo.

musubi-tuner and diffusers keep q, k and v apart; the original model, which ComfyUI runs, stacks them.
"""

from .family import Family, Musubi, Words
from .layers import Blocks

_BLOCK = """
attention.qkv    attention.to_q+attention.to_k+attention.to_v  h+h+h  h
attention.out    attention.to_out.0                            h      h
feed_forward.w1  feed_forward.w1                               10240  h
feed_forward.w2  feed_forward.w2                               h      10240
feed_forward.w3  feed_forward.w3                               10240  h
"""
_MODULATION = "adaLN_modulation.0  adaLN_modulation.0  4h  256"
_OUTSIDE = """
x_embedder                      all_x_embedder.2-1                      h     64
t_embedder.mlp.0                t_embedder.mlp.0                        1024  256
t_embedder.mlp.2                t_embedder.mlp.2                        256   1024
cap_embedder.1                  cap_embedder.1                          h     2560
final_layer.linear              all_final_layer.2-1.linear              64    h
final_layer.adaLN_modulation.1  all_final_layer.2-1.adaLN_modulation.1  h     256
"""
_PATH = r"^layers\.\d+\."
_ATTENTION = _PATH + r"attention\.to_(q|k|v|out\.0)$"
_FF = _PATH + r"feed_forward\.w[123]$"
# musubi-tuner's and diffusers' names, under kohya's prefix
_SPLIT = r"^lora_unet_(.*_attention_to_(q|k|v|out_0)$|all_)"

FAMILY = Family(
    name="z_image",
    title="Z-Image",
    order=95,
    kohya_is_native=False,
    words=Words("z_image", "Z-Image/lora", ("z_image", "z-image", "zimage"), ("z-image", "z_image", "zimage")),
    # Its trainer leaves the refiners alone.
    kinds={
        "attention": _ATTENTION,
        "ff": _FF,
        "modulation": _PATH + r"adaLN_modulation\.0$",
        "full": f"{_ATTENTION}|{_FF}",
    },
    blocks=(
        Blocks(_BLOCK + _MODULATION, "noise_refiner.{}.", "noise_refiner.{}.", 2),
        Blocks(_BLOCK, "context_refiner.{}.", "context_refiner.{}.", 2),
        Blocks(_BLOCK + _MODULATION, "layers.{}.", "layers.{}.", 30),
        Blocks(_OUTSIDE),
    ),
    hidden=(3840,),
    trains_text_encoders=False,
    model_classes=("ZImageTransformer2DModel",),
    diffusers_class="ZImageTransformer2DModel",
    pipelines=("ZImage",),
    marks=("layers.0.adaLN_modulation.0.weight",),
    presets=("z_image",),
    musubi=Musubi("z_image", "zimage", "ZImageNetworkTrainer"),
    reads={
        "ComfyUI": ("kohya", "kohya-native", "native", "native-split", "dotted", "bare", "lycoris"),
        "Forge Neo": ("kohya", "kohya-native", "native", "native-split", "lycoris"),
        "diffusers": (
            *(f"{form} {end} *" for form in ("kohya", "kohya-native") for end in ("lora_down", "lora.down")),
            *(f"native-split {end} *" for end in ("lora_down", "lora_A", "lora.down", "default")),
            "native lora.down *",
            "dotted lora_A -",
            "bare lora_down +",
            "bare lora_A +",
            "bare lora.down +",
            "bare default *",
        ),
    },
    unread={"ComfyUI": _SPLIT, "Forge Neo": _SPLIT},
)
