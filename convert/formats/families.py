"""The families that the converters know."""

from __future__ import annotations

from pair_network import families
from pair_network.errors import PairError
from pair_network.families import Family

# diffusers' names of the models of a pipeline that a LoRA can change.
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "text_conditioner")
FAMILIES: dict[str, Family] = {name: family for name, family in families.FAMILIES.items() if family.blocks}


def family_by_name(name: str) -> Family:
    if name not in FAMILIES:
        raise PairError(f"--family {name}: is none of {', '.join(FAMILIES)}")
    return FAMILIES[name]
