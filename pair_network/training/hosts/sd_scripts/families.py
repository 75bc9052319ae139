"""The model families that sd-scripts trains, and how a checkpoint shows its --model_type."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection
from pathlib import Path

from pair_network.errors import PairError, nearest
from pair_network.families import FAMILIES, SdScripts
from pair_network.reading import read_json_table

# By value of --model_type, the most used families first.
TRAINERS: dict[str, SdScripts] = {
    family.sd_scripts.model_type: family.sd_scripts for family in FAMILIES.values() if family.sd_scripts is not None
}
# A tensor that only checkpoints of one type have. SDXL's U-Net has what SD's has, so the wider families go first.
_MARKS = [(mark, family.sd_scripts.model_type) for family in reversed(FAMILIES.values()) if family.sd_scripts
          for mark in family.marks]  # fmt: skip
_PREFIXES = ("model.diffusion_model.", "net.")
_LARGEST_HEADER = 100_000_000


def trainer_of(model_type: str) -> SdScripts:
    """The trainer of a --model_type.

    Raises:
        PairError: No such type.
    """
    if model_type not in TRAINERS:
        accepted = ", ".join(TRAINERS)
        raise PairError(f"--model_type {model_type}: must be one of {accepted}{nearest(model_type, TRAINERS)}")
    return TRAINERS[model_type]


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
    return next((model_type for mark, model_type in _MARKS if mark in bare), None)


def _type_of_folder(folder: Path) -> str | None:
    index = folder / "model_index.json"
    if not index.is_file():
        return None
    pipeline = str(read_json_table(index, remedy="download the model again").get("_class_name", ""))
    found = [(start, trainer) for family in FAMILIES.values() if (trainer := family.sd_scripts)
             for start in family.pipelines if pipeline.startswith(start)]  # fmt: skip
    return max(found, key=lambda each: len(each[0]))[1].model_type if found else None
