"""Anima: Cosmos Predict 2's transformer with Qwen 3 as its text encoder."""

from .family import Family, SdScripts, Words
from .layers import Blocks
from .text_encoders import TextEncoder

_BLOCK = """
self_attn.q_proj                attn1.to_q      h    h
self_attn.k_proj                attn1.to_k      h    h
self_attn.v_proj                attn1.to_v      h    h
self_attn.output_proj           attn1.to_out.0  h    h
cross_attn.q_proj               attn2.to_q      h    h
cross_attn.k_proj               attn2.to_k      h    1024
cross_attn.v_proj               attn2.to_v      h    1024
cross_attn.output_proj          attn2.to_out.0  h    h
mlp.layer1                      ff.net.0.proj   4h   h
mlp.layer2                      ff.net.2        h    4h
adaln_modulation_self_attn.1    norm1.linear_1  256  h
adaln_modulation_self_attn.2    norm1.linear_2  3h   256
adaln_modulation_cross_attn.1   norm2.linear_1  256  h
adaln_modulation_cross_attn.2   norm2.linear_2  3h   256
adaln_modulation_mlp.1          norm3.linear_1  256  h
adaln_modulation_mlp.2          norm3.linear_2  3h   256
"""
_OUTSIDE = """
x_embedder.proj.1               patch_embed.proj   h    *
final_layer.adaln_modulation.1  norm_out.linear_1  256  h
final_layer.adaln_modulation.2  norm_out.linear_2  2h   256
final_layer.linear              proj_out           *    h
"""

_PATH = r"^blocks\.\d+\."

FAMILY = Family(
    name="anima",
    title="Anima",
    order=90,
    words=Words("anima", "anima-preview/lora", ("anima",), ("anima",)),
    kinds={
        "attention": _PATH + r"(self|cross)_attn\.(q|k|v|output)_proj$",
        "ff": _PATH + r"mlp\.layer[12]$",
        "modulation": _PATH + r"adaln_modulation_\w+\.\d$",
        "full": _PATH + r"((self|cross)_attn\.\w+_proj|mlp\.layer[12])$",
    },
    blocks=(Blocks(_BLOCK, "blocks.{}.", "transformer_blocks.{}.", 28), Blocks(_OUTSIDE)),
    hidden=(2048,),
    text_encoders=(
        TextEncoder("lora_te", "text_encoder", "llm", 28, 1024, "text_encoders.qwen3_06b.transformer."),
        TextEncoder("lora_unet_llm_adapter", "text_conditioner", "adapter", 6, 1024, "llm_adapter."),
    ),
    model_classes=("Anima",),
    diffusers_class="CosmosTransformer3DModel",
    pipelines=("Anima",),
    marks=("llm_adapter.blocks.0.cross_attn.q_proj.weight",),
    reads={
        "ComfyUI": ("kohya", "native"),
        "Forge Neo": ("kohya", "native"),
        "diffusers": ("native lora_A -", "dotted lora_A -"),
    },
    presets=("anima",),
    sd_scripts=SdScripts(
        "anima", "anima_train_network", "AnimaNetworkTrainer", needs=("qwen3", "vae"), takes_folders=("qwen3",)
    ),
)
