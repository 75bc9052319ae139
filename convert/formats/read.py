"""Any LoRA file as an ``Adapter``: finds the format, the family and the layers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from convert.files.header import printable
from convert.files.lazy import Lazy, read_stored, reshaped
from convert.files.storage import open_tensors
from pair_network.errors import PairError
from pair_network.families import Family, family_of_metadata
from pair_network.network import checkpoint

from .families import FAMILIES, choose_family, family_by_name
from .layers import Adapter, Branch, Layer, needs_swap, row_ranges, swap_halves
from .names import Name, names_of
from .official_folder import official_files
from .parse import Parsed, RawLayer, kind_of_tensor, normal_name, parse_keys, suffix_of
from .peft_folder import AlphaOf, config_alphas, is_peft_key, open_peft, peft_folder


class UnknownNames(PairError):
    """Some of a file's tensors have names that no family gives to a LoRA's."""


def read_adapter(path: str | Path, family: str | None = None, allow_pickle: bool = False) -> Adapter:
    """The LoRA in a file (or in a folder: a PEFT adapter, an official release).

    Args:
        path: A .safetensors file, a folder with adapter_config.json, or one with the official release's files.
        family: Name of the model family, when the file leaves it open.
        allow_pickle: Also read pickles, through weights_only loading.

    Raises:
        PairError: Not a readable file, no LoRA, of a kind that is no plain LoRA, incomplete, or of an unknown family.
    """
    path = Path(path)
    release = official_files(path)
    if release is not None:
        return _official(path, *release, family)
    folder = peft_folder(path)
    if folder is not None:
        tensors, alphas, metadata = open_peft(folder, family)
        return _plain(path, tensors, metadata, family, alphas)
    tensors, metadata = open_tensors(path, allow_pickle)
    if checkpoint.is_pair_file(metadata):
        return _coupled(path, tensors, metadata, family)
    if tensors and all(is_peft_key(key) for key in tensors):
        raise PairError(
            f"{path}: is a PEFT adapter, whose scale stands in adapter_config.json; keep that file in the same folder"
        )
    return _plain(path, tensors, metadata, family, _adapter_alphas(metadata, path))


def read_known(path: str | Path, family: str | None = None, allow_pickle: bool = False) -> tuple[Adapter, list[str]]:
    """What ``read_adapter`` gives, also of a file with foreign names in it, and the tensors under those names.

    Raises:
        PairError: As ``read_adapter``, or no name at all is known.
    """
    try:
        return read_adapter(path, family, allow_pickle), []
    except UnknownNames:
        path = Path(path)
        tensors, metadata = open_tensors(path, allow_pickle)
        nearest = names_of(_nearest(parse_keys(tensors), metadata, family)[0])
        rows = {key: suffix_of(key) for key in tensors}
        known = {key: tensors[key] for key, row in rows.items() if row and normal_name(key[: -len(row[0])]) in nearest}
        if not known:
            raise
        adapter = _plain(path, known, metadata, family, _adapter_alphas(metadata, path))
        return adapter, [key for key in tensors if key not in known]


def _official(path: Path, style_file: Path, content_file: Path | None, family: str | None) -> Adapter:
    """Both branches of a release; its content ups get the axis of pairs that a coupled checkpoint has."""
    adapter = read_adapter(style_file, family)
    if content_file is not None:
        content = read_adapter(content_file, adapter.family.name).style
        adapter.content = {key: replace(x, up=reshaped(x.up, (1, *x.up.shape))) for key, x in content.items()}
    adapter.source = path
    return adapter


def _plain(
    path: Path, tensors: Mapping[str, Lazy], metadata: dict[str, str], family: str | None, alphas: AlphaOf
) -> Adapter:
    parsed = parse_keys(tensors)
    refuse_unexpected(parsed, path)
    chosen, is_sure = find_family(parsed, metadata, family, path)
    style, styles = _branch(parsed, chosen, path, alphas)
    return Adapter(chosen, style, {}, metadata, path, format_of(parsed, chosen), is_sure, styles=styles)


def _coupled(path: Path, tensors: Mapping[str, Lazy], metadata: dict[str, str], family: str | None) -> Adapter:
    try:
        config = checkpoint.read_config(metadata, str(path))
    except RecursionError as cause:
        raise PairError(f"{path}: the pair_network_config metadata is nested too deep; re-export the file") from cause
    branches: dict[str, dict[str, Lazy]] = {"content": {}, "style": {}}
    for key, tensor in tensors.items():
        name, _, rest = key.partition(".")
        if name not in branches:
            raise PairError(f"{path}: unexpected tensor {printable(key, 80)} in a coupled checkpoint")
        branches[name][rest] = tensor
    parsed = {name: parse_keys(values) for name, values in branches.items()}
    for part in parsed.values():
        refuse_unexpected(part, path)
    chosen, is_sure = find_family(parsed["style"], metadata, family, path)
    style, styles = _branch(parsed["style"], chosen, path, own_rank)
    content, _ = _branch(parsed["content"], chosen, path, own_rank)
    return Adapter(chosen, style, content, metadata, path, "pair", is_sure, config, styles)


def refuse_unexpected(parsed: Parsed, path: Path) -> None:
    for key in parsed.unexpected:
        kind = kind_of_tensor(key)
        if kind:
            raise PairError(f"{path}: is a {kind} ({printable(key, 80)}), only plain LoRA can be converted exactly")
    if not parsed.layers:
        raise PairError(f"{path}: holds no LoRA layers; is it a checkpoint? Those are for merge and extract")
    if parsed.unexpected:
        raise UnknownNames(
            f"{path}: {len(parsed.unexpected)} tensors belong to no LoRA layer, the first is "
            f"{printable(parsed.unexpected[0], 80)}; info lists them"
        )


def find_family(parsed: Parsed, metadata: Mapping[str, str], wanted: str | None, path: Path) -> tuple[Family, bool]:
    """The family whose names cover every layer of the file, and whether that is certain.

    Raises:
        PairError: No family does; the layer that the nearest one lacks is named.
    """
    families = _families(wanted)
    candidates = [family.name for family in families if all(name in names_of(family) for name in parsed.layers)]
    if not candidates:
        nearest, missing = _nearest(parsed, metadata, wanted)
        reason = "the family given (--family, or that of the other files)" if wanted else "the nearest family"
        raise UnknownNames(
            f"{path}: {len(missing)} of {len(parsed.layers)} layers are unknown in {nearest.title}, "
            f"{reason}; the first is {printable(missing[0], 100)}"
        )
    if wanted:
        return families[0], True
    # Names that several families understand are most likely those of the family that writes them so.
    candidates.sort(key=lambda name: any(names_of(FAMILIES[name])[layer].style in FOREIGN for layer in parsed.layers))
    names = names_of(FAMILIES[candidates[0]])
    inputs = {
        names[name].modules[0]: layer.tensors["down"].shape
        for name, layer in parsed.layers.items()
        if "down" in layer.tensors
    }
    return choose_family(candidates, inputs, metadata)


def _families(wanted: str | None) -> list[Family]:
    return [family_by_name(wanted)] if wanted else list(FAMILIES.values())


def _nearest(parsed: Parsed, metadata: Mapping[str, str], wanted: str | None) -> tuple[Family, list[str]]:
    """The family that a file's metadata names, else the one with the fewest unknown layers, and those layers."""
    unknown = {
        family.name: [name for name in parsed.layers if name not in names_of(family)] for family in _families(wanted)
    }
    hint = family_of_metadata(metadata)
    nearest = hint if hint is not None and hint in unknown else min(unknown, key=lambda name: len(unknown[name]))
    return FAMILIES[nearest], unknown[nearest]


