"""The --model_type that a checkpoint shows, and the trainer of kohya's that has it."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection
from pathlib import Path

from pair_network.errors import PairError
from pair_network.families import FAMILIES, Blocks, Family
from pair_network.reading import read_json_table

# SDXL's U-Net has what SD's has, so the wider families are asked first.
_TRAINED = [(family, trainer.model_type) for family in reversed(FAMILIES.values())
            if (trainer := family.sd_scripts or family.musubi)]  # fmt: skip
_PREFIXES = ("model.diffusion_model.", "net.")
_LARGEST_HEADER = 100_000_000


def detect_model_type(checkpoint: str | None) -> str | None:
    """The model type that a checkpoint's tensor names prove, or None where they prove nothing.

    Only a .safetensors header or a diffusers folder's model_index.json is read, no tensor.
    """
    path = Path(checkpoint) if checkpoint else None
    if path is None or not path.exists():
        return None  # a Hugging Face name: nothing to read without downloading it
    if path.is_dir():
        return _type_of_folder(path)
    if path.suffix != ".safetensors":
        return None
    return type_of_names(tensor_names(path))


def tensor_names(path: Path) -> list[str]:
    """Names in a safetensors header.

    Raises:
        PairError: The file is cut off or of another kind.
    """
    with path.open("rb") as file:
        size = file.read(8)
        length = struct.unpack("<Q", size)[0] if len(size) == 8 else 0
        if not 2 <= length <= min(_LARGEST_HEADER, path.stat().st_size - 8):
            raise PairError(f"{path}: not an intact safetensors file; copy or download it again")
        try:
            header: dict[str, object] = dict(json.loads(file.read(length)))
        except (ValueError, TypeError, RecursionError) as cause:
            raise PairError(f"{path}: not an intact safetensors file ({cause}); copy or download it again") from cause
    return [name for name in header if name != "__metadata__"]


def type_of_names(names: Collection[str]) -> str | None:
    """The model type that tensor names prove, or None."""
    bare = set(names)
    for prefix in _PREFIXES:
        bare |= {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    return next((model_type for family, model_type in _TRAINED if bare.intersection(family.marks)), None)


def _type_of_folder(folder: Path) -> str | None:
    index = folder / "model_index.json"
    if not index.is_file():
        return None
    pipeline = str(read_json_table(index, remedy="download the model again").get("_class_name", ""))
    found = [(start, model_type) for family, model_type in _TRAINED
             for start in family.pipelines if pipeline.startswith(start)]  # fmt: skip
    return max(found, key=lambda each: len(each[0]))[1] if found else None


def is_on_musubi(model_type: str | None) -> bool:
    """Whether musubi-tuner trains a model type, and no other host."""
    return any(name == model_type and family.sd_scripts is None for family, name in _TRAINED)


def size_of(model_type: str, checkpoint: str) -> Family | None:
    """The one size of a model that comes in several, by the number of a checkpoint's blocks; None: it shows none."""
    sizes = [family for family, name in _TRAINED if name == model_type]
    path = Path(checkpoint)
    if len(sizes) == 1:
        return sizes[0]
    if not path.is_file() or path.suffix != ".safetensors":
        return None
    names = tensor_names(path)
    return next((family for family in sizes if all(_has_as_many(names, blocks) for blocks in family.blocks)), None)


def _has_as_many(names: Collection[str], blocks: Blocks) -> bool:
    """Whether a model has as many blocks as a family; layers outside the numbered blocks say nothing."""
    if "{}" not in blocks.native:
        return True
    last, beyond = blocks.native.format(blocks.count - 1), blocks.native.format(blocks.count)
    return any(last in name for name in names) and not any(beyond in name for name in names)


def remedy_for(model_type: str | None, model: object) -> str:
    """What to give so that a model is trained by kohya's trainer of it."""
    if is_on_musubi(model_type):
        return f"--musubi DIR, the folder of your musubi-tuner, and --dit {model} (docs/musubi.md)"
    return "--sd_scripts DIR, the folder of your sd-scripts, or --sd_scripts auto (docs/kohya.md)"
