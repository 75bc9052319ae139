"""The image models that musubi-tuner trains a LoRA on, by --model_type."""

from __future__ import annotations

from pair_network.errors import PairError, nearest
from pair_network.families import FAMILIES, Musubi

TRAINERS: dict[str, Musubi] = {
    family.musubi.model_type: family.musubi for family in FAMILIES.values() if family.musubi is not None
}


def trainer_of(model_type: str | None) -> Musubi:
    """The trainer of a --model_type.

    Raises:
        PairError: It is missing, or musubi-tuner's trainer of it is not for pairs of images.
    """
    accepted = ", ".join(TRAINERS)
    if model_type is None:
        raise PairError(f"--model_type is missing: musubi-tuner needs it; give one of {accepted}")
    if model_type not in TRAINERS:
        raise PairError(
            f"--model_type {model_type}: must be one of {accepted}{nearest(model_type, TRAINERS)} on musubi-tuner; "
            "older families are trained on sd-scripts (--host sd-scripts)"
        )
    return TRAINERS[model_type]
