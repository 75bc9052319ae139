"""Ideogram 4: trained over its fp8 checkpoint, the only form in which it is published; the conditional model alone."""

from .family import Family, Musubi, Words

_PATH = r"^layers\.\d+\."
_ATTENTION = _PATH + r"attention\.(qkv|o)$"
_FF = _PATH + r"feed_forward\.w[123]$"

FAMILY = Family(
    name="ideogram4",
    title="Ideogram 4",
    order=140,
    words=Words("ideogram4", "Ideogram-4/lora", ("ideogram4",), ("ideogram-4", "ideogram4")),
    # Its trainer leaves the modulation alone.
    kinds={
        "attention": _ATTENTION,
        "ff": _FF,
        "modulation": _PATH + r"adaln_modulation$",
        "full": f"{_ATTENTION}|{_FF}",
    },
    trains_text_encoders=False,
    model_classes=("Ideogram4Transformer",),
    marks=("llm_cond_proj.weight", "embed_image_indicator.weight"),
    presets=("ideogram4",),
    musubi=Musubi("ideogram4", "ideogram4", "Ideogram4NetworkTrainer"),
)
