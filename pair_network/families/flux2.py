"""FLUX.2: dev, and Klein in its two sizes. Modulation is shared by all blocks, and not trained by its trainer."""

from .family import Family, Musubi, Words

_ATTENTION = r"^(double_blocks\.\d+\.(img|txt)_attn\.(qkv|proj)|single_blocks\.\d+\.linear[12])$"
_FF = r"^double_blocks\.\d+\.(img|txt)_mlp\.[02]$"
_MODELS = ("model_version",)  # the caching scripts ask for it too

FAMILY = Family(
    name="flux2",
    title="FLUX.2",
    order=100,
    component="transformer",
    kohya_is_native=True,
    words=Words("flux_2_klein_4b", "Flux.2-klein-4b/lora", ("flux_2",), ("flux.2",)),
    kinds={"attention": _ATTENTION, "ff": _FF, "full": f"{_ATTENTION}|{_FF}"},
    trains_text_encoders=False,
    model_classes=("Flux2",),
    diffusers_class="Flux2Transformer2DModel",
    pipelines=("Flux2",),
    presets=("flux2_klein",),
    musubi=Musubi("flux2", "flux_2", "Flux2NetworkTrainer", (("vae", *_MODELS), ("text_encoder", *_MODELS))),
)