def _branch(parsed: Parsed, family: Family, path: Path, alphas: AlphaOf) -> tuple[Branch, frozenset[str]]:
    names = names_of(family)
    branch: Branch = {}
    covered: Counter[str] = Counter()
    for name, raw in parsed.layers.items():
        known = names[name]
        layer = _layer(name, raw, known, path, alphas)
        branch[known.modules] = layer
        covered.update(known.modules)
    twice = [module for module, count in covered.items() if count > 1]
    if twice or len(branch) != len(parsed.layers):
        raise PairError(f"{path}: {(twice or ['a layer'])[0]} is given under two names; which one is meant is unclear")
    return branch, frozenset(names[name].style for name in parsed.layers)


def _layer(name: str, raw: RawLayer, known: Name, path: Path, alphas: AlphaOf) -> Layer:
    shown = printable(name, 100)
    if not {"down", "up"} <= set(raw.tensors):
        missing = sorted({"down", "up"} - set(raw.tensors))
        raise PairError(f"{path}: {shown} has no {' and no '.join(missing)} tensor; the file is incomplete")
    down, up = raw.tensors["down"], raw.tensors["up"]
    kernel = len(down.shape) - 2
    pairs = len(up.shape) - len(down.shape)
    if kernel not in (0, 2) or pairs not in (0, 1) or not (down.dtype.is_floating_point and up.dtype.is_floating_point):
        raise PairError(f"{path}: {shown} has tensors of shape {down.shape} and {up.shape}, which are no LoRA's")
    rank_axis = pairs + 1
    if (
        up.shape[rank_axis] != down.shape[0]
        or not down.shape[0]
        or any(size != 1 for size in up.shape[rank_axis + 1 :])
    ):
        raise PairError(f"{path}: {shown}: down {down.shape} and up {up.shape} do not multiply")
    if 0 in down.shape or 0 in up.shape:
        raise PairError(f"{path}: {shown} has tensors of shape {down.shape} and {up.shape}, which hold nothing")
    alpha = _alpha(raw, known, down.shape[0], alphas, f"{path}: {shown}")
    layer = Layer(known.modules, down, up, alpha)
    row_ranges(known.modules, layer.out_dim, path)  # raises where a joint layer's rows are not its parts'
    return swap_halves(layer) if known.swaps and needs_swap(layer) else layer


