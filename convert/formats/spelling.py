"""A layer's name by rule: whose it is (prefix), and its path in the model, dotted or with underscores.

Programs put their own prefixes before the same few paths and wrap their models in levels of their own. What is left of
a name without them is looked up among the names that ``names_of`` gives to a family.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from pair_network.families import Family, TextEncoder

from .names import Name, names_of, underscored

# Levels that PEFT, torch.compile and data parallelism put into a name, wherever they stand.
WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:base_model\.model|_orig_mod|module|pipe)\.")
_DENOISERS = "(?:diffusion_model|unet|transformer|denoiser|net|dit)"
DENOISER = tuple(
    re.compile(pattern)
    for pattern in (rf"(?:model\.)?{_DENOISERS}\.", rf"(?:lora|lycoris)_{_DENOISERS}[._]", r"lycoris_")
)
# Text encoders as kohya, diffusers, ComfyUI and original checkpoints name them: by number, or by kind.
_KINDS = "(clip_l|clip_h|clip_g|t5xxl|t5)"
ENCODERS = (
    re.compile(r"(?:lora_|lycoris_)?(?:te|text_encoders?)[._]?([123]?)[._](?:transformer\.)?"),
    re.compile(rf"(?:lora_|lycoris_)?(?:text_encoders?[._])?{_KINDS}[._](?:transformer[._])?"),
    re.compile(r"(cond_stage_model)\.(?:transformer|model)\."),
    re.compile(r"conditioner\.(embedders\.[01])\.(?:transformer|model)\."),
)
NUMBERS = {"": 1, "1": 1, "2": 2, "3": 3, "clip_l": 1, "clip_h": 1, "clip_g": 2, "embedders.1": 2}
# Prefixes of original checkpoints, and how many CLIPs the families have whose checkpoints they are.
CLIPS = {"cond_stage_model": 1, "embedders.0": 2, "embedders.1": 2}
T5_KINDS = ("t5xxl", "t5")
KOHYA_ENCODER = re.compile(r"lora_te[123]?_")
T5_PATH = re.compile(r"encoder[._]block[._]")
CLIP_PATH = re.compile(r"(?:text_model[._])?encoder[._]layers[._]|text_projection$")
# diffusers' first releases called attention's layers the same in text encoders as in U-Nets.
OLD_ATTENTION = re.compile(r"_self_attn_to_(q|k|v|out)$")


def known_name(name: str, family: Family) -> Name | None:
    """What a layer's name in a file means in a family; None where the family has no such layer."""
    return names_of(family).get(name) or _by_rule(name, family)


@lru_cache(maxsize=1 << 16)
def _by_rule(name: str, family: Family) -> Name | None:
    names = names_of(family)
    plain = WRAPPERS.sub("", name)
    for spelled, path in (plain, plain), *_spellings(plain, family):
        found = names.get(spelled)
        if found is not None:
            return replace(found, style=_style(plain, path, found, names))
    return None


def _spellings(name: str, family: Family) -> Iterator[tuple[str, str]]:
    """Names among ``names_of`` that this one may stand for, and the path in each."""
    paths = [name, *(name[found.end() :] for pattern in DENOISER if (found := pattern.match(name)))]
    for path in paths:
        yield f"lora_unet_{underscored(path)}", path
        if path.endswith("to_out"):
            yield f"lora_unet_{underscored(path)}_0", path
        # kohya's own prefix stands before the original's names alone.
        if not name.startswith("lora_unet_"):
            yield f"lora_{family.component}_{underscored(path)}", path
            if path.endswith("to_out"):
                yield f"lora_{family.component}_{underscored(path)}_0", path
    for encoder, path in _encoders(name, family):
        yield f"{encoder.prefix}_{OLD_ATTENTION.sub(_new_attention, underscored(path))}", path


def _encoders(name: str, family: Family) -> Iterator[tuple[TextEncoder, str]]:
    """Text encoders that a name may mean, and the path in each."""
    # T5 is numbered by its place among the family's encoders, and by kohya always 3.
    t5 = [(encoder, place) for place, encoder in enumerate(family.text_encoders, 1) if encoder.kind == "t5"]
    clips = [encoder for encoder in family.text_encoders if encoder.kind != "t5"]
    for pattern in ENCODERS:
        found = pattern.match(name)
        if not found:
            continue
        path, which = name[found.end() :], found.group(1)
        if T5_PATH.match(path):
            yield from ((encoder, path) for encoder, place in t5 if which in T5_KINDS or NUMBERS.get(which) == place)
        is_kohya = KOHYA_ENCODER.match(name)  # whose numbers tell the families apart
        if not CLIP_PATH.match(path) or is_kohya or CLIPS.get(which, len(clips)) != len(clips):
            continue
        if NUMBERS.get(which, 1) <= len(clips):
            yield clips[NUMBERS.get(which, 1) - 1], path
    # Without a prefix a path is only known where the family has one encoder of its kind.
    if T5_PATH.match(name) and len(t5) == 1:
        yield t5[0][0], name
    if CLIP_PATH.match(name) and len(clips) == 1:
        yield clips[0], name


def _new_attention(found: re.Match[str]) -> str:
    part = found.group(1)
    return f"_self_attn_{part}_proj"


def _style(name: str, path: str, found: Name, names: dict[str, Name]) -> str:
    """The naming that a name follows, from its form: original paths, or diffusers'."""
    if "." not in name or found.style == "omi":
        return found.style
    if f"diffusion_model.{path}" not in names:
        return "dotted"
    return "native" if name.startswith(("diffusion_model.", "model.diffusion_model.")) else "original"
