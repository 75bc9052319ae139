"""FLUX.1 dev and schnell, and what has the same layers (Kontext, Krea, Fill)."""

from .family import Family, PreviewInputs, SdScripts, Words
from .layers import Blocks
from .text_encoders import clip_l, t5_xxl

DOUBLE = """
img_attn.qkv   attn.to_q+attn.to_k+attn.to_v                        h+h+h  h
img_attn.proj  attn.to_out.0                                        h      h
img_mlp.0      ff.net.0.proj                                        4h     h
img_mlp.2      ff.net.2                                             h      4h
txt_attn.qkv   attn.add_q_proj+attn.add_k_proj+attn.add_v_proj      h+h+h  h
txt_attn.proj  attn.to_add_out                                      h      h
txt_mlp.0      ff_context.net.0.proj                                4h     h
txt_mlp.2      ff_context.net.2                                     h      4h
"""
SINGLE = """
linear1  attn.to_q+attn.to_k+attn.to_v+proj_mlp  h+h+h+4h  h
linear2  proj_out                                h         5h
"""
_DOUBLE_MODULATION = """
img_mod.lin  norm1.linear          6h  h
txt_mod.lin  norm1_context.linear  6h  h
"""
_SINGLE_MODULATION = "modulation.lin  norm.linear  3h  h"
_OUTSIDE = """
img_in                          x_embedder                                   h   *
txt_in                          context_embedder                             h   4096
time_in.in_layer                time_text_embed.timestep_embedder.linear_1   h   256
time_in.out_layer               time_text_embed.timestep_embedder.linear_2   h   h
vector_in.in_layer              time_text_embed.text_embedder.linear_1       h   768
vector_in.out_layer             time_text_embed.text_embedder.linear_2       h   h
guidance_in.in_layer            time_text_embed.guidance_embedder.linear_1   h   256
guidance_in.out_layer           time_text_embed.guidance_embedder.linear_2   h   h
final_layer.linear              proj_out                                     64  h
final_layer.adaLN_modulation.1  norm_out.linear                              2h  h  shift,scale
"""
KINDS = {
    # A single block's linear1 and linear2 hold attention and MLP in one matrix each.
    "attention": r"^(double_blocks\.\d+\.(img|txt)_attn\.(qkv|proj)|single_blocks\.\d+\.linear[12])$",
    "ff": r"^double_blocks\.\d+\.(img|txt)_mlp\.[02]$",
    "modulation": r"^(double_blocks\.\d+\.(img|txt)_mod|single_blocks\.\d+\.modulation)\.lin$",
    "full": r"^(double_blocks\.\d+\.(img|txt)_(attn|mlp|mod)|single_blocks\.\d+)\.",
}
SD_SCRIPTS = SdScripts(
    "flux",
    "flux_train_network",
    "FluxNetworkTrainer",
    PreviewInputs(("txt", "txt_ids", "y", "txt_attention_mask"), cond_row=-1, default_steps=20),
    needs=("clip_l", "t5xxl", "ae"),
    takes_folders=("pretrained_model_name_or_path",),
)

DIFFUSERS = ("kohya lora_down *", "native lora_down *", "dotted lora_down -", "dotted lora_A *")

FAMILY = Family(
    name="flux",
    title="FLUX.1",
    order=40,
    words=Words("flux1", "flux-1-dev/lora", ("flux",), ("flux-1", "flux.1")),
    kinds=KINDS,
    blocks=(
        Blocks(DOUBLE + _DOUBLE_MODULATION, "double_blocks.{}.", "transformer_blocks.{}.", 19),
        Blocks(SINGLE + _SINGLE_MODULATION, "single_blocks.{}.", "single_transformer_blocks.{}.", 38),
        Blocks(_OUTSIDE),
    ),
    hidden=(3072,),
    text_encoders=(clip_l("lora_te1", "text_encoders.clip_l.transformer."), t5_xxl("text_encoder_2")),
    model_classes=("Flux",),
    diffusers_class="FluxTransformer2DModel",
    pipelines=("Flux",),
    # Of two layouts. Other families share most of the layers, but not the modulation of each block.
    marks=("double_blocks.0.img_mod.lin.weight", "single_transformer_blocks.0.attn.to_q.weight"),
    reads={
        "Forge": ("kohya", "native", "dotted", "onetrainer", "lycoris"),
        "Forge Neo": ("kohya", "native", "dotted", "onetrainer", "lycoris"),
        "ComfyUI": ("kohya", "native", "dotted", "onetrainer", "lycoris", "bare"),
        "diffusers": (*DIFFUSERS, "xflux down -"),
    },
    presets=("flux_12gb", "flux_16gb", "flux_24gb"),
    sd_scripts=SD_SCRIPTS,
)