def _alpha(raw: RawLayer, known: Name, rank: int, alphas: AlphaOf, where: str) -> float:
    """The alpha tensor, else the one of a PEFT config, else the rank."""
    if "alpha" not in raw.tensors:
        return alphas(known.modules[0], rank)
    stored = raw.tensors["alpha"]
    if stored.nbytes != stored.dtype.itemsize:
        raise PairError(f"{where}: alpha has shape {stored.shape}, one number is needed")
    alpha = float(stored.load() if stored.stored is None else read_stored(stored.stored, checked=False))
    if alpha != alpha or abs(alpha) == float("inf"):
        raise PairError(f"{where}: alpha is {alpha}; the file is damaged")
    return alpha


def own_rank(module: str, rank: int) -> float:
    """Alpha where a file says nothing: the scale is 1."""
    return float(rank)


def _adapter_alphas(metadata: Mapping[str, str], path: Path) -> AlphaOf:
    """Alphas of diffusers' ``lora_adapter_metadata``: the settings of PEFT, prefixed with the component."""
    if "lora_adapter_metadata" not in metadata:
        return own_rank
    try:
        values = dict(json.loads(metadata["lora_adapter_metadata"]))
    except (ValueError, TypeError, RecursionError) as cause:
        raise PairError(f"{path}: its lora_adapter_metadata cannot be read ({printable(str(cause), 80)})") from cause
    configs: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        component, _, setting = key.partition(".")
        configs.setdefault(component, {})[setting] = value
    return config_alphas(configs, path)


FOREIGN = ("kohya-native", "kohya-diffusers")
FORMATS = {
    "kohya": "kohya", "kohya-diffusers": "kohya", "kohya-native": "kohya", "onetrainer": "onetrainer", "xflux": "xflux",
    "native": "comfyui", "dotted": "diffusers",
}  # fmt: skip


def format_of(parsed: Parsed, family: Family) -> str:
    """kohya, diffusers (old suffixes), diffusers-peft (lora_A / lora_B), comfyui, onetrainer or xflux."""
    names = names_of(family)
    styles = Counter(names[name].style for name in parsed.layers if name in names)
    style = FORMATS[styles.most_common(1)[0][0]] if styles else "unknown"
    syntax = Counter(layer.syntax for layer in parsed.layers.values()).most_common(1)[0][0]
    return "diffusers-peft" if style == "diffusers" and syntax == "peft" else style
