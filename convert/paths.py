"""Where an output goes, and what may be written there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pair_network.errors import PairError
from pair_network.files import PICKLES

from .formats.peft_folder import CONFIG, WEIGHTS

# What the verbs that write folders put into them; a folder of anything else is never replaced.
OWN_FILES = {CONFIG, WEIGHTS, "pytorch_lora_weights.safetensors", "style_lora.safetensors", "content_lora.safetensors"}


def stem_of(source: Path, keep_pair: bool = False) -> str:
    """A file's name without its ending; NAME.pair.safetensors gives NAME, or NAME-pair."""
    name = source.name or source.resolve().name
    for ending in (".safetensors", *PICKLES):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
            break
    return name.removesuffix(".pair") + ("-pair" if keep_pair and name.endswith(".pair") else "")


def target_for(source: Path, output: Path | None, suffix: str, several: bool) -> Path:
    """The output of one input.

    Args:
        source: The input.
        output: ``-o``: a file, or a folder for several inputs; None: beside the input.
        suffix: The verb's own ending, ``-kohya.safetensors``; the part up to the dot only names files beside inputs.
        several: There are more inputs than this one.

    Raises:
        PairError: ``-o`` is a file where a folder is needed, or the other way round.
    """
    if output is None:
        return source.parent / (stem_of(source) + suffix)
    _, dot, ending = suffix.partition(".")
    writes_folder = not dot
    if several and output.is_file():
        raise PairError(f"-o {output}: is a file; several inputs need a folder")
    if several or (not writes_folder and output.is_dir()):
        return output / (stem_of(source, keep_pair=True) + dot + ending)
    if not writes_folder and output.suffix != ".safetensors":
        raise PairError(f"-o {output}: name a .safetensors file, or an existing folder")
    if writes_folder and output.suffix == ".safetensors":
        raise PairError(f"-o {output}: what is written here is a folder; name one, without .safetensors")
    return output


def check_target(source: Path, target: Path, overwrite: bool) -> None:
    """Refuses to write over an input, or over anything else without ``--overwrite``.

    Raises:
        PairError: The target is taken.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise PairError(f"{target}: is the input itself; name another output with -o")
    if not target.exists():
        return
    if not overwrite:
        raise PairError(f"{target}: exists already; pass --overwrite, or name another output with -o")
    if target.is_dir():
        foreign = [path for path in target.rglob("*") if path.is_file() and path.name not in OWN_FILES]
        if foreign:
            raise PairError(
                f"{target}: holds other files ({foreign[0].name}), so it is not replaced; name a new folder"
            )


def refuse_collisions(pairs: Iterable[tuple[Path, Path]], remedy: str) -> None:
    """Raises PairError where two inputs of (input, output) pairs would be written to one place, in whatever case."""
    taken: dict[str, Path] = {}
    for source, target in pairs:
        other = taken.setdefault(str(target).casefold(), source)
        if other is not source:
            raise PairError(f"{other} and {source} would both be written to {target}; {remedy}")
