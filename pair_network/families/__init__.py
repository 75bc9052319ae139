"""The model families, one file each.

A new family is a new file here that defines ``FAMILY`` (or ``FAMILIES``, for the sizes of one model whose LoRAs do not
fit each other). Nothing else lists families: trainers, targets, previews, converters, ``info`` and the tables of the
docs all ask this package.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping

from .family import Family, Musubi, PreviewInputs, SdScripts, Words
from .layers import Blocks, Entry, Width
from .text_encoders import TextEncoder

__all__ = [
    "FAMILIES", "Blocks", "Entry", "Family", "Musubi", "PreviewInputs", "SdScripts", "TextEncoder", "Width", "Words",
    "family_of_class", "family_of_metadata",
]  # fmt: skip


def _found() -> Iterator[Family]:
    for module in pkgutil.iter_modules(__path__):
        known = importlib.import_module(f"{__name__}.{module.name}")
        yield from getattr(known, "FAMILIES", [known.FAMILY] if hasattr(known, "FAMILY") else [])


FAMILIES: dict[str, Family] = {family.name: family for family in sorted(_found(), key=lambda each: each.order)}


def family_of_class(names: Iterable[str]) -> Family:
    """The family of a denoiser by the names of its class and that class's bases.

    Any other class has the layout of Stable Diffusion's U-Net.
    """
    known = {name: family for family in FAMILIES.values() for name in family.model_classes}
    return next((known[name] for name in names if name in known), FAMILIES["sd1"])


def family_of_metadata(metadata: Mapping[str, str]) -> str | None:
    """The family that a LoRA's own metadata names, or None."""
    architecture = metadata.get("modelspec.architecture", "").lower()
    version = metadata.get("ss_base_model_version", "").lower()
    named = _longest(architecture, {start: f.name for f in FAMILIES.values() for start in f.words.architectures})
    named = named or _longest(version, {start: f.name for f in FAMILIES.values() for start in f.words.versions})
    return named or ("sd2" if metadata.get("ss_v2") == "True" else None)


def _longest(text: str, names: Mapping[str, str]) -> str | None:
    """The name of the longest beginning that the text has."""
    found = [start for start in names if text.startswith(start)]
    return names[max(found, key=len)] if found else None
