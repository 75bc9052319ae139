"""The style LoRAs in the UI's own LoRA folder."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from lib_pair_network.card import Card, read_card
from lib_pair_network.errors import GuidanceError
from modules import shared

COUPLED = ".pair"  # NAME.pair.safetensors


def folders() -> list[Path]:
    """The UI's LoRA folders; Forge Neo takes several more beside the first."""
    more = getattr(shared.cmd_opts, "lora_dirs", None) or []
    return list(dict.fromkeys(Path(name) for name in (shared.cmd_opts.lora_dir, *more) if name))


def lora_files() -> dict[str, Path]:
    """Name -> file, of every .safetensors in the folders and below; files of one name are told apart by their folders.

    Read anew at each call, so that a file that was just trained or replaced is taken as it is now.
    """
    found: dict[Path, str] = {}  # each file once, also where one folder lies in another
    for folder in folders():
        for name in sorted(shared.walk_files(str(folder), allowed_extensions=[".safetensors"])):
            found.setdefault(Path(name), Path(name).relative_to(folder).with_suffix("").as_posix())
    stems, below = Counter(path.stem for path in found), Counter(found.values())
    return {
        path.stem if stems[path.stem] == 1 else name if below[name] == 1 else path.with_suffix("").as_posix(): path
        for path, name in found.items()
    }


def style_names() -> list[str]:
    """What is offered for choosing: no coupled checkpoints, which lie beside the style LoRA of the same training."""
    return [name for name, path in lora_files().items() if not path.stem.endswith(COUPLED)]


def find(names: Collection[str]) -> dict[str, Path]:
    """The files of these names.

    Raises:
        GuidanceError: The folder has no such file.
    """
    files = lora_files()
    for name in names:
        if name not in files:
            near = difflib.get_close_matches(name, files, 1)
            hint = f"; did you mean {near[0]}?" if near else f" among the {len(files)} .safetensors files there"
            raise GuidanceError(f"{name}: no such file in the LoRA folder{hint}")
    return {name: files[name] for name in names}


def from_card(name: str, words: str, scale: float) -> tuple[str, float]:
    """Words and λ of a chosen LoRA, as its card has them; what the card does not say stays as it is."""
    file = lora_files().get(name)
    card = read_card(file) if file else Card()
    return words if card.words is None else card.words, scale if card.scale is None else card.scale
