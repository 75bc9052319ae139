"""Lumina Image 2 (and NetaYume)."""

from .family import Family, SdScripts, Words

_PATH = r"^(layers|context_refiner|noise_refiner)\.\d+\."

FAMILY = Family(
    name="lumina2",
    title="Lumina 2",
    order=70,
    component="transformer",
    kohya_is_native=True,
    words=Words("lumina2", "lumina-2/lora", ("lumina",), ("lumina",)),
    kinds={
        "attention": _PATH + r"attention\.(qkv|out)$",
        "ff": _PATH + r"feed_forward\.w[123]$",
        "modulation": _PATH + r"adaLN_modulation\.1$",
        "full": _PATH + r"|^final_layer\.",
    },
    model_classes=("NextDiT",),
    diffusers_class="Lumina2Transformer2DModel",
    pipelines=("Lumina2",),
    marks=("noise_refiner.0.attention.qkv.weight",),
    presets=("lumina",),
    sd_scripts=SdScripts("lumina", "lumina_train_network", "LuminaNetworkTrainer"),
)
