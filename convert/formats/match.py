"""How many of a file's tensors each UI takes, and what it does with the rest.

The rules were read from A1111 1.10.1, Forge dfdcbab6, ComfyUI and diffusers 0.42.1 and measured there; Forge Neo's are
those of Forge for the models that it has, and were not run. None of the UIs looks at metadata to accept a file, so
counting names is all the check there is. Which UI has a model, and which names it takes there, the families say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pair_network.families import Family

from .names import Name, names_of
from .parse import normal_name, suffix_of

UIS = ("A1111", "Forge", "Forge Neo", "ComfyUI", "diffusers")
FORGE_LIMIT = 12  # unmatched keys beyond which Forge loads nothing of the file
KOHYA_PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
SGM, BLOCKS = ("input_blocks", "middle_block", "output_blocks"), ("down_blocks", "mid_block", "up_blocks")
# A1111's rule for this SDXL layer gives the wrong index, so the tensors find no module.
A1111_LOST = "lora_unet_up_blocks_0_upsamplers_0_conv"
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")


@dataclass(frozen=True)
class Match:
    """What one UI makes of a file.

    Attributes:
        ui: Name of the UI.
        matched: Tensors that end up in the model.
        total: Tensors of the file.
        verdict: What the UI does with the rest, and says about it.
        examples: The first tensors that it does not take.
    """

    ui: str
    matched: int
    total: int
    verdict: str
    examples: tuple[str, ...]


def match_all(keys: Iterable[str], family: Family, metadata: Mapping[str, str]) -> list[Match]:
    """Each UI's verdict on a file with these tensor names, loaded with a model of this family."""
    rules: dict[str, Callable[[list[str], Family, Mapping[str, str]], Match]] = {
        "A1111": _a1111, "Forge": _forge, "Forge Neo": _forge_neo, "ComfyUI": _comfyui, "diffusers": _diffusers,
    }  # fmt: skip
    listed = list(keys)
    return [
        rules[ui](listed, family, metadata)
        if ui in family.reads
        else _result(ui, listed, listed, "", _absent(ui, family))
        for ui in UIS
    ]


def _absent(ui: str, family: Family) -> str:
    if ui == "diffusers":
        return f"has no loader of LoRAs for {family.title}; nothing is applied"
    return f"has no {family.title}; nothing is applied"


def _name(key: str, family: Family) -> tuple[Name | None, str, str]:
    """What a tensor's layer name means in the family, the layer name, and the tensor's suffix."""
    row = suffix_of(key)
    if row is None:
        return None, key, ""
    layer = key[: -len(row[0])]
    return names_of(family).get(normal_name(layer)), layer, row[0]


def _result(ui: str, keys: list[str], lost: list[str], silent: str, refused: str | None = None) -> Match:
    matched = 0 if refused else len(keys) - len(lost)
    verdict = refused or ("all tensors are used" if not lost else silent)
    return Match(ui, matched, len(keys), verdict, tuple((keys if refused else lost)[:3]))


def _a1111(keys: list[str], family: Family, metadata: Mapping[str, str]) -> Match:
    if family.name == "sd3" and any(key.count(".") < 2 for key in keys):
        return _result(
            "A1111", keys, keys, "", "raises on a name with fewer than two dots (every kohya alpha); not loaded"
        )
    incomplete = _incomplete_attention(keys, family)
    lost = [key for key in keys if not _a1111_takes(key, family) or _encoder_layer(key, family) in incomplete]
    return _result("A1111", keys, lost, "leaves them out without a word (one DEBUG line); the rest is applied")


def _a1111_takes(key: str, family: Family) -> bool:
    name, layer, suffix = _name(key, family)
    if name is None or suffix.startswith((".lora.", "_lora.", ".lora_linear", ".down", ".up")):
        return False
    if family.name == "sd3":
        return layer.startswith("transformer.transformer_blocks.") and ".attn.to_" in layer
    return layer.startswith("lora_") and name.style.startswith("kohya") and not (
        family.name == "sdxl" and layer == A1111_LOST
    )  # fmt: skip


