"""The model families that sd-scripts trains, by --model_type."""

from __future__ import annotations

from pair_network.errors import PairError, nearest
from pair_network.families import FAMILIES, SdScripts

# By value of --model_type, the most used families first.
TRAINERS: dict[str, SdScripts] = {
    family.sd_scripts.model_type: family.sd_scripts for family in FAMILIES.values() if family.sd_scripts is not None
}


def trainer_of(model_type: str) -> SdScripts:
    """The trainer of a --model_type.

    Raises:
        PairError: No such type.
    """
    if model_type not in TRAINERS:
        accepted = ", ".join(TRAINERS)
        raise PairError(f"--model_type {model_type}: must be one of {accepted}{nearest(model_type, TRAINERS)}")
    return TRAINERS[model_type]
