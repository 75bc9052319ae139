"""``check FILE…``: what a model, LoRA, file of settings or installation is, and what training would say about it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from pair_network.errors import PairError, printable
from pair_network.training.hosts.contract import NEEDED, Comparison, report
from pair_network.training.hosts.embedded.config_file import read_config_file
from pair_network.training.hosts.embedded.model_files import check_model_folder
from pair_network.training.hosts.embedded.options import training_parser
from pair_network.training.hosts.kohya_config import read_config
from pair_network.training.hosts.model_types import detect_model_type, is_on_musubi, tensor_names
from pair_network.training.presets import choose_preset, free_gpu_memory


def diagnosis(path: Path) -> Iterator[str]:
    """Sentences about a file or folder.

    Raises:
        PairError: It is missing, damaged, or nothing that training uses.
    """
    if not path.exists():
        raise PairError(f"{printable(path)}: no such file or folder")
    if path.is_dir():
        yield from of_folder(path)
    elif path.suffix == ".safetensors":
        yield from of_weights(path)
    elif path.suffix == ".toml":
        yield from of_settings(path)
    else:
        raise PairError(f"{printable(path)}: check takes .safetensors and .toml files, models' folders and checkouts")


def of_folder(path: Path) -> Iterator[str]:
    for checkout in (path, path / "sd-scripts"):
        trainer = trainer_in(checkout)
        if trainer is not None:
            yield f"{checkout}: a checkout of {trainer}"
            if report(comparisons(trainer, checkout)):
                raise PairError(f"{checkout}: pair training does not fit it; use {NEEDED[trainer]}")
            return
    if not (path / "model_index.json").is_file():
        raise PairError(f"{printable(path)}: neither a diffusers model (model_index.json) nor a checkout of a trainer")
    model_type = detect_model_type(str(path))
    if model_type in ("sd", "sdxl"):
        check_model_folder(path)
    yield from of_model(path, model_type)


def trainer_in(folder: Path) -> str | None:
    """Name of the trainer whose checkout a folder is, or None."""
    if (folder / "train_network.py").is_file():
        return "sd-scripts"
    return "musubi-tuner" if (folder / "src/musubi_tuner").is_dir() else None


def comparisons(trainer: str, checkout: Path) -> list[Comparison]:
    """What a checkout has beside what pair training needs of it."""
    # Imported here: each asks for the packages of its trainer.
    from pair_network.training.hosts.musubi.check import compare_checkout as of_musubi
    from pair_network.training.hosts.sd_scripts.check import compare_checkout as of_sd_scripts

    return (of_musubi if trainer == "musubi-tuner" else of_sd_scripts)(str(checkout))


def of_weights(path: Path) -> Iterator[str]:
    names = tensor_names(path)
    if not any("lora" in name.casefold() for name in names):
        yield from of_model(path, detect_model_type(str(path)))
        return
    metadata = metadata_of(path)
    kind = "both branches, to go on training" if "pair_network_config" in metadata else "a LoRA"
    yield f"{path}: {kind}, {len(names)} tensors; python -m convert info {path} says what each UI reads of it"
    for key, words in (("modelspec.trigger_phrase", "trigger words"), ("ss_base_model_version", "trained on")):
        if metadata.get(key):
            yield f"  {words}: {printable(metadata[key])}"


def of_model(path: Path, model_type: str | None) -> Iterator[str]:
    if model_type is None:
        raise PairError(f"{printable(path)}: shows no model that is known here; name it with --model_type if it is one")
    where = "the embedded host or sd-scripts"
    if model_type not in ("sd", "sdxl"):
        where = "musubi-tuner (--musubi DIR)" if is_on_musubi(model_type) else "sd-scripts (--sd_scripts DIR|auto)"
    yield f"{path}: a model of type {model_type}; trained on {where}"
    preset, reason = choose_preset(model_type, str(path), free_gpu_memory())
    yield f"  preset {preset.name}: {reason}"


def of_settings(path: Path) -> Iterator[str]:
    host = read_config(path).get("host", "any")
    if host in ("any", "embedded"):
        parser = training_parser()
        argv = ["--config_file", str(path)]
        read_config_file(parser.parse_args(argv), parser, argv)
        yield f"{path}: every key and value is understood"
    else:
        yield f"{path}: can be read; its keys are those of {host}, which checks them when it starts"


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata in a safetensors header that ``tensor_names`` has read before."""
    with path.open("rb") as file:
        found = json.loads(file.read(struct.unpack("<Q", file.read(8))[0])).get("__metadata__", {})
    return found if isinstance(found, dict) else {}