def _encoder_layer(key: str, family: Family) -> str | None:
    """The OpenCLIP attention that a tensor belongs to, which A1111 applies as a whole or not at all."""
    name = _name(key, family)[0]
    if name is None or not name.modules[0].endswith(ATTENTION):
        return None
    component = name.modules[0].partition(".")[0]
    kind = next((encoder.kind for encoder in family.text_encoders if encoder.component == component), "")
    return name.modules[0].rpartition(".")[0] if kind == "open_clip" else None


def _incomplete_attention(keys: list[str], family: Family) -> set[str]:
    parts: dict[str, set[str]] = {}
    for key in keys:
        place = _encoder_layer(key, family)
        if place is not None:
            name = _name(key, family)[0]
            parts.setdefault(place, set()).add(name.modules[0])  # type: ignore[union-attr]
    return {place for place, found in parts.items() if len(found) < len(ATTENTION)}


def _forge(keys: list[str], family: Family, metadata: Mapping[str, str]) -> Match:
    lost = [key for key in keys if not _comfy_takes(key, family, "Forge")]
    refused = None
    if len(lost) > FORGE_LIMIT:
        refused = f"refuses the whole file: {len(lost)} unmatched tensors are more than {FORGE_LIMIT}"
    return _result("Forge", keys, lost, "prints the names; the rest is applied", refused)


def _forge_neo(keys: list[str], family: Family, metadata: Mapping[str, str]) -> Match:
    lost = [key for key in keys if not _comfy_takes(key, family, "Forge Neo")]
    return _result(
        "Forge Neo", keys, lost, "leaves them out; the rest is applied (inferred from Forge's rules, not run)"
    )


def _comfyui(keys: list[str], family: Family, metadata: Mapping[str, str]) -> Match:
    lost = [key for key in keys if not _comfy_takes(key, family, "ComfyUI")]
    return _result("ComfyUI", keys, lost, "one warning for each (lora key not loaded); the rest is applied")


def _comfy_takes(key: str, family: Family, ui: str) -> bool:
    name, layer, _ = _name(key, family)
    if name is None:
        return False
    if layer.startswith("lora_te") or layer.startswith("text_encoder"):
        return (
            "text_model" in layer or name.modules[0].startswith("text_encoder_3") or "encoder.block" in name.modules[0]
        )
    if family.component == "unet":
        if name.style in ("kohya", "kohya-native", "native"):
            return True
        # diffusers' names are known as unet.….processor.to_q, or under kohya's underscores.
        return name.style == "kohya-diffusers" or (layer.startswith("unet.") and not _is_attention(layer)) or (
            ".processor." in layer
        )  # fmt: skip
    is_unread = layer.startswith("lora_unet_") and ui in family.unread and re.search(family.unread[ui], layer)
    return name.style in family.reads[ui] and not is_unread


def _is_attention(layer: str) -> bool:
    return ".to_" in layer


def _diffusers(keys: list[str], family: Family, metadata: Mapping[str, str]) -> Match:
    is_kohya = bool(keys) and all(key.startswith(KOHYA_PREFIXES) for key in keys)
    if "lora_adapter_metadata" in metadata and any(key.endswith(".alpha") for key in keys):
        return _result("diffusers", keys, keys, "", "raises: lora_adapter_metadata beside alpha tensors")
    lost = [key for key in keys if not _diffusers_takes(key, family, is_kohya)]
    if family.component == "unet" and any(part in key for key in keys for part in BLOCKS):
        lost += [key for key in keys if any(part in key for part in SGM) and key not in lost]
    if family.name == "sd3" and is_kohya:
        return _result(
            "diffusers", keys, keys, "", "does not convert kohya's SD3 names; nothing is loaded, one warning"
        )
    if len(lost) == len(keys):
        return _result("diffusers", keys, lost, "", "loads nothing, with a warning and no exception")
    return _result("diffusers", keys, lost, "ignores them, with a warning")


def _diffusers_takes(key: str, family: Family, is_kohya: bool) -> bool:
    name, layer, _ = _name(key, family)
    if name is None:
        return False
    if family.component == "transformer":
        if layer.startswith("lora_te3") or (family.name in ("flux", "chroma") and layer.startswith("lora_te2")):
            return False
        return name.style in family.reads["diffusers"] and not (name.style == "dotted" and key.endswith(".alpha"))
    if name.style in ("kohya", "kohya-diffusers", "kohya-native"):
        return is_kohya and name.style != "kohya-native"
    return name.style == "dotted" and not key.endswith(".alpha")
