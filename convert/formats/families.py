"""The model families, and how a family is recognised from layer names, widths and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pair_network.errors import PairError

from .keys.entry import Entry
from .keys.text import clip_modules, t5_modules
from .keys.transformer import flux_entries, sd3_entries
from .keys.unet import unet_entries


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder: kohya's prefix, diffusers' component, and the layer names below it."""

    prefix: str
    component: str
    kind: str
    layers: int = 0

    @property
    def modules(self) -> tuple[str, ...]:
        return t5_modules() if self.kind == "t5" else clip_modules(self.layers)


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
        name: Short name, as ``--family`` takes it.
        title: Name for people.
        component: diffusers' name of the denoiser, "unet" or "transformer".
        kohya_is_native: kohya's files name the denoiser's layers by the original names, not by diffusers'.
        text_encoders: Its text encoders.
        base_model_version: kohya's ``ss_base_model_version``.
        architecture: ``modelspec.architecture`` of a LoRA.
    """

    name: str
    title: str
    component: str
    kohya_is_native: bool
    text_encoders: tuple[TextEncoder, ...]
    base_model_version: str
    architecture: str

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        if self.name == "flux":
            return flux_entries()
        return sd3_entries() if self.name == "sd3" else unet_entries("sdxl" if self.name == "sdxl" else "sd")

    @property
    def is_v2(self) -> bool:
        return self.name == "sd2"


def _clip(prefix: str, component: str, layers: int, kind: str = "clip") -> TextEncoder:
    return TextEncoder(prefix, component, kind, layers)


_BOTH_CLIPS = (_clip("lora_te1", "text_encoder", 12), _clip("lora_te2", "text_encoder_2", 32, "open_clip"))
FAMILIES = {
    family.name: family
    for family in (
        Family(
            "sd1", "Stable Diffusion 1", "unet", False, (_clip("lora_te", "text_encoder", 12),),
            "sd_v1", "stable-diffusion-v1/lora",
        ),
        Family(
            "sd2", "Stable Diffusion 2", "unet", False, (_clip("lora_te", "text_encoder", 23, "open_clip"),),
            "sd_v2", "stable-diffusion-v2-512/lora",
        ),
        Family("sdxl", "SDXL", "unet", True, _BOTH_CLIPS, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
        Family(
            "sd3", "Stable Diffusion 3", "transformer", True,
            (*_BOTH_CLIPS, TextEncoder("lora_te3", "text_encoder_3", "t5")), "sd3", "stable-diffusion-3/lora",
        ),
        Family(
            "flux", "FLUX.1", "transformer", True,
            (_clip("lora_te1", "text_encoder", 12), TextEncoder("lora_te3", "text_encoder_2", "t5")),
            "flux1", "flux-1-dev/lora",
        ),
    )
}  # fmt: skip

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


def family_of_metadata(metadata: Mapping[str, str]) -> str | None:
    """The family that a file's own metadata names, or None."""
    architecture = metadata.get("modelspec.architecture", "").lower()
    version = metadata.get("ss_base_model_version", "").lower()
    hints = {"stable-diffusion-xl": "sdxl", "stable-diffusion-v1": "sd1", "stable-diffusion-v2": "sd2",
             "stable-diffusion-3": "sd3", "flux-1": "flux"}  # fmt: skip
    for start, name in hints.items():
        if architecture.startswith(start):
            return name
    hints = {"sdxl": "sdxl", "sd_v2": "sd2", "sd_v1": "sd1", "sd_1.5": "sd1", "sd3": "sd3", "flux": "flux"}
    for start, name in hints.items():
        if version.startswith(start):
            return name
    return "sd2" if metadata.get("ss_v2") == "True" else None


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
