"""How many of a file's tensors each UI takes, and what it does with the rest.

The rules were read from A1111 1.10.1, Forge dfdcbab6, ComfyUI 0.33 and diffusers 0.42.1 and checked there; Forge Neo's
were read from its branch ``neo`` and not run. None of the UIs looks at metadata to accept a file, so counting names is
all the check there is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pair_network.errors import printable
from pair_network.families import Family

from .loaders import diffusers_forms, layer_names, takes
from .names import Name, names_of, xflux_targets
from .parse import normal_name, suffix_of

UIS = ("A1111", "Forge", "Forge Neo", "ComfyUI", "diffusers")
FORGE_LIMIT = 12  # unmatched keys beyond which Forge loads nothing of the file
# By which ComfyUI knows a file in xflux's names, which it then renames.
COMFYUI_XFLUX = (
    "single_blocks.37.processor.qkv_lora.up.weight", "double_blocks.18.processor.qkv_lora2.up.weight",
)  # fmt: skip
# By which all that have FLUX.1 know Black Forest Labs' own control LoRAs.
BFL_CONTROL = ("img_in.lora_A.weight", "single_blocks.0.norm.key_norm.scale")
NEO_SHARE = 0.5  # share of unmatched keys beyond which Forge Neo does
SGM, BLOCKS = ("input_blocks", "middle_block", "output_blocks"), ("down_blocks", "mid_block", "up_blocks")
# A1111's rule for this SDXL layer gives the wrong index, so the tensors find no module.
A1111_LOST = "lora_unet_up_blocks_0_upsamplers_0_conv"
A1111_UNKNOWN = "lora_unet_add_embedding"
A1111_SD3 = re.compile(r"transformer\.transformer_blocks\.\d+\.attn\.to_")
NOTHING = "does not take this naming: it raises, or leaves layers out with a warning"
ENCODER_KEY = re.compile(r"lora_te|text_encoder")  # what no converter of a transformer's names minds
# Ends of down and up in ``Family.reads``' rules for diffusers.
DIFFUSERS_ENDS = {
    "lora_down": (".lora_down.weight", ".lora_up.weight"),
    "lora_A": (".lora_A.weight", ".lora_B.weight"),
    "default": (".lora_A.default.weight", ".lora_B.default.weight"),
    "lora.down": (".lora.down.weight", ".lora.up.weight", ".lora_linear_layer.down.weight",
                  ".lora_linear_layer.up.weight"),
    "_lora.down": ("_lora.down.weight", "_lora.up.weight"),
    "down": (".down.weight", ".up.weight"),
}  # fmt: skip
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
    is_control = family.name == "flux" and set(BFL_CONTROL) <= set(listed)

    def verdict(ui: str) -> Match:
        if ui not in family.reads:
            return _result(ui, listed, listed, "", _absent(ui, family))
        return _result(ui, listed, [], "") if is_control else rules[ui](listed, family, metadata)

    return [verdict(ui) for ui in UIS]


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
    rest = "the rest is applied" if matched else "nothing is applied"
    verdict = refused or ("all tensors are used" if not lost else f"{silent}; {rest}")
    return Match(ui, matched, len(keys), verdict, tuple((keys if refused else lost)[:3]))


def _a1111(keys: list[str], family: Family, metadata: Mapping[str, str]) -> Match:
    if family.name == "sd3" and any(key.count(".") < 2 for key in keys):
        return _result(
            "A1111", keys, keys, "", "raises on a name with fewer than two dots (every kohya alpha); not loaded"
        )
    odd = _no_module_type(keys, family)
    if odd is not None:
        return _result("A1111", keys, keys, "", f"raises on {printable(odd, 80)}, whose tensors it cannot put together")
    incomplete = _incomplete_attention(keys, family)
    lost = [key for key in keys if not _a1111_takes(key, family) or _encoder_layer(key, family)[0] in incomplete]
    return _result("A1111", keys, lost, "leaves them out without a word (one DEBUG line)")


def _a1111_takes(key: str, family: Family) -> bool:
    if family.name == "sd3":
        return takes("A1111", family, key) and A1111_SD3.match(key) is not None
    layer = key.partition(".")[0]
    lost = family.name == "sdxl" and (layer == A1111_LOST or layer.startswith(A1111_UNKNOWN))
    return takes("A1111", family, key) and not lost


def _no_module_type(keys: list[str], family: Family) -> str | None:
    """A layer that A1111 has and whose tensors are none of its kinds of network; it then drops the whole file."""
    if family.name == "sd3":
        return None
    known = layer_names("A1111", family)
    parts: dict[str, set[str]] = {}
    for key in keys:
        layer, _, part = key.partition(".")
        # The root of the model is a module there too.
        if layer in known or layer == "diffusion_model":
            parts.setdefault(layer, set()).add(part)
    whole = (({"lora_up.weight", "lora_down.weight"}), ({"lora_A.weight", "lora_B.weight"}))
    # An alpha by itself is that of a layer of another method, which is not judged.
    return next((layer for layer, own in parts.items() if own != {"alpha"} and not any(p <= own for p in whole)), None)


def _encoder_layer(key: str, family: Family) -> tuple[str, str]:
    """The OpenCLIP attention that a tensor belongs to, which A1111 applies as a whole or not at all, and the module in
    it; "" where it belongs to none."""
    name = _name(key, family)[0]
    if name is None or not name.modules[0].endswith(ATTENTION):
        return "", ""
    component = name.modules[0].partition(".")[0]
    kind = next((encoder.kind for encoder in family.text_encoders if encoder.component == component), "")
    return (name.modules[0].rpartition(".")[0], name.modules[0]) if kind == "open_clip" else ("", "")


def _incomplete_attention(keys: list[str], family: Family) -> set[str]:
    parts: dict[str, set[str]] = {}
    for key in keys:
        place, module = _encoder_layer(key, family)
        if place:
            parts.setdefault(place, set()).add(module)
    return {place for place, found in parts.items() if len(found) < len(ATTENTION)}


def _forge(keys: list[str], family: Family, metadata: Mapping[str, str]) -> Match:
    lost = [key for key in keys if not takes("Forge", family, key)]
    refused = None
    if len(lost) > FORGE_LIMIT:
        refused = f"refuses the whole file: {len(lost)} unmatched tensors are more than {FORGE_LIMIT}"
    return _result("Forge", keys, lost, "prints the names", refused)


def _forge_neo(keys: list[str], family: Family, metadata: Mapping[str, str]) -> Match:
    lost = [key for key in keys if not takes("Forge Neo", family, key)]
    refused = None
    if len(lost) > NEO_SHARE * len(keys):
        refused = f"refuses the whole file: {len(lost)} unmatched tensors are more than half"
    return _result("Forge Neo", keys, lost, "leaves them out", refused)


def _comfyui(keys: list[str], family: Family, metadata: Mapping[str, str]) -> Match:
    lost = [key for key in keys if not takes("ComfyUI", family, key)]
    if family.name == "flux" and set(COMFYUI_XFLUX) <= set(keys):
        lost = [key for key in lost if key.rpartition(".")[0].rpartition(".")[0] not in xflux_targets()]
    return _result("ComfyUI", keys, lost, "one warning for each (lora key not loaded)")


def _diffusers(keys: list[str], family: Family, metadata: Mapping[str, str]) -> Match:
    """One rule holds for a whole file: names of one form, with one kind of ends."""
    has_alpha = any(key.endswith(".alpha") for key in keys)
    if "lora_adapter_metadata" in metadata and has_alpha:
        return _result("diffusers", keys, keys, "", "raises: lora_adapter_metadata beside alpha tensors")
    fitting = {key: _rules_of(key, family, has_alpha) for key in keys if not key.endswith(".alpha")}
    counts = Counter(rule for rules in fitting.values() for rule in rules)
    if not counts:
        return _result("diffusers", keys, keys, "", NOTHING)
    # kohya's original and diffusers' block names are one naming; which loses the other is said below.
    best = counts.most_common(1)[0][0]
    taken = {key for key, rules in fitting.items() if any(_is_like(rule, best) for rule in rules)}
    layers = {layer for key in taken for layer in _layers_of(key)}
    lost = [key for key in keys if key not in taken and key.removesuffix(".alpha") not in layers]
    strangers = [key for key in lost if not ENCODER_KEY.match(key)]
    if strangers and not best.startswith("dotted"):
        return _result("diffusers", keys, keys, "", NOTHING)
    if family.component == "unet" and any(part in key for key in keys for part in BLOCKS):
        lost += [key for key in keys if any(part in key for part in SGM) and key not in lost]
    return _result("diffusers", keys, lost, "ignores them, with a warning")


def _layers_of(key: str) -> list[str]:
    """The layer names that a factor's name may end after."""
    return [key.removesuffix(end) for ends in DIFFUSERS_ENDS.values() for end in ends if key.endswith(end)]


def _is_like(rule: str, best: str) -> bool:
    return rule == best or (rule.startswith("kohya") and best.startswith("kohya"))


def _rules_of(key: str, family: Family, has_alpha: bool) -> list[str]:
    """The rules of the family under which diffusers takes a tensor, of those that hold for such a file."""
    found = []
    for rule in family.reads["diffusers"]:
        form, ends, alpha = rule.split()
        if alpha == "*" or (alpha == "+") == has_alpha:
            layers = [key.removesuffix(end) for end in DIFFUSERS_ENDS[ends] if key.endswith(end)]
            if any(form in diffusers_forms(family).get(layer, ()) for layer in layers):
                found.append(rule)
    return found
