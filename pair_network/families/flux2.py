"""FLUX.2 dev, and Klein in two sizes: FLUX.1's names, other widths, a gated MLP and modulation outside the blocks.

A LoRA of one size does not fit another, so each is a family of its own.
"""

from .family import Family, Musubi, Words
from .layers import Blocks

_DOUBLE = """
img_attn.qkv   attn.to_q+attn.to_k+attn.to_v                    h+h+h  h
img_attn.proj  attn.to_out.0                                    h      h
img_mlp.0      ff.linear_in                                     6h     h
img_mlp.2      ff.linear_out                                    h      3h
txt_attn.qkv   attn.add_q_proj+attn.add_k_proj+attn.add_v_proj  h+h+h  h
txt_attn.proj  attn.to_add_out                                  h      h
txt_mlp.0      ff_context.linear_in                             6h     h
txt_mlp.2      ff_context.linear_out                            h      3h
"""
# Attention and MLP stay in one matrix in diffusers too.
_SINGLE = """
linear1  attn.to_qkv_mlp_proj  9h  h
linear2  attn.to_out           h   4h
"""
_OUTSIDE = """
img_in                          x_embedder                                        h    128
txt_in                          context_embedder                                  h    {text}
time_in.in_layer                time_guidance_embed.timestep_embedder.linear_1    h    256
time_in.out_layer               time_guidance_embed.timestep_embedder.linear_2    h    h
guidance_in.in_layer            time_guidance_embed.guidance_embedder.linear_1    h    256
guidance_in.out_layer           time_guidance_embed.guidance_embedder.linear_2    h    h
double_stream_modulation_img.lin  double_stream_modulation_img.linear             6h   h
double_stream_modulation_txt.lin  double_stream_modulation_txt.linear             6h   h
single_stream_modulation.lin    single_stream_modulation.linear                   3h   h
final_layer.linear              proj_out                                          128  h
final_layer.adaLN_modulation.1  norm_out.linear                                   2h   h  shift,scale
"""


_ATTENTION = r"^(double_blocks\.\d+\.(img|txt)_attn\.(qkv|proj)|single_blocks\.\d+\.linear[12])$"
_FF = r"^double_blocks\.\d+\.(img|txt)_mlp\.[02]$"
# ComfyUI knows diffusers' names of these not at all, or as FLUX.1's.
_OUTSIDE_IN_COMFYUI = r"time_guidance_embed|stream_modulation(_img|_txt)?[._]linear"
_CACHES = (("vae", "model_version"), ("text_encoder", "model_version"))
# The distilled models have the bases' layers; LoRAs are trained on the bases.
_VERSIONS = {
    "flux2_dev": ("dev",),
    "flux2_klein_4b": ("klein-base-4b", "klein-4b"),
    "flux2_klein_9b": ("klein-base-9b", "klein-9b"),
}


def _family(name: str, title: str, order: int, words: Words, hidden: int, depth: tuple[int, int], text: int) -> Family:
    double, single = depth
    return Family(
        name=name,
        title=title,
        order=order,
        words=words,
        # Modulation is shared by all blocks, and not trained by its trainer.
        kinds={"attention": _ATTENTION, "ff": _FF, "full": f"{_ATTENTION}|{_FF}"},
        blocks=(
            Blocks(_DOUBLE, "double_blocks.{}.", "transformer_blocks.{}.", double),
            Blocks(_SINGLE, "single_blocks.{}.", "single_transformer_blocks.{}.", single),
            Blocks(_OUTSIDE.format(text=text)),
        ),
        hidden=(hidden,),
        trains_text_encoders=False,
        # The class says nothing about the size; only the kinds of layer are asked of it, which are one.
        model_classes=("Flux2",) if name == "flux2_klein_4b" else (),
        diffusers_class="Flux2Transformer2DModel",
        pipelines=("Flux2",) if hidden == 6144 else ("Flux2Klein",),
        marks=("double_stream_modulation_img.lin.weight", "double_stream_modulation_img.linear.weight"),
        presets=("flux2_klein",) if name == "flux2_klein_4b" else (),
        musubi=Musubi("flux2", "flux_2", "Flux2NetworkTrainer", _CACHES, _VERSIONS[name]),
        reads={
            "ComfyUI": ("kohya", "native", "dotted", "onetrainer", "lycoris", "bare"),
            # Forge Neo has Klein alone.
            **({} if hidden == 6144 else {"Forge Neo": ("kohya", "native")}),
            "diffusers": (
                "kohya lora_down *",
                "native lora_A -",
                "peft-native lora_A -",
                "native-split lora_A -",
                "dotted lora_A -",
                "peft lora_A -",
            ),
        },
        unread={"ComfyUI": _OUTSIDE_IN_COMFYUI},
    )


# musubi-tuner's version and architecture names; the general ones are all sizes'.
_ANY = (("flux2", "flux_2"), ("flux.2", "flux-2"))


def _words(version: str, architecture: str) -> Words:
    own = architecture.lower().removesuffix("/lora")
    return Words(
        version,
        architecture,
        (version, version.replace("flux_2", "flux2"), *_ANY[0]),
        (own, own.replace("flux.2", "flux-2"), *_ANY[1]),
    )


FAMILIES = [
    _family("flux2_dev", "FLUX.2 dev", 110, _words("flux_2_dev", "Flux.2-dev/lora"), 6144, (8, 48), 15360),
    _family(
        "flux2_klein_4b", "FLUX.2 Klein 4B", 120, _words("flux_2_klein_4b", "Flux.2-klein-4b/lora"), 3072, (5, 20), 7680
    ),
    _family(
        "flux2_klein_9b",
        "FLUX.2 Klein 9B",
        130,
        _words("flux_2_klein_9b", "Flux.2-klein-9b/lora"),
        4096,
        (8, 24),
        12288,
    ),
]
