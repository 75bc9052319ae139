"""Z-Image, trained on its base model. Its refiners are left alone, as by its trainer."""

from .family import Family, Musubi, Words

_PATH = r"^layers\.\d+\."
_ATTENTION = _PATH + r"attention\.to_(q|k|v|out\.0)$"
_FF = _PATH + r"feed_forward\.w[123]$"

FAMILY = Family(
    name="z_image",
    title="Z-Image",
    order=120,
    component="transformer",
    kohya_is_native=True,
    words=Words("z_image", "Z-Image/lora", ("z_image",), ("z-image",)),
    kinds={
        "attention": _ATTENTION,
        "ff": _FF,
        "modulation": _PATH + r"adaLN_modulation\.0$",
        "full": f"{_ATTENTION}|{_FF}",
    },
    trains_text_encoders=False,
    model_classes=("ZImageTransformer2DModel",),
    diffusers_class="ZImageTransformer2DModel",
    pipelines=("ZImage",),
    presets=("z_image",),
    musubi=Musubi("z_image", "zimage", "ZImageNetworkTrainer"),
)
