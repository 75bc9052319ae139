"""Every file and folder that a run's options name: there, and of the kind that its option takes.

Kohya's trainers find out while they load models, in a traceback. Here names and headers alone are looked at.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pair_network.errors import PairError, printable
from pair_network.files import PICKLES
from pair_network.reading import read_json, read_text, read_toml

from .model_types import tensor_names, type_of_names

SAFE = (".safetensors", ".sft")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Options of kohya's trainers that name weights; those of one family alone are missing in the others.
MODELS = (
    "ae", "byt5", "clip_g", "clip_l", "dit", "gemma2", "llm_adapter_path", "pretrained_model_name_or_path", "qwen3",
    "t5xxl", "text_encoder", "turbo_dit", "unconditional_dit", "vae",
)  # fmt: skip
ADAPTERS = ("network_weights", "base_weights")
FOLDERS = ("t5_tokenizer_path",)
WRITTEN = ("output_dir", "logging_dir", "tokenizer_cache_dir")
PROMPTS = (".txt", ".toml", ".json")


def check_input_files(args: Mapping[str, object], open_options: Collection[str] = ()) -> None:
    """Looks at all of them.

    Args:
        args: A trainer's options by name.
        open_options: Of MODELS, those which also take a diffusers folder, a name on the Hugging Face hub, or a pickle.

    Raises:
        PairError: One is missing, of another kind, or cut off.
    """
    for option in (*MODELS, *ADAPTERS):
        for name in _names(args.get(option)):
            check_weights(option, name, option in open_options)
    for option in FOLDERS:
        for name in _names(args.get(option)):
            if not Path(name).is_dir():
                raise PairError(f"--{option} {name}: no such folder")
    for option in WRITTEN:
        for name in _names(args.get(option)):
            check_output_folder(option, name)
    for name in _names(args.get("log_tracker_config")):
        _check_text("log_tracker_config", Path(name), (".toml",))
    for name in _names(args.get("sample_prompts")):
        check_prompts(Path(name))
    if args.get("resume") and not args.get("resume_from_huggingface"):
        check_state(Path(str(args["resume"])))


def check_weights(option: str, name: str, is_open: bool = False) -> None:
    """Raises PairError unless a value is what its option takes: an intact .safetensors file of a model, or of a LoRA.

    Args:
        option: One of MODELS or ADAPTERS.
        name: Its value.
        is_open: The option also takes a diffusers folder, a name on the Hugging Face hub, or a pickle.
    """
    path = Path(name)
    if not path.exists():
        if is_open and HUB_NAME.fullmatch(name) and path.suffix not in (*SAFE, *PICKLES):
            return
        raise PairError(f"--{option} {name}: no such file; name a .safetensors file{_beside(path)}")
    if path.is_dir():
        if not is_open or not [*path.glob("*.json"), *path.glob("*/config.json")]:
            raise PairError(f"--{option} {name}: a folder{' without a model' if is_open else ''}; name {_what(path)}")
    elif path.suffix in SAFE:
        try:
            names = tensor_names(path)
        except PairError as cause:
            raise PairError(f"--{option} {cause}") from cause
        is_lora = any("lora_" in each for each in names)
        if option in MODELS and is_lora:
            raise PairError(f"--{option} {name}: is a LoRA, not a model; --network_weights takes LoRAs")
        if option in ADAPTERS and not is_lora and type_of_names(names) is not None:
            raise PairError(f"--{option} {name}: is a model, not a LoRA; name a LoRA's file")
    elif not is_open or path.suffix not in PICKLES:
        raise PairError(f"--{option} {name}: not a .safetensors file, the format that is read")


def check_output_folder(option: str, name: str) -> None:
    """Raises PairError where a folder to be written is a file, or lies in one."""
    for path in (Path(name), *Path(name).parents):
        if path.is_file():
            raise PairError(f"--{option} {name}: {path} is a file; name a folder")


def check_state(path: Path) -> None:
    """Raises PairError unless a folder is a state that one of kohya's trainers saved."""
    if not path.is_dir():
        raise PairError(f"--resume {path}: no such folder; name one that ends in -state, or auto for the newest")
    if not (path / "optimizer.bin").is_file():
        raise PairError(f"--resume {path}: not a saved state (no optimizer.bin); name a folder that ends in -state")


def check_prompts(path: Path) -> None:
    """Raises PairError unless a file holds prompts in one of the three forms that kohya's trainers read."""
    _check_text("sample_prompts", path, PROMPTS)
    words = {
        ".toml": "needs a table [prompt] with [[prompt.subset]] in it",
        ".json": "needs a list of prompts, each a text or a table",
    }.get(path.suffix)
    if words is not None and not _has_prompts(path):
        raise PairError(f"--sample_prompts {path}: {words}")


def _has_prompts(path: Path) -> bool:
    if path.suffix == ".json":
        entries = read_json(path, "--sample_prompts")
        return isinstance(entries, list) and all(isinstance(entry, (str, dict)) for entry in entries)
    table = read_toml(path).get("prompt")
    subsets = table.get("subset") if isinstance(table, Mapping) else None
    return isinstance(subsets, list) and all(isinstance(entry, Mapping) for entry in subsets)


def _check_text(option: str, path: Path, suffixes: Collection[str]) -> None:
    if not path.is_file():
        raise PairError(f"--{option} {path}: {'a folder' if path.is_dir() else 'no such file'}; name a text file")
    if path.suffix not in suffixes:
        raise PairError(f"--{option} {path}: must be a file of {' or '.join(suffixes)}")
    read_toml(path) if path.suffix == ".toml" else read_text(path, f"--{option}")


def _names(value: object) -> Iterator[str]:
    """The values of an option that takes one or several; none where it is not given."""
    yield from (str(name) for name in (value if isinstance(value, (list, tuple)) else [value]) if name)


def _beside(path: Path) -> str:
    """' (did you mean …?)' for a file of weights in the same folder."""
    if not path.parent.is_dir():
        return ""
    names = {each.stem: each.name for each in path.parent.glob("*") if each.suffix in SAFE}
    close = difflib.get_close_matches(path.stem, names, n=1)  # the suffix that all share says nothing
    return f" (did you mean {names[close[0]]}?)" if close else ""


def _what(folder: Path) -> str:
    """What to name in place of a folder."""
    found = next((each for each in sorted(folder.glob("*")) if each.suffix in SAFE), None)
    return f"the file in it, such as {printable(found)}" if found else "a .safetensors file"
