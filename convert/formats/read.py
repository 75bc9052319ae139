"""Any LoRA file as an ``Adapter``: finds the format, the family and the layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from convert.files.header import read_header
from convert.files.lazy import Lazy
from convert.files.storage import open_tensors
from pair_network.errors import PairError, printable
from pair_network.families import Family, family_of_metadata
from pair_network.files import PICKLES
from pair_network.network.pair_file import is_pair_file, read_config

from .assemble import adapter_alphas, alone, branch_of, names_in, own_rank, without
from .families import FAMILIES, family_by_name
from .foreign import FULL_WEIGHT, INCOMPLETE, INVERSION, UNKNOWN, Foreign, foreign_of, in_words
from .layers import Adapter, Branch
from .official_folder import official_files
from .parse import Parsed, RawLayer, parse_keys, suffix_of
from .peft_folder import ROOT, AlphaOf, has_config, no_settings, open_peft, peft_folder
from .proof import Proof, prove
from .spelling import known_name

SKIP = "pass --skip-unknown to leave {} out"
MERGE_IT = "merge it into its model with the program that made it, and use extract on the two models"


def read_adapter(
    path: str | Path, family: str | None = None, allow_pickle: bool = False, skip_unknown: bool = False
) -> Adapter:
    """The LoRA in a file (or in a folder: a PEFT adapter, an official release).

    Args:
        path: A .safetensors file, a folder with adapter_config.json, or one with the official release's files.
        family: Name of the model family, when the file leaves it open.
        allow_pickle: Also read pickles, through weights_only loading.
        skip_unknown: Leave out what is no plain LoRA layer of the family, instead of refusing the file.

    Raises:
        PairError: Not a readable file, no LoRA, of a kind that is no plain LoRA, incomplete, or of an unknown family.
    """
    path = Path(path)
    release = official_files(path)
    if release is not None:
        return _official(path, *release, family, skip_unknown)
    folder = peft_folder(path)
    if folder is not None:
        tensors, alphas, metadata = open_peft(folder, family, skip_unknown, allow_pickle)
        return _plain(path, tensors, metadata, family, alphas, skip_unknown)
    tensors, metadata = open_tensors(path, allow_pickle)
    if is_pair_file(metadata):
        return _coupled(path, tensors, metadata, family)
    # PEFT itself writes no other metadata; other programs use its names for files that stand alone, of scale 1.
    is_pefts = set(metadata) <= {"format"} and all(not key.endswith(".alpha") for key in tensors)
    if tensors and is_pefts and all(key.startswith(ROOT) for key in tensors):
        raise PairError(no_settings(path))
    return _plain(path, tensors, metadata, family, adapter_alphas(metadata, path, skip_unknown), skip_unknown)


def is_lora(path: Path) -> bool:
    """Whether a file's names are those of a LoRA, or a folder is an adapter's; only the header is read."""
    if path.is_dir():
        return official_files(path) is not None or has_config(path)
    if not path.is_file() or path.suffix.lower() in PICKLES:
        return False
    return any((row := suffix_of(key)) and row[1] != "alpha" for key in read_header(path).tensors)


def _official(path: Path, style_file: Path, content_file: Path | None, family: str | None, skip: bool) -> Adapter:
    """Both branches of a release; its content ups get the axis of pairs that a coupled checkpoint has."""
    adapter = read_adapter(style_file, family, skip_unknown=skip)
    if content_file is not None:
        content = read_adapter(content_file, adapter.family.name, skip_unknown=skip).style
        adapter.content = {key: replace(layer, up=alone(layer.up)) for key, layer in content.items()}
    adapter.source = path
    return adapter


def _plain(
    path: Path,
    tensors: Mapping[str, Lazy],
    metadata: dict[str, str],
    family: str | None,
    alphas: AlphaOf,
    skip: bool = False,
) -> Adapter:
    parsed = parse_keys(tensors)
    foreign = foreign_of(parsed)
    _check(parsed, foreign, path, skip)
    left_out: dict[str, str] = {}
    if skip:
        left_out = foreign.all
        parsed = without(parsed, foreign.layers)
        incomplete = _incomplete(parsed)
        left_out.update({key: INCOMPLETE for name in sorted(incomplete) for key in parsed.layers[name].keys.values()})
        parsed, unknown = _known(without(parsed, incomplete), metadata, family)
        left_out.update(dict.fromkeys(unknown, UNKNOWN))
        if not parsed.layers:
            remedy = f"; {MERGE_IT}" if foreign.methods else ""
            raise PairError(f"{path}: holds no plain LoRA layer of a known model, only {in_words(left_out)}{remedy}")
    chosen, is_sure, fits = find_family(parsed, metadata, family, path)
    style, styles = branch_of(parsed, chosen, path, alphas)
    adapter = Adapter(chosen, style, {}, metadata, path, format_of(parsed, chosen), is_sure, styles=styles)
    adapter.fits = fits
    adapter.left_out = left_out
    if not skip:
        adapter.embeddings = {key: tensors[key] for key in foreign.embeddings}
        adapter.additions = {key: tensors[key] for key in foreign.additions}
    return adapter


def _incomplete(parsed: Parsed) -> set[str]:
    """Layers with one factor alone, with none, or with one that holds no number: a rank of 0."""
    return {
        name
        for name, layer in parsed.layers.items()
        if not {"down", "up"} <= layer.tensors.keys() or any(0 in layer.tensors[part].shape for part in ("down", "up"))
    }


def _known(parsed: Parsed, metadata: Mapping[str, str], family: str | None) -> tuple[Parsed, list[str]]:
    """The layers that the family with the most of them has, and the tensors of the others."""
    if not parsed.layers:
        return parsed, []
    missing = _nearest(parsed, metadata, family)[1]
    return without(parsed, set(missing)), [key for name in missing for key in parsed.layers[name].keys.values()]


def _coupled(path: Path, tensors: Mapping[str, Lazy], metadata: dict[str, str], family: str | None) -> Adapter:
    config = read_config(metadata, str(path))
    branches: dict[str, dict[str, Lazy]] = {"content": {}, "style": {}}
    for key, tensor in tensors.items():
        name, _, rest = key.partition(".")
        if name not in branches:
            raise PairError(f"{path}: unexpected tensor {printable(key, 80)} in a coupled checkpoint; export it again")
        branches[name][rest] = tensor
    parsed = {name: parse_keys(values) for name, values in branches.items()}
    for part in parsed.values():
        if part.unexpected:
            words = in_words(foreign_of(part).all)
            raise PairError(f"{path}: holds {words}, which no coupled checkpoint does; export it again")
        _check(part, Foreign(), path, False)
    chosen, is_sure, fits = find_family(parsed["style"], metadata, family, path)
    style, styles = branch_of(parsed["style"], chosen, path, own_rank)
    content, _ = branch_of(parsed["content"], _covering(parsed["content"], chosen, path), path, own_rank, True)
    _check_pairs(content, path)
    return Adapter(chosen, style, content, metadata, path, "pair", is_sure, config, styles, fits=fits)


def _check_pairs(content: Branch, path: Path) -> None:
    """Raises PairError where some layers hold more pairs than others."""
    counts = {layer.up.shape[0] for layer in content.values()}
    if len(counts) > 1:
        raise PairError(f"{path}: its content layers hold {sorted(counts)} pairs; export it again")


def _covering(content: Parsed, family: Family, path: Path) -> Family:
    """The family, which must have the content's layers too.

    Raises:
        PairError: A layer of the content branch is none of the style's family.
    """
    missing = [name for name in content.layers if known_name(name, family) is None]
    if missing:
        raise PairError(
            f"{path}: {printable(missing[0], 100)} of its content branch is no layer of {family.title}; export it again"
        )
    return family


def _check(parsed: Parsed, foreign: Foreign, path: Path, skip: bool) -> None:
    """Refuses what no option helps with, and what is only left out on request.

    Raises:
        PairError: Two tensors for one factor, a method that is no plain LoRA, no LoRA at all, or unknown names.
    """
    if parsed.twice:
        first, second = parsed.twice[0]
        raise PairError(
            f"{path}: {printable(first, 80)} and {printable(second, 80)} are the same factor of one layer; a file of "
            "several adapters cannot be read, save each in a file of its own"
        )
    if not parsed.layers and not foreign.all:
        raise PairError(f"{path}: holds no tensors at all; copy or download it again")
    if not parsed.layers and not foreign.methods:
        if foreign.additions and not foreign.unknown and FULL_WEIGHT not in foreign.additions.values():
            raise PairError(f"{path}: holds no LoRA layers, only {in_words(foreign.additions)}, which no verb converts")
        strangers = [*foreign.embeddings, *foreign.unknown]
        if strangers and all(key in foreign.embeddings or INVERSION.match(key) for key in strangers):
            raise PairError(f"{path}: is a textual inversion, no LoRA; the UIs read it from their folder of embeddings")
        raise PairError(
            f"{path}: holds no LoRA layers; is it a checkpoint? merge puts LoRAs into one, extract takes the "
            "difference of two"
        )
    if skip:
        return
    if foreign.methods:
        key, title = next(iter(foreign.methods.items()))
        others = set(parsed.layers) - foreign.layers - _incomplete(parsed)
        remedy = f"; {SKIP.format('such layers')}" if others else f"; {MERGE_IT}"
        reason = (
            f"is no plain LoRA: it holds tensors of {title} ({printable(key, 80)}), which cannot be converted exactly"
        )
        raise PairError(f"{path}: {reason}{remedy}")
    if foreign.unknown:
        raise PairError(
            f"{path}: {len(foreign.unknown)} tensors belong to no LoRA layer, the first is "
            f"{printable(next(iter(foreign.unknown)), 80)}; info lists them, and {SKIP.format('them')}"
        )


def find_family(parsed: Parsed, metadata: Mapping[str, str], wanted: str | None, path: Path) -> Proof:
    """The family of a file's layers; one that is wanted must know all their names, the others' widths must agree too.

    Raises:
        PairError: No family has all the layers, or none has them so.
    """
    covering = {
        family.name: names_in(parsed, family)
        for family in _families(wanted)
        if all(known_name(name, family) for name in parsed.layers)  # which ends at the first that it lacks
    }
    if not covering:
        raise PairError(_unknown(parsed, metadata, wanted, path))
    if wanted:
        return Proof(family_by_name(wanted), True, (wanted,))
    shapes = {
        name: (layer.tensors["up"].shape[_rows_axis(layer)], layer.tensors["down"].shape[1])
        for name, layer in parsed.layers.items()
        if {"down", "up"} <= layer.tensors.keys()
        and len(layer.tensors["down"].shape) > 1
        and len(layer.tensors["up"].shape) >= len(layer.tensors["down"].shape)
    }
    return prove(covering, shapes, metadata, path)


def _rows_axis(layer: RawLayer) -> int:
    """Axis of an up's rows: a content branch has its pairs before them."""
    return len(layer.tensors["up"].shape) - len(layer.tensors["down"].shape)


