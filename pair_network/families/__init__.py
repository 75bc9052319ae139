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
from .others import other_model
from .text_encoders import TextEncoder

__all__ = [
    "FAMILIES", "Blocks", "Entry", "Family", "Musubi", "PreviewInputs", "SdScripts", "TextEncoder", "Width", "Words",
    "claims_of_metadata", "family_of_class", "family_of_metadata", "other_model",
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


def claims_of_metadata(metadata: Mapping[str, str]) -> list[frozenset[str]]:
    """What a LoRA's own metadata says about its family, statement by statement.

    Returns:
        For ``modelspec.architecture`` and ``ss_base_model_version``, where they are there, the families that they can
        mean: several where sizes of a model share a name, none where they name a model that is not known here.
    """
    said = []
    architecture = metadata.get("modelspec.architecture", "").strip().lower()
    if architecture:
        said.append(_meant(architecture, {f.name: f.words.architectures for f in FAMILIES.values()}))
    version = metadata.get("ss_base_model_version", "").strip().lower()
    if version:
        said.append(_meant(version, {f.name: f.words.versions for f in FAMILIES.values()}))
    if not said and metadata.get("ss_v2") == "True":
        said.append(frozenset(("sd2",)))
    return said


def _meant(text: str, beginnings: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """The families with the longest beginning that the text has; "_" and "-" are one."""
    plain = text.replace("_", "-")
    longest = {name: max((len(s) for s in starts if plain.startswith(s.replace("_", "-"))), default=0)
               for name, starts in beginnings.items()}  # fmt: skip
    most = max(longest.values())
    return frozenset(name for name, length in longest.items() if most and length == most)


def family_of_metadata(metadata: Mapping[str, str]) -> str | None:
    """The one family that a LoRA's own metadata names, or None."""
    return next((next(iter(claim)) for claim in claims_of_metadata(metadata) if len(claim) == 1), None)
