"""Copies the guidance extensions into the UIs' folders."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from convert.command import Command
from pair_network.errors import PairError
from pair_network.files import atomic_folder
from pair_network.options import option

HERE = Path(__file__).parents[1]
FOLDER_NAMES = {"webui": "sd-webui-pair-network", "comfyui": "comfyui-pair-network"}
RESTART = "restart the UI: it loads extensions only when it starts"
MARKER = "pair-network.txt"  # says that a folder is ours and may be replaced


@dataclass(frozen=True)
class Into:
    """Where an extension goes."""

    into: Path = option(
        Path(), "the UI's folder: extensions of A1111 and Forge, custom_nodes of ComfyUI", Path, is_required=True,
        metavar="DIR",
    )  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """``python -m convert webui|comfyui --into DIR`` without the packages that conversions need; the exit status."""
    verb: Command[Into] = import_module(f"{__package__}.{arguments[0]}").VERB
    parser = argparse.ArgumentParser(prog=f"python -m convert {arguments[0]}", description=verb.description)
    verb.add_arguments(parser)
    try:
        return verb.run(parser.parse_args(arguments[1:]))
    except PairError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
    except OSError as cause:
        print(f"error: {cause.filename}: {cause.strerror or cause}; check space and permissions", file=sys.stderr)
    return 1


def run(ui: str, options: Into) -> int:
    """Installs the extension, prints its folder and what to do next; returns the exit status."""
    print(install(ui, options.into))
    print(RESTART)
    return 0


def install(ui: str, into: Path) -> Path:
    """Puts the extension for ``ui`` into a folder of extensions, replacing an older one of ours as a whole.

    Args:
        ui: "webui" or "comfyui".
        into: The folder where the UI looks for extensions or custom nodes.

    Returns:
        The extension's folder.

    Raises:
        PairError: This distribution lacks the extension, there is no such folder, or something else has its name.
    """
    source = HERE / ui
    if not any(path.suffix == ".py" for path in source.rglob("*")):
        raise PairError(
            f"the {ui} extension is not part of this distribution (no folder convert/{ui}); it comes in a later version"
        )
    if not into.is_dir():
        raise PairError(f"{into}: no such folder; give the one where the UI keeps its extensions")
    target = into / FOLDER_NAMES[ui]
    if target.is_symlink():
        raise PairError(f"{target}: is a link, so it is not replaced; remove it first")
    if target.exists() and not (target / MARKER).is_file():
        raise PairError(f"{target}: exists and was not put there by this command; remove it first")
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        (folder / MARKER).write_text("Installed by python -m convert; updated as a whole.\n", encoding="utf-8")
    return target


def webui_lora_folder(root: Path) -> Path:
    """models/Lora of an A1111 or Forge folder.

    Raises:
        PairError: The folder is not one of them.
    """
    if not (root / "models").is_dir() or not (root / "extensions").is_dir():
        raise PairError(
            f"--webui {root}: holds no models and extensions folders; give the folder of A1111 or Forge itself"
        )
    return root / "models" / "Lora"