def _unknown(parsed: Parsed, metadata: Mapping[str, str], wanted: str | None, path: Path) -> str:
    nearest, missing = _nearest(parsed, metadata, wanted)
    first = f"the first is {printable(missing[0], 100)}"
    if wanted:
        return (
            f"{path}: {len(missing)} of {len(parsed.layers)} layers are unknown in {nearest.title}, "
            f"the family given (--family, or that of the other files); {first}; {SKIP.format('them')}"
        )
    if len(missing) == len(parsed.layers):
        known = ", ".join(family.title for family in FAMILIES.values())
        return f"{path}: its layers are of no model that is known here ({known}); {first}"
    count = f"{len(missing)} of {len(parsed.layers)} layers are unknown in {nearest.title}"
    return f"{path}: {count}; {first}; {SKIP.format('them')}"


def _families(wanted: str | None) -> list[Family]:
    return [family_by_name(wanted)] if wanted else list(FAMILIES.values())


def _nearest(parsed: Parsed, metadata: Mapping[str, str], wanted: str | None) -> tuple[Family, list[str]]:
    """The family that a file's metadata names, else the one with the fewest unknown layers, and those layers."""
    families, hint = _families(wanted), family_of_metadata(metadata)
    unknown: dict[str, list[str]] = {}
    # The named one first; and the first that knows them all is the nearest, whatever those after it know.
    for family in sorted(families, key=lambda family: family.name != hint):
        missing = [name for name in parsed.layers if known_name(name, family) is None]
        if not missing or (family.name == hint and len(missing) < len(parsed.layers)):
            return family, missing
        unknown[family.name] = missing
    nearest = min(families, key=lambda family: len(unknown[family.name]))
    return nearest, unknown[nearest.name]


FORMATS = {
    "kohya": "kohya", "kohya-diffusers": "kohya", "kohya-native": "kohya", "onetrainer": "onetrainer", "xflux": "xflux",
    "native": "comfyui", "native-split": "comfyui", "dotted": "diffusers", "omi": "omi",
    "original": "original",
}  # fmt: skip


def format_of(parsed: Parsed, family: Family) -> str:
    """kohya, diffusers (old suffixes), diffusers-peft (lora_A / lora_B), or another of ``FORMATS``."""
    styles = Counter(known.style for known in names_in(parsed, family).values())
    style = FORMATS[styles.most_common(1)[0][0]] if styles else "unknown"
    syntax = Counter(layer.syntax for layer in parsed.layers.values()).most_common(1)[0][0]
    return "diffusers-peft" if style == "diffusers" and syntax == "peft" else style
