"""Layer names of every format, read and written through the key maps of ``keys``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from pair_network.families import FAMILIES, Entry, Family, Width
from pair_network.families.layers import ANY, total

Modules = tuple[str, ...]


@dataclass(frozen=True)
class Name:
    """What a layer name in a file stands for.

    Attributes:
        modules: diffusers layers with their component (``unet.…``) whose rows the layer's up covers, in order.
        swaps: Its rows may be (shift, scale), see ``Entry.swaps``.
        style: Naming it belongs to: "kohya", "kohya-diffusers", "kohya-native", "dotted", "native", "native-split",
            "original" (its names without that prefix), "onetrainer", "omi" or "xflux".
        rows: Outputs of its up.
        columns: Inputs of its down.
    """

    modules: Modules
    swaps: bool = False
    style: str = "dotted"
    rows: Width = ANY
    columns: Width = ANY


def row_share(module: str) -> int:
    """How many parts of a joint projection's rows a module (with component) takes, the smallest part being one."""
    return _row_shares().get(module, 1)


@lru_cache
def _row_shares() -> dict[str, int]:
    shares: dict[str, int] = {}
    for family in FAMILIES.values():
        for entry in family.entries:
            if len(entry.modules) > 1:
                multiples = [rows.multiples[0] for rows in entry.rows]
                for module, multiple in zip(entry.modules, multiples, strict=True):
                    shares[f"{family.component}.{module}"] = int(multiple / min(multiples))
    return shares


def underscored(name: str) -> str:
    return name.replace(".", "_")


@lru_cache
def names_of(family: Family) -> dict[str, Name]:
    """Every name under which a file may give a layer of this family, without the tensor's suffix."""
    names: dict[str, Name] = {}
    for entry in family.entries:
        _add_entry(names, family, entry)
    for encoder in family.text_encoders:
        for module in encoder.modules:
            target, widths = (f"{encoder.component}.{module}",), encoder.widths(module)
            flat = module.removeprefix("text_model.")  # transformers 5 dropped this level
            for form in (module, flat):
                names[f"{encoder.prefix}_{underscored(form)}"] = Name(target, False, "kohya", *widths)
                names[f"{encoder.component}.{form}"] = Name(target, False, "dotted", *widths)
            if encoder.kind == "adapter":
                names[f"diffusion_model.{encoder.checkpoint}{module}"] = Name(target, False, "native", *widths)
            if encoder.kind in ("clip", "open_clip"):
                names.setdefault(_old_attention(target[0], "self_attn.to_"), Name(target, False, "dotted", *widths))
    if family.name == "flux":
        names.update(_xflux_names())
    return names


# OMI, which OneTrainer wrote: the original's names, a joint layer's parts numbered below it (``…img_attn.qkv.0``), and
# what it calls otherwise.
OMI_OTHERS = {"img_in": "img_in.proj"}


def _add_entry(names: dict[str, Name], family: Family, entry: Entry) -> None:
    target = tuple(f"{family.component}.{module}" for module in entry.modules)
    native_style, module_style = ("kohya", "kohya-diffusers") if family.kohya_is_native else ("kohya-native", "kohya")
    if family.component == "transformer" and entry.native in entry.modules:
        native_style = "kohya"  # both models call it so
    rows = total(entry.rows)
    whole, native_name = (Name(target, entry.swaps, style, rows, entry.columns) for style in (native_style, "native"))
    for native in (entry.native, family.in_comfyui(entry.native)):
        names[f"lora_unet_{underscored(native)}"] = whole
        for prefix in ("diffusion_model.", "model.diffusion_model."):
            names[prefix + native] = native_name
    if entry.native in OMI_OTHERS:
        names[f"lora_unet_{underscored(OMI_OTHERS[entry.native])}"] = replace(whole, style="omi")
    for place, (module, full, rows) in enumerate(zip(entry.modules, target, entry.rows, strict=True)):
        styles = ("dotted", module_style, "native-split", "onetrainer", "omi")
        one, kohya, split, onetrainer, omi = (Name((full,), False, style, rows, entry.columns) for style in styles)
        if len(target) > 1:
            names[f"lora_unet_{underscored(entry.native)}_{place}"] = omi
        # Transformers that kohya names by the original's names are never named by diffusers' under its prefix.
        if family.component == "unet" or not family.kohya_is_native:
            names.setdefault(f"lora_unet_{underscored(module)}", kohya)
        if not family.kohya_is_native and family.component == "transformer":
            names.setdefault(f"diffusion_model.{module}", split)
        names.setdefault(f"lora_{family.component}_{underscored(module)}", onetrainer)
        names[full] = one
        if full.endswith(".to_out.0"):
            names[full.removesuffix(".0")] = one


