"""What ``info`` says of the UIs, against their own loaders: diffusers here, ComfyUI with a checkout."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convert.formats.families import FAMILIES
from convert.formats.loaders import layer_names, names_in_form
from convert.formats.match import match_all

ENDS = {
    "lora_down": (".lora_down.weight", ".lora_up.weight"),
    "lora_A": (".lora_A.weight", ".lora_B.weight"),
    "default": (".lora_A.default.weight", ".lora_B.default.weight"),
    "lora.down": (".lora.down.weight", ".lora.up.weight"),
    "named": (".lora_A.my_style.weight", ".lora_B.my_style.weight"),
}
FORMS = (
    "kohya", "kohya-native", "native", "native-split", "dotted", "bare", "lycoris", "onetrainer", "peft", "peft-native",
    "transformer-native",
)  # fmt: skip
MIXINS = {
    "flux": "Flux", "chroma": "Flux", "sd3": "SD3", "lumina2": "Lumina2", "anima": "Anima", "z_image": "ZImage",
    "qwen_image": "QwenImage", "flux2_dev": "Flux2", "flux2_klein_4b": "Flux2", "krea2": "Krea2",
}  # fmt: skip
FIRST = re.compile(r"(?:^|_|distilled_guidance_layer\.)(?:blocks|layers|refiner)\.0\.|(?:double|single)_blocks\.0\.")


def names_of(family, entry, form):
    """(name, which of the modules it is of, None: all) in a form; "kohya": as the family's trainer writes."""
    if form in ("native", "peft-native", "transformer-native", "kohya-native") or (
        form == "kohya" and family.kohya_is_native
    ):
        return [(names_in_form("kohya-native" if form == "kohya" else form, family, entry)[0], None)]
    return [(name, place) for place, name in enumerate(names_in_form(form, family, entry))]


def width(found, hidden):
    return int(found.multiples[0] * hidden) if found.multiples else (*found.numbers, 8)[0]


def lora_in_form(family, form, ends, has_alpha):
    """A LoRA of rank 1 over the first blocks, at their real widths, and the modules that it is of."""
    hidden, tensors, modules = family.hidden[-1], {}, set()
    down, up = ENDS[ends]
    for entry in family.entries:
        if not FIRST.search(entry.native):
            continue
        modules.update(entry.modules)
        for name, place in names_of(family, entry, form):
            rows = entry.rows if place is None else entry.rows[place : place + 1]
            tensors[name + down] = torch.zeros(1, width(entry.columns, hidden))
            tensors[name + up] = torch.zeros(sum(width(each, hidden) for each in rows), 1)
            if has_alpha:
                tensors[f"{name}.alpha"] = torch.tensor(1.0)
    return tensors, modules


def count_in_diffusers(family, tensors, modules):
    """How many of the modules diffusers' own converter gives both factors for; 0 where it raises."""
    from diffusers.loaders import lora_pipeline

    mixin = getattr(lora_pipeline, f"{MIXINS[family.name]}LoraLoaderMixin")
    try:
        found = mixin.lora_state_dict(dict(tensors))
    except Exception:
        return 0
    found = found[0] if isinstance(found, tuple) else found
    if not all("lora" in key for key in found):
        return 0  # load_lora_weights raises on it
    ends = ("lora_A.weight", "lora_B.weight")
    return sum(all(f"transformer.{m}.{end}" in found for end in ends) for m in modules)


@pytest.mark.parametrize("family", list(MIXINS))
def test_diffusers_takes_what_info_says(family):
    """Every form of names × every kind of ends × with and without alpha: nothing more, and whole files as whole."""
    family, whole = FAMILIES[family], set()
    for form in FORMS:
        for ends in ENDS:
            for has_alpha in (False, True):
                tensors, modules = lora_in_form(family, form, ends, has_alpha)
                real = count_in_diffusers(family, tensors, modules)
                match = next(m for m in match_all(tensors, family, {}) if m.ui == "diffusers")
                said = match.matched / (3 if has_alpha else 2)
                assert said <= real, (form, ends, has_alpha, said, real)
                assert real < len(modules) or match.matched == match.total, (form, ends, has_alpha, said, real)
                whole |= {form} if real == len(modules) else set()
    assert {"dotted"} <= whole, "else diffusers was not asked at all"


def test_no_rule_of_diffusers_lacks_its_test():
    forms = {rule.split()[0] for name in MIXINS for rule in FAMILIES[name].reads["diffusers"]}
    ends = {rule.split()[1] for name in MIXINS for rule in FAMILIES[name].reads["diffusers"]}
    assert forms <= {*FORMS, "xflux"} and ends <= {*ENDS, "down"}
    assert {name for name in FAMILIES if "diffusers" in FAMILIES[name].reads} <= {
        *MIXINS, "sd1", "sd2", "sdxl", "flux2_klein_9b"
    }  # fmt: skip


