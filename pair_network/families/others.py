"""Models that are no family here, by what metadata call them: names and widths may not tell them from one."""

from __future__ import annotations

from collections.abc import Mapping

# Beginnings, in lower case and with "-" for "_" and spaces, of ``ss_base_model_version`` or ``modelspec.architecture``.
_OTHERS = (
    # Chroma's blocks, SDXL's U-Net, FLUX.1's layers: of other models.
    "chroma-radiance", "zeta-chroma", "sdxl-refiner", "stable-diffusion-xl-v1-refiner", "stable-diffusion-xl-refiner",
    "kolors", "ssd-1b",
    "auraflow", "boogu", "cogvideo", "cogview", "cosmos", "ernie", "f-lite", "framepack", "hidream", "hunyuan-dit",
    "hunyuan-video", "kandinsky", "ltx", "lumina-next", "mageflow", "minimax", "mochi", "nucleus", "omnigen", "pixart",
    "prx", "sana", "stable-cascade", "wan", "wuerstchen",
)  # fmt: skip
KEYS = ("modelspec.architecture", "ss_base_model_version")


def other_model(metadata: Mapping[str, str]) -> str | None:
    """The model that is no family here and that a LoRA's own metadata name, in their words; or None."""
    for key in KEYS:
        words = metadata.get(key, "").strip()
        if words.lower().replace("_", "-").replace(" ", "-").startswith(_OTHERS):
            return words
    return None
