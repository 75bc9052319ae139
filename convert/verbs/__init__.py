"""The verbs of ``python -m convert``, one file each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convert.command import Command
    from convert.conversion import Conversion
    from convert.options import Writing

# What each is, in a line: read before its module is imported, which may take torch with it.
SUMMARIES = {
    "a1111": "a plain style LoRA for A1111, Forge and ComfyUI",
    "diffusers": "any LoRA into diffusers' naming, exactly",
    "peft": "any LoRA into PEFT's adapter folder, exactly",
    "kohya": "any LoRA into kohya's naming, exactly",
    "pair": "a style LoRA (and its content LoRAs) into our coupled checkpoint, for continuing",
    "official": "a style LoRA or coupled checkpoint into the official release's files (SDXL, FLUX)",
    "resize": "a LoRA at a lower rank, by rank, energy or size",
    "bake": "style guidance approximated in a plain LoRA",
    "info": "what a file is, and what each UI will make of it",
    "blend": "several LoRAs with weights in one file",
    "merge": "LoRAs into a checkpoint, streaming",
    "extract": "a LoRA from the difference of two checkpoints",
    "batch": "a conversion over folders and globs, in parallel",
    "webui": "put or update the guidance script into A1111's or Forge's extensions",
    "comfyui": "put or update the guidance nodes into ComfyUI's custom_nodes",
    "package": "build the extensions as folders that UIs install by URL",
}


def verb_named(name: str) -> Conversion[Writing] | Command[object]:
    """The verb of this name, its module imported now."""
    verb: Conversion[Writing] | Command[object] = import_module(f"{__name__}.{name}").VERB
    return verb


def conversion_named(name: str) -> Conversion[Writing]:
    """What a batch runs for a verb that converts one input into one output."""
    found = verb_named(name).conversion
    assert found is not None
    return found