def told_by(script, program):
    """What a script prints in another program's Python; skips where there is no checkout of it."""
    folder = os.environ.get(f"{program}_DIR")
    if not folder:
        pytest.skip(f"needs a checkout: set {program}_DIR, and {program}_PYTHON for its own Python")
    if program == "COMFYUI" and not (Path(folder) / "comfy" / "ldm" / "krea2").is_dir():
        pytest.skip(f"{folder}: needs ComfyUI 0.33 or newer, which has all of the models")
    command = [os.environ.get(f"{program}_PYTHON", sys.executable), str(Path(__file__).with_name(script)), folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout[done.stdout.index("{") :])


@pytest.fixture(scope="module")
def comfyui():
    """ComfyUI's own tables: names that its loader knows and shapes of the model's weights, and the encoders' names."""
    return told_by("comfyui_names.py", "COMFYUI")


def encoder_names(names, family):
    """Without the text projections that these loaders know in every CLIP, and models that read none do not."""
    projecting = {f"{encoder.prefix}_text_projection" for encoder in family.text_encoders if encoder.projects}
    return {name for name in names if not name.endswith("_text_projection") or name in projecting}


@pytest.mark.forge
def test_forge_knows_the_names_that_info_says():
    """Forge's own table, from names and settings of the models, and ours, for every model that it has."""
    for name, known in told_by("forge_names.py", "FORGE").items():
        family = FAMILIES[name]
        known = encoder_names(known, family)
        ours = layer_names("Forge", family)
        assert not ours - known, (name, sorted(ours - known)[:5])
        spoken_of = {
            each for entry in family.entries for form in SPOKEN_OF for each, _ in names_of(family, entry, form)
        }
        spoken_of |= {each for each in known if each.startswith("lora_te")}
        assert not (spoken_of & known) - ours, (name, sorted((spoken_of & known) - ours)[:5])


IN_COMFYUI = [name for name in FAMILIES if name != "sd2"]  # whose U-Net differs from SD 1's in widths alone
# Other programs' forms, that ComfyUI knows of some families: neither more nor less than these is said.
SPOKEN_OF = [form for form in FORMS if not form.endswith("-native")] + ["kohya-native"]


@pytest.mark.comfyui
@pytest.mark.parametrize("name", IN_COMFYUI)
def test_comfyui_knows_the_names_that_info_says(name, comfyui):
    """ComfyUI's own table of names, from models of the real sizes without weights, and ours: the same names."""
    family, known = FAMILIES[name], set(comfyui["models"][name]["names"])
    shapes = comfyui["models"][name]["shapes"]
    entries = [entry for entry in family.entries if family.in_comfyui(entry.native) in shapes]
    assert len(family.entries) - len(entries) <= (3 if name == "sd3" else 0)  # its last block has no context
    real = {each for entry in entries for form in FORMS for each, _ in names_of(family, entry, form)}
    ours = {each for each in layer_names("ComfyUI", family) if each in real or each.startswith("diffusion_model.")}
    ours -= {f"diffusion_model.{family.in_comfyui(each.native)}" for each in family.entries if each not in entries}
    assert ours and not ours - known, sorted(ours - known)[:5]
    spoken_of = {each for entry in entries for form in SPOKEN_OF for each, _ in names_of(family, entry, form)}
    assert not (spoken_of & known) - layer_names("ComfyUI", family)


@pytest.mark.comfyui
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "flux", "sd3", "chroma", "lumina2", "anima"])
def test_comfyui_knows_the_text_encoders_names_that_info_says(name, comfyui):
    known = encoder_names(comfyui["encoders"][name], FAMILIES[name])
    ours = {each for each in layer_names("ComfyUI", FAMILIES[name]) if each.startswith(("lora_te", "text_encoder"))}
    assert ours and not ours - known, sorted(ours - known)[:5]
    written = {each for each in known if each.startswith("lora_te")}
    assert not written - ours, sorted(written - ours)[:5]


@pytest.mark.comfyui
@pytest.mark.parametrize("name", IN_COMFYUI)
def test_widths_are_those_of_comfyuis_models(name, comfyui):
    family = FAMILIES[name]
    hidden, compared = family.hidden[-1] if family.hidden else None, 0
    for entry in family.entries:
        widths = (*entry.rows, entry.columns)
        shape = comfyui["models"][name]["shapes"].get(family.in_comfyui(entry.native))
        # Of alternatives and of patches, which ComfyUI keeps as a convolution's kernel, the table says less.
        if shape and all(len(each.numbers) + len(each.multiples) == 1 for each in widths) and entry.native not in EDGES:
            assert shape == [sum(width(each, hidden) for each in entry.rows), width(entry.columns, hidden)], (
                entry.native
            )
            compared += 1
    assert compared > 60


EDGES = ("img_in", "final_layer.linear", "x_embedder.proj", "input_blocks.0.0")
