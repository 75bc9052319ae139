"""The image models that musubi-tuner trains a LoRA on, by --model_type."""

from __future__ import annotations

from pair_network.errors import PairError, nearest
from pair_network.families import FAMILIES, Musubi

TRAINERS: dict[str, Musubi] = {
    family.musubi.model_type: family.musubi for family in FAMILIES.values() if family.musubi is not None
}
# What else it trains, and why not here.
_VIDEO = "it is a video model, and pairs are images"
REFUSED = {
    "hidream_o1": "it paints pixels without a VAE, with caches and a --model_type of its own, and was not fitted",
    "flux_kontext": "it edits a picture, and pairs train text-to-image models; FLUX.1 is trained on sd-scripts",
    **dict.fromkeys(("wan", "hv", "hv_1_5", "fpack", "kandinsky5"), _VIDEO),
}


def trainer_of(model_type: str | None) -> Musubi:
    """The trainer of a --model_type.

    Raises:
        PairError: It is missing, or musubi-tuner's trainer of it is not for pairs of images.
    """
    accepted = ", ".join(TRAINERS)
    if model_type is None:
        raise PairError(f"--model_type is missing: musubi-tuner needs it; give one of {accepted}")
    if model_type in REFUSED:
        raise PairError(f"--model_type {model_type}: no pairs are trained on it: {REFUSED[model_type]}")
    if model_type not in TRAINERS:
        raise PairError(
            f"--model_type {model_type}: must be one of {accepted}{nearest(model_type, TRAINERS)} on musubi-tuner; "
            "older families are trained on sd-scripts (--host sd-scripts)"
        )
    return TRAINERS[model_type]
