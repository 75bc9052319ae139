"""Krea 2: trained on its RAW model. "full" is all of the blocks; its trainer takes what lies around them too."""

from .family import Family, Musubi, Words
from .layers import Blocks

# Keys and values have a quarter of the queries' heads.
_BLOCK = """
attn.wq    attn.to_q      h      h
attn.wk    attn.to_k      h/4    h
attn.wv    attn.to_v      h/4    h
attn.gate  attn.to_gate   h      h
attn.wo    attn.to_out.0  h      h
mlp.gate   ff.gate        16384  h
mlp.up     ff.up          16384  h
mlp.down   ff.down        h      16384
"""
# The layers that fuse twelve states of the text encoder into one.
_TEXT = """
attn.wq    attn.to_q      2560  2560
attn.wk    attn.to_k      2560  2560
attn.wv    attn.to_v      2560  2560
attn.gate  attn.to_gate   2560  2560
attn.wo    attn.to_out.0  2560  2560
mlp.gate   ff.gate        6912  2560
mlp.up     ff.up          6912  2560
mlp.down   ff.down        2560  6912
"""
_OUTSIDE = """
first                img_in                 h   64
tmlp.0               time_embed.linear_1    h   256
tmlp.2               time_embed.linear_2    h   h
tproj.1              time_mod_proj          6h  h
txtmlp.1             txt_in.linear_1        h   2560
txtmlp.3             txt_in.linear_2        h   h
txtfusion.projector  text_fusion.projector  1   12
last.linear          final_layer.linear     64  h
"""
_PATH = r"^blocks\.\d+\."

FAMILY = Family(
    name="krea2",
    title="Krea 2",
    order=140,
    words=Words("krea2", "Krea-2/lora", ("krea2", "krea-2", "krea_2"), ("krea-2", "krea2", "krea_2")),
    kinds={
        "attention": _PATH + r"attn\.(wq|wk|wv|wo|gate)$",
        "ff": _PATH + r"mlp\.(gate|up|down)$",
        "full": _PATH,
    },
    blocks=(
        Blocks(_BLOCK, "blocks.{}.", "transformer_blocks.{}.", 28),
        Blocks(_TEXT, "txtfusion.layerwise_blocks.{}.", "text_fusion.layerwise_blocks.{}.", 2),
        Blocks(_TEXT, "txtfusion.refiner_blocks.{}.", "text_fusion.refiner_blocks.{}.", 2),
        Blocks(_OUTSIDE),
    ),
    hidden=(6144,),
    trains_text_encoders=False,
    model_classes=("SingleStreamDiT",),
    diffusers_class="Krea2Transformer2DModel",
    pipelines=("Krea2",),
    marks=("txtfusion.projector.weight", "text_fusion.projector.weight"),
    presets=("krea2",),
    musubi=Musubi("krea2", "krea2", "Krea2NetworkTrainer"),
    reads={
        "ComfyUI": ("kohya", "native", "native-split", "dotted", "bare", "lycoris"),
        "Forge Neo": ("kohya", "native"),
        "diffusers": ("native lora_A -", "peft-native lora_A -", "dotted lora_A -"),
    },
)