def _old_attention(module: str, replacement: str) -> str:
    """``…self_attn.q_proj`` as diffusers' first releases wrote it, ``…self_attn.to_q``."""
    stem, _, part = module.rpartition("self_attn.")
    return f"{stem}{replacement}{part.removesuffix('_proj')}" if stem else module


# xflux, the code under the official FLUX release: processor attributes and the layers that they add to.
XFLUX_DOUBLE = {
    "qkv_lora1": "img_attn.qkv",
    "proj_lora1": "img_attn.proj",
    "qkv_lora2": "txt_attn.qkv",
    "proj_lora2": "txt_attn.proj",
}
XFLUX_SINGLE_QKV, XFLUX_SINGLE_PROJ = "qkv_lora", "proj_lora"


@lru_cache
def xflux_targets() -> dict[str, Modules]:
    """xflux layer name -> diffusers modules, for all blocks. Its single qkv leaves linear1's proj_mlp rows alone."""
    by_native = {entry.native: tuple(f"transformer.{m}" for m in entry.modules) for entry in FAMILIES["flux"].entries}
    targets = {}
    for native, modules in by_native.items():
        block, _, rest = native.partition(".")
        number, _, layer = rest.partition(".")
        place = f"{block}.{number}.processor"
        if block == "double_blocks":
            targets.update({f"{place}.{name}": modules for name, known in XFLUX_DOUBLE.items() if known == layer})
        elif block == "single_blocks" and layer == "linear1":
            targets[f"{place}.{XFLUX_SINGLE_QKV}"] = modules[:3]
        elif block == "single_blocks" and layer == "linear2":
            targets[f"{place}.{XFLUX_SINGLE_PROJ}"] = modules
    return targets


def _xflux_names() -> dict[str, Name]:
    dotted = {f"transformer.{module}": rows for entry in FAMILIES["flux"].entries
              for module, rows in zip(entry.modules, entry.rows, strict=True)}  # fmt: skip
    names = {}
    for name, modules in xflux_targets().items():
        known = Name(modules, style="xflux", rows=total(dotted[module] for module in modules))
        names[name] = names[f"diffusion_model.{name}"] = known
        if joint_qkv(name) != name:
            names[f"diffusion_model.{joint_qkv(name)}"] = replace(known, style="native")
    return names


def joint_qkv(name: str) -> str:
    """What Forge Neo and ComfyUI call xflux's layer of a single block, which is a part of ``linear1``."""
    block, _, layer = name.rpartition(".processor.")
    return f"{block}.linear1_qkv" if layer == XFLUX_SINGLE_QKV else name


@lru_cache
def kohya_entries(family: Family) -> dict[str, tuple[Modules, bool]]:
    """kohya's key of every layer -> (modules in the key's row order, whether rows may swap): what is written."""
    written: dict[str, tuple[Modules, bool]] = {}
    for entry in family.entries:
        target = tuple(f"{family.component}.{module}" for module in entry.modules)
        if family.kohya_is_native:
            written[f"lora_unet_{underscored(entry.native)}"] = (target, entry.swaps)
        else:
            alone = zip(entry.modules, target, strict=True)
            written.update({f"lora_unet_{underscored(module)}": ((full,), False) for module, full in alone})
    return written | _encoder_entries(family)


@lru_cache
def original_entries(family: Family) -> dict[str, tuple[Modules, bool]]:
    """The same under the original's names with dots and ComfyUI's prefix, as its model has them."""
    return {
        f"diffusion_model.{family.in_comfyui(entry.native)}": (
            tuple(f"{family.component}.{m}" for m in entry.modules),
            entry.swaps,
        )
        for entry in family.entries
    } | _encoder_entries(family)


def _encoder_entries(family: Family) -> dict[str, tuple[Modules, bool]]:
    return {
        f"{encoder.prefix}_{underscored(module)}": ((f"{encoder.component}.{module}",), False)
        for encoder in family.text_encoders
        for module in encoder.modules
    }


def kind_of(module: str) -> str:
    """attention, ff, conv, text_encoder or other, of a module with component."""
    if module.startswith("text_encoder"):
        return "text_encoder"
    if ".attn" in module:
        return "attention"
    if ".ff" in module or module.endswith(("proj_in", "proj_out", "proj_mlp")):
        return "ff"
    parts = (".resnets.", "samplers.", "conv_in", "conv_out")
    return "conv" if any(part in module for part in parts) else "other"
