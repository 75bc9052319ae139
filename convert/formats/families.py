"""The families that the converters know, and how a LoRA's is recognised from names, widths and metadata."""

from __future__ import annotations

from collections.abc import Mapping

from pair_network import families
from pair_network.errors import PairError
from pair_network.families import Family, family_of_metadata

FAMILIES: dict[str, Family] = {name: family for name, family in families.FAMILIES.items() if family.blocks}

# Input widths that only one of the families that share names has: of attn2's keys in a U-Net, of CLIP's layers.
_WIDTHS = {
    "attn2.to_k": {768: "sd1", 1024: "sd2", 2048: "sdxl"},
    "self_attn.q_proj": {768: "sd1", 1024: "sd2"},
    "attn.add_k_proj": {3072: "flux", 1536: "sd3", 2432: "sd3"},
}


def family_by_name(name: str) -> Family:
    if name not in FAMILIES:
        raise PairError(f"--family {name}: is none of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def choose_family(
    candidates: list[str], inputs: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]
) -> tuple[Family, bool]:
    """The family among those that know all of a file's names, and whether that is more than a guess.

    Args:
        candidates: Families whose names cover the file, in the order of ``FAMILIES``.
        inputs: Shape of every layer's down, by diffusers' name.
        metadata: The file's metadata.
    """
    if len(candidates) == 1:
        return FAMILIES[candidates[0]], True
    named = family_of_metadata(metadata)
    if named in candidates:
        return FAMILIES[named], True
    for module, shape in inputs.items():
        for ending, widths in _WIDTHS.items():
            name = widths.get(shape[1]) if module.endswith(ending) and len(shape) > 1 else None
            if name in candidates:
                return FAMILIES[name], True
    return FAMILIES[candidates[0]], False
