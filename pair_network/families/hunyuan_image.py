"""HunyuanImage 2.1."""

from .family import Family, SdScripts, Words
from .layers import Blocks

_DOUBLE = """
img_attn_qkv    attn.to_q+attn.to_k+attn.to_v                    h+h+h  h
img_attn_proj   attn.to_out.0                                    h      h
img_mlp.fc1     ff.net.0.proj                                    4h     h
img_mlp.fc2     ff.net.2                                         h      4h
img_mod.linear  norm1.linear                                     6h     h
txt_attn_qkv    attn.add_q_proj+attn.add_k_proj+attn.add_v_proj  h+h+h  h
txt_attn_proj   attn.to_add_out                                  h      h
txt_mlp.fc1     ff_context.net.0.proj                            4h     h
txt_mlp.fc2     ff_context.net.2                                 h      4h
txt_mod.linear  norm1_context.linear                             6h     h
"""
_SINGLE = """
linear1            attn.to_q+attn.to_k+attn.to_v+proj_mlp  h+h+h+4h  h
linear2            proj_out                                h         5h
modulation.linear  norm.linear                             3h        h
"""

FAMILY = Family(
    name="hunyuan_image",
    title="HunyuanImage",
    order=80,
    words=Words("hunyuan-image-2.1", "hunyuan-image-2.1/lora", ("hunyuan-image", "hunyuan_image"), ("hunyuan-image",)),
    kinds={
        "attention": r"^(double_blocks\.\d+\.(img|txt)_attn_(qkv|proj)|single_blocks\.\d+\.linear[12])$",
        "ff": r"^double_blocks\.\d+\.(img|txt)_mlp\.fc[12]$",
        "modulation": r"^(double_blocks\.\d+\.(img|txt)_mod|single_blocks\.\d+\.modulation)\.linear$",
        "full": r"^(double|single)_blocks\.\d+\.",
    },
    blocks=(
        Blocks(_DOUBLE, "double_blocks.{}.", "transformer_blocks.{}.", 20),
        Blocks(_SINGLE, "single_blocks.{}.", "single_transformer_blocks.{}.", 40),
    ),
    hidden=(3584,),
    trains_text_encoders=False,
    model_classes=("HYImageDiffusionTransformer",),
    diffusers_class="HunyuanImageTransformer2DModel",
    pipelines=("HunyuanImage",),
    marks=("double_blocks.0.img_attn_qkv.weight",),
    # ComfyUI knows its own names alone; under kohya's prefix attention, linear1 and linear2 have the same in both.
    # diffusers' pipeline has no way to load a LoRA.
    reads={"ComfyUI": ("kohya", "native")},
    comfyui=(
        ("_attn_", "_attn."),
        ("mlp.fc1", "mlp.0"),
        ("mlp.fc2", "mlp.2"),
        ("mod.linear", "mod.lin"),
        ("modulation.linear", "modulation.lin"),
    ),
    presets=("hunyuan_image",),
    sd_scripts=SdScripts(
        "hunyuan_image",
        "hunyuan_image_train_network",
        "HunyuanImageNetworkTrainer",
        needs=("text_encoder", "byt5", "vae"),
    ),
)
