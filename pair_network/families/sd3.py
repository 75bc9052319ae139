"""Stable Diffusion 3 and 3.5, medium and large."""

from .family import Family, PreviewInputs, SdScripts, Words
from .layers import Blocks
from .text_encoders import TextEncoder, clip_l, t5_xxl

_BLOCK = """
x_block.attn.qkv                  attn.to_q+attn.to_k+attn.to_v                 h+h+h  h
x_block.attn.proj                 attn.to_out.0                                 h      h
x_block.attn2.qkv                 attn2.to_q+attn2.to_k+attn2.to_v              h+h+h  h
x_block.attn2.proj                attn2.to_out.0                                h      h
x_block.mlp.fc1                   ff.net.0.proj                                 4h     h
x_block.mlp.fc2                   ff.net.2                                      h      4h
x_block.adaLN_modulation.1        norm1.linear                                  6h|9h  h
context_block.attn.qkv            attn.add_q_proj+attn.add_k_proj+attn.add_v_proj  h+h+h  h
context_block.attn.proj           attn.to_add_out                               h      h
context_block.mlp.fc1             ff_context.net.0.proj                         4h     h
context_block.mlp.fc2             ff_context.net.2                              h      4h
# The last block's context only passes through a final norm, where diffusers puts scale first.
context_block.adaLN_modulation.1  norm1_context.linear                          6h|2h  h  shift,scale
"""
_OUTSIDE = """
x_embedder.proj                 pos_embed.proj                             h     16
context_embedder                context_embedder                           h     4096
t_embedder.mlp.0                time_text_embed.timestep_embedder.linear_1  h    256
t_embedder.mlp.2                time_text_embed.timestep_embedder.linear_2  h    h
y_embedder.mlp.0                time_text_embed.text_embedder.linear_1     h     2048
y_embedder.mlp.2                time_text_embed.text_embedder.linear_2     h     h
final_layer.linear              proj_out                                   64    h
final_layer.adaLN_modulation.1  norm_out.linear                            2h    h  shift,scale
"""
_PATH = r"^joint_blocks\.\d+\.(context|x)_block\."

FAMILY = Family(
    name="sd3",
    title="Stable Diffusion 3",
    order=50,
    words=Words("sd3", "stable-diffusion-3/lora", ("sd3",), ("stable-diffusion-3", "stable-diffusion-v3")),
    kinds={
        "attention": _PATH + r"attn2?\.(qkv|proj)$",
        "ff": _PATH + r"mlp\.",
        "modulation": _PATH + r"adaLN_modulation\.1$",
        "full": _PATH,
    },
    # SD 3.5 large has 38 blocks; SD 3 and 3.5 medium 24, of which the first 13 have attn2 in 3.5 medium.
    blocks=(Blocks(_BLOCK, "joint_blocks.{}.", "transformer_blocks.{}.", 38), Blocks(_OUTSIDE)),
    hidden=(1536, 2432),
    text_encoders=(
        clip_l("lora_te1", "text_encoders.clip_l.transformer.", projects=True),
        TextEncoder(
            "lora_te2", "text_encoder_2", "open_clip", 32, 1280, "text_encoders.clip_g.transformer.", projects=True
        ),
        t5_xxl("text_encoder_3"),
    ),
    model_classes=("MMDiT",),
    diffusers_class="SD3Transformer2DModel",
    pipelines=("StableDiffusion3",),
    marks=("joint_blocks.0.x_block.attn.qkv.weight",),
    # A1111 knows the image stream's attention alone.
    reads={
        "A1111": ("dotted",),
        "Forge": ("kohya", "native"),
        "ComfyUI": ("kohya", "native", "dotted", "onetrainer", "lycoris", "peft"),
        "diffusers": ("dotted lora_A -",),
    },
    presets=("sd3",),
    sd_scripts=SdScripts(
        "sd3", "sd3_train_network", "Sd3NetworkTrainer", PreviewInputs(("context", "y"), cond_row=0, default_steps=30)
    ),
)
