"""Presets by name, and the choice of one for a model and a card."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import toml

from pair_network.errors import PairError, nearest

FOLDER = Path(__file__).resolve().parents[2] / "presets"
# Model type, as a checkpoint shows it, -> what its presets' names begin with.
NAMES_OF_TYPE = {"sd": "sd15", "chroma": "flux"}


@dataclass(frozen=True)
class Preset:
    """One of the files in presets/.

    Attributes:
        gigabytes: GPU memory that it is made for, from its name; None: any card.
    """

    path: Path
    gigabytes: int | None

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def host(self) -> str:
        """The host that it is made for; "any": sd-scripts or the embedded one."""
        return str(toml.loads(self.path.read_text(encoding="utf-8"))["model"]["host"])


def all_presets() -> dict[str, Preset]:
    """The presets by name."""
    sizes = {path: re.search(r"_(\d+)gb$", path.stem) for path in sorted(FOLDER.glob("*.toml"))}
    return {path.stem: Preset(path, int(size[1]) if size else None) for path, size in sizes.items()}


def preset_named(name: str) -> Preset:
    """The preset of a name, with or without folder and suffix.

    Raises:
        PairError: There is none.
    """
    presets = all_presets()
    stem = Path(name).name.removesuffix(".toml")
    if stem not in presets:
        raise PairError(f"--preset {name}: there is none{nearest(stem, presets)}; there are auto, {', '.join(presets)}")
    return presets[stem]


def choose_preset(
    model_type: str | None, model: str, free_gigabytes: float | None, hosts: Collection[str] = ()
) -> tuple[Preset, str]:
    """The preset for a model on this card, and a sentence that says why.

    Args:
        model_type: What the checkpoint shows, or the --model_type that was given.
        model: The checkpoint, for the sentence.
        free_gigabytes: Free memory of the GPU; None: there is no GPU.
        hosts: Hosts that can run it; none: any.

    Raises:
        PairError: The type is unknown, or has no preset.
    """
    if model_type is None:
        raise PairError(f"--preset auto: {model} does not show what it is; give --model_type, or --preset NAME")
    start = NAMES_OF_TYPE.get(model_type, model_type)
    fitting = [preset for preset in all_presets().values() if re.fullmatch(rf"{start}(_\d+gb|_klein)?", preset.name)
               and (not hosts or preset.host in hosts)]  # fmt: skip
    if not fitting:
        raise PairError(f"--preset auto: there is no preset for --model_type {model_type}; name one with --preset NAME")
    fitting.sort(key=lambda preset: preset.gigabytes or 0)
    # A card of 12 GB has less than 12 GB free while a desktop is shown on it.
    affordable = [preset for preset in fitting if (preset.gigabytes or 0) <= (free_gigabytes or 0) * 1.1]
    chosen = affordable[-1] if affordable else fitting[0]
    memory = f"{free_gigabytes:.1f} GB of GPU memory are free" if free_gigabytes is not None else "there is no GPU"
    tight = "" if affordable or chosen.gigabytes is None else ", less than any of its presets is made for"
    return chosen, f"{Path(model).name} is of type {model_type}, {memory}{tight}"


def free_gpu_memory() -> float | None:
    """Free memory of the current GPU in GB (10⁹ bytes), or None without a GPU."""
    import torch

    return torch.cuda.mem_get_info()[0] / 1e9 if torch.cuda.is_available() else None
