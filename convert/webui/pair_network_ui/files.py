"""The style LoRAs in the UI's own LoRA folder."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from lib_pair_network.errors import GuidanceError
from modules import shared


def lora_files() -> dict[str, Path]:
    """Name -> file, of every .safetensors in the folder and below; files of one name are told apart by their folders.

    Read anew at each call, so that a file that was just trained or replaced is taken as it is now.
    """
    folder = Path(shared.cmd_opts.lora_dir)
    files = sorted(Path(name) for name in shared.walk_files(str(folder), allowed_extensions=[".safetensors"]))
    counts = Counter(path.stem for path in files)
    return {
        path.stem if counts[path.stem] == 1 else path.relative_to(folder).with_suffix("").as_posix(): path
        for path in files
    }


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
