"""``train --model FILE --content PHOTO --style PAINTING --words WORDS``: what such a command leaves out.

It is completed where neither a preset, nor a config file, nor a resolution is named: nothing could be trained then.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pair_network.errors import PairError
from pair_network.images import caption_file

from .check.run import is_small
from .hosts.kohya_config import config_path, read_config
from .hosts.model_types import detect_model_type, is_on_musubi, remedy_for, size_of
from .presets import Preset, choose_preset, free_gpu_memory, preset_named

# Shorter names of options, for every verb that has the longer one.
ALIASES = {"--model": "--pretrained_model_name_or_path", "--words": "--style_prompt"}
# A rare word ties the caption to this one photo (the paper's "sks"); what the photo shows is better, where it is said.
CONTENT_PROMPT = "a photo of sbu"
EMBEDDED_TYPES = ("sd", "sdxl")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)$")  # file names that Windows keeps for devices
LONGEST_NAME = 40
SMALL_PREVIEWS = 40  # steps between previews of a model that trains in a minute


@dataclass(frozen=True)
class Given:
    """What a command line says of a run, before any host has read it."""

    model: str
    content: str | None
    style: str | None
    content_prompt: str | None
    style_prompt: str | None
    output_dir: str | None
    output_name: str | None
    resolution: str | None
    model_type: str | None
    resume: str | None
    sample_every_n_steps: str | None

    def completed_by(self, values: Mapping[str, object]) -> Given:
        """The same with those of a config file where the command line says nothing."""
        names = {"model": "pretrained_model_name_or_path"}
        found = {name: values.get(names.get(name, name)) for name in self.__dataclass_fields__}
        missing = {name: str(found[name]) for name in found if not getattr(self, name) and found[name] is not None}
        return replace(self, **missing)

    @classmethod
    def of(cls, argv: Sequence[str]) -> Given:
        chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        chooser.add_argument("--pretrained_model_name_or_path", "--dit", dest="model", default="")
        for name in cls.__dataclass_fields__:
            if name != "model":
                chooser.add_argument(f"--{name}")
        return cls(**vars(chooser.parse_known_args(list(argv))[0]))


def spelled(argv: Sequence[str]) -> list[str]:
    """The command line with the options' full names.

    Raises:
        PairError: An option is given under both of its names.
    """
    names = {part.partition("=")[0] for part in argv}
    for short, full in ALIASES.items():
        if {short, full} <= names:
            raise PairError(f"{short} and {full} are two names of one option; give one of them")
    found = []
    for part in argv:
        name, equals, value = part.partition("=")
        found.append(f"{ALIASES.get(name, name)}{equals}{value}" if name.startswith("--") else part)
    return found


def is_short(argv: Sequence[str], preset: str | None) -> bool:
    """Whether the command names a pair and leaves its settings to us."""
    given = Given.of(argv)
    is_pair = given.content is not None and given.style is not None
    return is_pair and preset in (None, "auto") and config_path(argv) is None and given.resolution is None


def completed(argv: Sequence[str], has_checkout: bool = False) -> list[str]:
    """The command line with a preset, captions, a name and a folder; says what was chosen.

    Args:
        has_checkout: It runs on a checkout of kohya's, not on the embedded host.

    Raises:
        PairError: The model or the words are missing, or the model has no preset.
    """
    given = Given.of(argv)
    if not given.model:
        raise PairError("--model is missing: name the .safetensors checkpoint or diffusers folder to train on")
    preset, reason = preset_for(given, () if has_checkout else ("any", "embedded"))
    print(f"preset {preset.name}: {reason}")
    added = ["--config_file", str(preset.path)]
    # a preset brings an example's captions; what is not said here is empty, so that the images' own ones are used
    added += ["--content_prompt", given.content_prompt or content_caption(given)]
    if given.style_prompt is None:
        added += ["--style_prompt", ""]
    name = given.output_name or free_name(name_of(given.style_prompt or ""), given)
    added += ["--output_name", name, "--output_dir", given.output_dir or f"output/{name}"]
    if preset.name == "embedded" and given.sample_every_n_steps is None:
        added += ["--sample_every_n_steps", str(SMALL_PREVIEWS)]
    added += for_this_machine(preset, argv) + size_options(given)
    print(f"output: {given.output_dir or f'output/{name}'}/{name}.safetensors")
    return [*added, *argv]


def for_this_machine(preset: Preset, argv: Sequence[str]) -> list[str]:
    """Options in place of those of a preset that do not work here; says so."""
    added = []
    has_gpu = free_gpu_memory() is not None
    if not has_gpu and "--mixed_precision" not in argv:
        print("no GPU: 32 bits, and for a model of usual size many hours")
        added += ["--mixed_precision", "no"]
    optimizer = str(read_config(preset.path).get("optimizer_type", ""))
    plain = optimizer.removesuffix("8bit")
    has_bits = has_gpu and importlib.util.find_spec("bitsandbytes") is not None
    if plain != optimizer and not has_bits and "--optimizer_type" not in argv:
        print(f"{optimizer} needs a GPU and bitsandbytes: {plain} in its place, which takes more memory")
        added += ["--optimizer_type", plain]
    return added


def size_options(given: Given) -> list[str]:
    """--model_version of a model that comes in several sizes, as its file shows it."""
    size = size_of(given.model_type or detect_model_type(given.model) or "", given.model)
    versions = size.musubi.versions if size is not None and size.musubi is not None else ()
    return ["--model_version", versions[0]] if versions else []


def preset_for(given: Given, hosts: Sequence[str]) -> tuple[Preset, str]:
    """The preset of the model's family that fits this machine, and why.

    Raises:
        PairError: The model's family is not known, or has no preset.
    """
    if is_small(given.model) and (given.model_type or detect_model_type(given.model)) in EMBEDDED_TYPES:
        return preset_named("embedded"), f"{given.model} is a small model"
    model_type = given.model_type or detect_model_type(given.model)
    if model_type is None and not Path(given.model).exists() and given.model.count("/") != 1:
        raise PairError(f"--model {given.model}: no such file or folder")
    return choose_preset(model_type, given.model, free_gpu_memory(), hosts)


def kohyas_trainer(argv: Sequence[str], has_musubi: bool) -> str | None:
    """The trainer of kohya's that a model needs, which the embedded host cannot train, or None.

    Raises:
        PairError: It is musubi-tuner, and no checkout is named.
    """
    given = Given.of(argv)
    model_type = given.model_type or detect_model_type(given.model)
    if is_on_musubi(model_type):
        if not has_musubi:
            remedy = remedy_for(model_type, given.model)
            raise PairError(f"--model {given.model}: a model of type {model_type}, which needs {remedy}")
        return "musubi"
    return None if model_type is None or model_type in EMBEDDED_TYPES else "sd-scripts"


def with_dit(argv: Sequence[str]) -> list[str]:
    """The command line with the model's option as musubi-tuner spells it.

    Raises:
        PairError: The model is named twice.
    """
    names = {part.partition("=")[0] for part in argv}
    long = ALIASES["--model"]
    if {long, "--dit"} <= names:
        raise PairError("--model and --dit are two names of one option on musubi-tuner; give one of them")
    return [part.replace(long, "--dit", 1) if part.partition("=")[0] == long else part for part in argv]


def content_caption(given: Given) -> str:
    """A caption for a photo that has none beside it; says so."""
    content = Path(given.content or "")
    if content.is_dir() or caption_file(content) is not None:
        return ""
    print(f'caption of the photo: "{CONTENT_PROMPT}" (--content_prompt "a photo of a sbu dog" says more, if it is one)')
    return CONTENT_PROMPT


def name_of(words: str) -> str:
    """A file name from the style's words: "in ink wash style" gives ink_wash."""
    text = re.sub(r"^(in|as|by)\s+(an?\s+|the\s+)?|\s+style$", "", words.strip().casefold())
    name = re.sub(r"\W+", "_", text).strip("_")[:LONGEST_NAME].rstrip("_") or "style"
    return f"{name}_style" if RESERVED.match(name) else name


