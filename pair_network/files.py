"""Files that are written whole or not at all, and those that are never read."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Pickled weights can run code when they are loaded.
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
# diffusers' names of weights: NAME.safetensors, NAME.VARIANT.safetensors, and either in parts.
_WEIGHTS = re.compile(r"[^.]+?(-\d+-of-\d+)?(\.(?P<variant>[^.]+?))?(-\d+-of-\d+)?\.safetensors")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path in the target's folder that takes the target's name when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; a saved model gets the permissions that any new file gets.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def weights_of(folder: Path) -> tuple[str | None, list[Path]]:
    """The weights that a component of a diffusers folder is loaded from.

    Returns:
        diffusers' variant (``fp16``), None for the full weights, and the .safetensors files of it: the full ones where
        they are there, else fp16, else any other. No file: the folder has no such weights.
    """
    found: dict[str | None, list[Path]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        name = _WEIGHTS.fullmatch(file.name)
        found.setdefault(name.group("variant") if name else None, []).append(file)
    for variant in (None, "fp16", *found):
        if variant in found:
            return variant, found[variant]
    return None, []
