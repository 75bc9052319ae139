"""Krea 2: trained on its RAW model. "full" is all of the blocks; its trainer takes what lies around them too."""

from .family import Family, Musubi, Words

_PATH = r"^blocks\.\d+\."

FAMILY = Family(
    name="krea2",
    title="Krea 2",
    order=130,
    component="transformer",
    kohya_is_native=True,
    words=Words("krea2", "Krea-2/lora", ("krea2",), ("krea-2", "krea2")),
    kinds={
        "attention": _PATH + r"attn\.(wq|wk|wv|wo|gate)$",
        "ff": _PATH + r"mlp\.(gate|up|down)$",
        "full": _PATH,
    },
    trains_text_encoders=False,
    model_classes=("SingleStreamDiT",),
    presets=("krea2",),
    musubi=Musubi("krea2", "krea2", "Krea2NetworkTrainer"),
)