def free_name(name: str, given: Given) -> str:
    """The name, numbered where files of it exist already; the same one where a run is to be resumed."""
    if given.resume is not None:
        return name
    number, free = 1, name
    while any(Path(given.output_dir or f"output/{free}").glob(f"{free}.safetensors")):
        number += 1
        free = f"{name}-{number}"
    return free


def newest_state(folder: str, name: str) -> Path | None:
    """The state that a run of this name saved last, or None."""
    states = [path for path in Path(folder).glob("*-state") if is_state_of(path, name)]
    return max(states, key=_when_saved, default=None)


def _when_saved(state: Path) -> tuple[float, bool, str]:
    """Some drives count seconds: of two states of one of them, the last save has the plain name."""
    changed = (state / "train_state.json").stat().st_mtime
    return changed, not re.search(r"-(step)?\d+-state$", state.name), state.name


def is_state_of(folder: Path, name: str) -> bool:
    """Whether a folder is a state of the run: NAME-state, NAME-step00000040-state or NAME-000002-state."""
    middle = folder.name.removeprefix(name).removesuffix("-state")
    is_name = folder.name.startswith(name) and re.fullmatch(r"(-(step)?\d+)?", middle) is not None
    return is_name and (folder / "train_state.json").is_file()


def resumed(argv: Sequence[str], output_dir: str, output_name: str) -> list[str]:
    """The command line with ``--resume auto`` replaced by the newest state of the run, or without it; says which."""
    state = newest_state(output_dir, output_name or "last") if output_dir else None
    print(
        f"resuming from {state}" if state else f"--resume auto: {output_dir or '.'} has no saved state; starting anew"
    )
    return [*argv, "--resume", str(state or "")]
