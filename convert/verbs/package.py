"""Builds the extensions as folders whose root is the extension, to be pushed as branches that a UI installs by URL.

    python run.py package --into out --repository https://github.com/OWNER/NAME --publisher ID

writes ``out/webui`` (A1111, Forge and their descendants) and ``out/comfyui``. The same sources give the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from convert.command import Command
from pair_network.errors import PairError
from pair_network.files import atomic_folder
from pair_network.options import option

from .install import HERE

UIS = ("webui", "comfyui")
BINARY = (".png", ".jpg")
LICENSE = HERE.parent / "LICENSE"
PROJECT = "pyproject.toml"


@dataclass(frozen=True)
class Options:
    """The options of the verb."""

    into: Path = option(Path(), "gets the folders webui and comfyui", Path, is_required=True, metavar="DIR")
    repository: str | None = option(None, "where the folders will be pushed, without the branch", metavar="URL")
    publisher: str | None = option(None, "publisher at ComfyUI's registry", metavar="ID")


def run(options: Options) -> int:
    """Builds both folders and prints them; returns the exit status."""
    repository, publisher = _checked(options.repository, options.publisher)
    if not LICENSE.is_file():
        raise PairError(f"{LICENSE}: no such file; run this in a clone of the repository")
    targets = [options.into / ui for ui in UIS]
    for target in targets:
        if target.exists():
            raise PairError(f"{target}: exists already; remove it, or give another folder with --into")
    for ui, target in zip(UIS, targets, strict=True):
        with atomic_folder(target) as folder:
            for name, data in contents(ui, repository, publisher):
                file = folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
                file.chmod(0o644)
        print(target)
    return 0


def _checked(repository: str | None, publisher: str | None) -> tuple[str | None, str | None]:
    if repository is not None:
        parts = urlsplit(repository)
        if parts.scheme != "https" or not re.fullmatch(r"/[\w.-]+/[\w.-]+", parts.path.removesuffix(".git")):
            raise PairError(f"--repository {repository}: is no address like https://github.com/OWNER/NAME")
        repository = repository.removesuffix(".git")
    if publisher is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]*", publisher):
        raise PairError(f"--publisher {publisher}: an ID has small letters, digits and hyphens")
    return repository, publisher


def contents(ui: str, repository: str | None, publisher: str | None) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every file of an extension's folder, in the order of their names."""
    source = HERE / ui
    files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
    files = {name: path for name, path in files.items() if "__pycache__" not in name and not name.endswith(".pyc")}
    files["LICENSE"] = LICENSE
    for name in sorted(files):
        data = files[name].read_bytes()
        if not name.endswith(BINARY):
            data = _text(name, data.decode("utf-8"), repository, publisher).encode("utf-8")
        yield name, data


def _text(name: str, text: str, repository: str | None, publisher: str | None) -> str:
    """A text file with one kind of line ends, whatever git made of them, and with what the addresses say."""
    text = text.replace("\r\n", "\n")
    if name == PROJECT:
        if publisher is not None:
            text = text.replace('PublisherId = ""', f'PublisherId = "{publisher}"')
        if repository is not None:
            text = text.replace('Repository = ""', f'Repository = "{repository}"')
            text = text.replace('Icon = "icon.png"', f'Icon = "{repository}/raw/comfyui/icon.png"')
    if repository is not None and name.startswith("example_workflows/"):
        text = _with_origin(text, urlsplit(repository).path.strip("/"))
    return text


def _with_origin(workflow: str, origin: str) -> str:
    """A workflow whose nodes of ours name the repository, for managers that look packs up by it."""
    graph = json.loads(workflow)
    for node in graph["nodes"]:
        if node["type"].startswith("PairNetwork"):
            node["properties"]["aux_id"] = origin
    return json.dumps(graph, indent=1, ensure_ascii=False) + "\n"


VERB = Command(__doc__, Options, run)
