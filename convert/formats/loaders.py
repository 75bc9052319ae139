"""The names under which each UI looks for a LoRA's tensors, made as its own loader makes them.

Forge, Forge Neo and ComfyUI write a table of layer names from the model that is loaded, and take of a file what is in
that table. A1111 turns a name into the original's. diffusers looks at the whole file: each family has a converter of
its own, for some names with some endings. Which UI has a model, and which forms of names it knows there, the families
say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

from pair_network.families import Entry, Family, TextEncoder
from pair_network.families.text_encoders import PROJECTION

from .names import joint_qkv, underscored, xflux_targets

KOHYA_ENDS = (".lora_down.weight", ".lora_up.weight", ".lora_mid.weight", ".alpha")
PEFT_ENDS = (".lora_A.weight", ".lora_B.weight")
FORGE_ENDS = (
    *KOHYA_ENDS, *PEFT_ENDS, "_lora.down.weight", "_lora.up.weight", ".lora.down.weight", ".lora.up.weight",
    ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight",
)  # fmt: skip
COMFY_ENDS = (*FORGE_ENDS, ".lora_A", ".lora_B", ".lora_A.default.weight", ".lora_B.default.weight")
# Prefixes before the original's names.
ORIGINAL = {"native": "diffusion_model.", "transformer-native": "transformer.", "peft-native": "base_model.model."}
# Ends of tensors' names that each takes of a layer that it knows.
ENDS = {"A1111": (*KOHYA_ENDS, *PEFT_ENDS), "Forge": FORGE_ENDS, "Forge Neo": COMFY_ENDS, "ComfyUI": COMFY_ENDS}


def takes(ui: str, family: Family, key: str) -> bool:
    """Whether a UI other than diffusers finds a place in the model for a tensor."""
    names = layer_names(ui, family)
    return any(key.endswith(end) and key[: -len(end)] in names for end in ENDS[ui])


@lru_cache
def layer_names(ui: str, family: Family) -> frozenset[str]:
    """Every layer name that a UI knows in a model of the family."""
    names = {name for entry in family.entries for name in _of_entry(ui, family, entry)}
    for encoder in family.text_encoders:
        names.update(_of_encoder(ui, family, encoder))
    if family.name == "flux" and ui in ("Forge Neo", "ComfyUI"):
        names.update(f"diffusion_model.{joint_qkv(name)}" for name in xflux_targets() if joint_qkv(name) != name)
    return frozenset(names)


def _of_entry(ui: str, family: Family, entry: Entry) -> Iterator[str]:
    for form in family.reads.get(ui, ()):
        # kohya's own names are the original's or diffusers', as the family's trainer has them.
        own = "kohya-native" if form == "kohya" and family.kohya_is_native else form
        here = replace(entry, native=family.in_comfyui(entry.native)) if ui == "ComfyUI" else entry
        for name in names_in_form(own, family, here):
            if ui not in family.unread or not re.search(family.unread[ui], name):
                yield name


def names_in_form(form: str, family: Family, entry: Entry) -> list[str]:
    """A layer's names in one of the forms of ``Family.reads``, one for each module where it is diffusers' names."""
    modules, native = entry.modules, entry.native
    if form in ORIGINAL:
        return [ORIGINAL[form] + native]
    if form == "kohya-native":
        return [f"lora_unet_{underscored(native)}"]
    if form == "processor":
        return [prefix + _processor(module) for module in modules for prefix in ("", "unet.")]
    before = {
        "kohya": "lora_unet_", "kohya-diffusers": "lora_unet_", "onetrainer": f"lora_{family.component}_",
        "lycoris": "lycoris_", "native-split": "diffusion_model.", "dotted": f"{family.component}.", "bare": "",
        "peft": "base_model.model.",
    }[form]  # fmt: skip
    return [before + (underscored(module) if before.endswith("_") else module) for module in modules]


def _processor(module: str) -> str:
    """A U-Net's layer as diffusers' first releases named it: attention in a processor, ``to_out`` without a number."""
    return module.replace(".to_", ".processor.to_").removesuffix(".0" if module.endswith(".to_out.0") else "\0")


def _of_encoder(ui: str, family: Family, encoder: TextEncoder) -> Iterator[str]:
    own, place = underscored, family.text_encoders.index(encoder) + 1
    for module in encoder.modules:
        if module == PROJECTION:
            yield from [f"{encoder.prefix}_{module}"] if ui in ("Forge", "ComfyUI") else []
        elif encoder.kind in ("clip", "open_clip"):
            yield f"{encoder.prefix}_{own(module)}"
            if encoder.prefix in ("lora_te", "lora_te1") and (ui != "A1111" or family.name == "sd1"):
                yield from (f"{prefix}_{own(module)}" for prefix in ("lora_te", "lora_te1"))
            if ui != "A1111":
                yield f"{encoder.component}.{module}"
        elif encoder.kind == "t5":
            # By its place among the model's encoders; of FLUX.1 under two numbers.
            numbers = {2, 3} if ui == "Forge" else {place} | ({3} if place == 2 else set())
            yield from (f"lora_te{number}_{own(module)}" for number in numbers)
        elif ui == "ComfyUI":
            yield f"{encoder.prefix}_{own(module)}"
        if encoder.kind == "adapter":
            yield f"diffusion_model.{encoder.checkpoint}{module}"
        elif ui in ("Forge Neo", "ComfyUI"):
            yield GENERIC[encoder.kind](encoder) + module


# ``text_encoders.`` and the path in the UI's own model.
GENERIC: dict[str, Callable[[TextEncoder], str]] = {
    "clip": lambda encoder: f"text_encoders.{'clip_h' if encoder.width == 1024 else 'clip_l'}.transformer.",
    "open_clip": lambda encoder: f"text_encoders.{'clip_h' if encoder.width == 1024 else 'clip_g'}.transformer.",
    "t5": lambda encoder: "text_encoders.t5xxl.transformer.",
    "llm": lambda encoder: f"{encoder.checkpoint}model.",
}


@lru_cache
def diffusers_forms(family: Family) -> dict[str, tuple[str, ...]]:
    """Layer names that diffusers' converters know, and the forms that each is of. Of text encoders it knows CLIPs."""
    found: dict[str, list[str]] = {}
    wanted = {rule.split()[0] for rule in family.reads.get("diffusers", ())} - {"xflux"}
    for entry in family.entries:
        for form in wanted:
            native = form == "kohya" and family.kohya_is_native
            for name in names_in_form("kohya-native" if native else form, family, entry):
                if "diffusers" not in family.unread or not re.search(family.unread["diffusers"], name):
                    found.setdefault(name, []).append(form)
    for encoder in family.text_encoders:
        for module in encoder.modules if encoder.kind in ("clip", "open_clip", "adapter") else ():
            for prefix in {encoder.prefix, "lora_te1"} if encoder.prefix == "lora_te" else {encoder.prefix}:
                found[f"{prefix}_{underscored(module)}"] = ["kohya"]
            found[f"{encoder.component}.{module}"] = ["dotted"]
            if encoder.kind == "adapter":
                found[f"diffusion_model.{encoder.checkpoint}{module}"] = ["native"]
    if family.name == "flux":
        for name in xflux_targets():
            found[name] = found[f"diffusion_model.{name}"] = ["xflux"]
    return {name: tuple(forms) for name, forms in found.items()}
