"""Lumina Image 2 (and NetaYume)."""

from .family import Family, SdScripts, Words
from .layers import Blocks
from .text_encoders import TextEncoder

# Keys and values have a third of the queries' heads.
_BLOCK = """
attention.qkv    attn.to_q+attn.to_k+attn.to_v  h+h/3+h/3  h
attention.out    attn.to_out.0                  h          h
feed_forward.w1  feed_forward.linear_1          4h         h
feed_forward.w2  feed_forward.linear_2          h          4h
feed_forward.w3  feed_forward.linear_3          4h         h
"""
_MODULATION = "adaLN_modulation.1  norm1.linear  4h  1024"
_OUTSIDE = """
x_embedder                      x_embedder                                     h     64
t_embedder.mlp.0                time_caption_embed.timestep_embedder.linear_1  1024  256
t_embedder.mlp.2                time_caption_embed.timestep_embedder.linear_2  1024  1024
cap_embedder.1                  time_caption_embed.caption_embedder.1          h     2304
final_layer.adaLN_modulation.1  norm_out.linear_1                              h     1024
final_layer.linear              norm_out.linear_2                              64    h
"""

_PATH = r"^(layers|context_refiner|noise_refiner)\.\d+\."

FAMILY = Family(
    name="lumina2",
    title="Lumina 2",
    order=70,
    words=Words("lumina2", "lumina-2/lora", ("lumina",), ("lumina",)),
    kinds={
        "attention": _PATH + r"attention\.(qkv|out)$",
        "ff": _PATH + r"feed_forward\.w[123]$",
        "modulation": _PATH + r"adaLN_modulation\.1$",
        "full": _PATH + r"|^final_layer\.",
    },
    blocks=(
        Blocks(_BLOCK + _MODULATION, "noise_refiner.{}.", "noise_refiner.{}.", 2),
        Blocks(_BLOCK, "context_refiner.{}.", "context_refiner.{}.", 2),
        Blocks(_BLOCK + _MODULATION, "layers.{}.", "layers.{}.", 26),
        Blocks(_OUTSIDE),
    ),
    hidden=(2304,),
    text_encoders=(TextEncoder("lora_te", "text_encoder", "llm", 26, 2304, "text_encoders.gemma2_2b.transformer."),),
    model_classes=("NextDiT",),
    diffusers_class="Lumina2Transformer2DModel",
    pipelines=("Lumina2",),
    marks=("noise_refiner.0.attention.qkv.weight",),
    reads={
        "ComfyUI": ("kohya", "native"),
        "Forge Neo": ("kohya", "native"),
        "diffusers": ("native lora_A -", "dotted lora_A -"),
    },
    presets=("lumina",),
    sd_scripts=SdScripts("lumina", "lumina_train_network", "LuminaNetworkTrainer", needs=("gemma2", "ae")),
)
