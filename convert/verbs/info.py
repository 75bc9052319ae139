"""What a file is: format, family, ranks, layers, orthogonality, norms, hashes, and what each UI will make of it."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from convert import verify
from convert.command import Command
from convert.conversion import Conversion
from convert.files.hashes import data_hash, file_hash
from convert.files.storage import open_tensors
from convert.formats import metadata
from convert.formats.families import COMPONENTS
from convert.formats.foreign import INCOMPLETE, UNKNOWN
from convert.formats.layers import ORTHONORMAL, Adapter, Branch
from convert.formats.match import match_all
from convert.formats.measures import branch_overlap, delta_norm, flat, gram_defect
from convert.formats.names import kind_of
from convert.formats.official_folder import SDXL_LAYERS, official_files
from convert.formats.peft_folder import ROOT, peft_folder, weights_of
from convert.formats.proof import said_of_model
from convert.options import Reading, Writing, as_given
from pair_network.errors import PairError
from pair_network.files import write_text
from pair_network.options import option

from .info_text import Content, Report, Rows, Use, text_of

SUFFIX = "-info.json"  # not NAME.json: that is A1111's card
EXAMPLES = 5  # names listed of tensors that are unknown
# Left out here, but no more known to the UIs, which count them as unexpected.
NOT_READ = (UNKNOWN, INCOMPLETE)
TITLES = {
    "kohya": "kohya LoRA",
    "diffusers": "diffusers LoRA (lora.down / lora.up)",
    "diffusers-peft": "diffusers LoRA (lora_A / lora_B)",
    "comfyui": "ComfyUI LoRA (diffusion_model.)",
    "onetrainer": "OneTrainer LoRA",
    "omi": "OneTrainer LoRA (OMI)",
    "original": "LoRA in the original model's names",
    "xflux": "xflux LoRA",
    "pair": "coupled Pair Network checkpoint",
    "peft": "PEFT adapter",
}


@dataclass(frozen=True)
class Options(Reading):
    """The options of the verb."""

    inputs: Sequence[Path] = option((), "", Path, is_positional=True, nargs="+", metavar="FILE")
    json: bool = option(False, "one JSON list on standard output")
    blocks: bool = option(False, "also the norm of the delta in every block")


@dataclass(frozen=True)
class BatchOptions(Writing, Reading):
    """The options of a batch, which writes each report, blocks included, as a JSON file."""

    overwrite: bool = option(False, "replace reports that exist")
    verify: bool = False  # nothing is converted


def convert(source: Path, target: Path, options: BatchOptions) -> list[Path]:
    """Writes the report on ``source``; returns what was written."""
    report = describe(source, options)
    write_text(target, json.dumps(report, indent=2, ensure_ascii=False), errors="backslashreplace")
    return [target]


def run(options: Options) -> int:
    """Prints a report on every file; returns the exit status, 1 if one could not be read."""
    reports, failures = [], 0
    for path in options.inputs:
        try:
            reports.append(describe(path, options))
        except PairError as error:
            failures += 1
            print(f"error: {error}", file=sys.stderr)
            reports.append({"file": str(path), "error": str(error)})
    if options.json:
        print(json.dumps(reports, indent=2))
    elif failures < len(reports):
        print("\n\n".join(text_of(report, options.blocks) for report in reports if "error" not in report))
    return int(failures > 0)


def describe(path: Path, options: Reading) -> Report:
    """All facts about one file, as JSON knows them."""
    adapter = as_given(path, replace(options, skip_unknown=True))
    file = _weights(path)
    with ThreadPoolExecutor(1) as pool:
        hashes = pool.submit(_hashes, file) if file.is_file() else None  # while the norms are computed
        report: Report = {"file": str(path), **_identity(adapter, path), **_layers(adapter)}
        unknown = [key for key, what in adapter.left_out.items() if what in NOT_READ]
        if unknown:
            report["unknown"] = {"tensors": len(unknown), "examples": unknown[:EXAMPLES]}
        beside = Counter(what for what in adapter.left_out.values() if what not in NOT_READ)
        if beside:
            report["beside"] = dict(beside)
        if adapter.content:
            report["content"] = _content(adapter)
        report["rows"] = _rows(adapter.style)
        report["blocks"] = {block: round(norm, 6) for block, norm in block_norms(adapter.style).items()}
        if hashes is not None:
            report["hashes"] = hashes.result()
            report["uis"] = _uis(file, adapter, options)
    return report


def _weights(path: Path) -> Path:
    """The file of tensors that a path means; of a folder with several, the denoiser's or the style's."""
    release = official_files(path)
    if release is not None:
        return release[0]
    parts = (path, *(path / name for name in COMPONENTS))
    return next((file for part in parts if (file := weights_of(part))), path)


def _identity(adapter: Adapter, path: Path) -> Report:
    values = adapter.metadata
    is_peft = adapter.format != "pair" and official_files(path) is None and peft_folder(path) is not None
    return {
        "format": "peft" if is_peft else adapter.format,
        "title": _title(adapter, is_peft),
        "family": adapter.family.name,
        "family_is_certain": adapter.is_sure,
        "said_of_model": said_of_model(values),
        "trigger_words": metadata.trigger_words(values),
        "training_tags": metadata.training_tags(values),
        "output_name": values.get("ss_output_name", ""),
        "base_model": values.get("ss_sd_model_name", ""),
        "history": values.get(metadata.HISTORY_KEY, ""),
    }


def _title(adapter: Adapter, is_peft: bool) -> str:
    """The format in words, with the tool that wrote it where the file tells."""
    if is_peft:
        return TITLES["peft"]
    if adapter.format == "xflux":
        return "official PairCustomization FLUX release (xflux)"
    if is_official_sdxl(adapter):
        return "official PairCustomization SDXL release (diffusers, lora.down / lora.up)"
    title = TITLES.get(adapter.format, adapter.format)
    if adapter.metadata.get("ss_network_module") == "network.lora":
        return f"{title}, written by traintrain"
    return f"{title}, written by ai-toolkit" if "ai-toolkit" in adapter.metadata.get("software", "") else title


def is_official_sdxl(adapter: Adapter) -> bool:
    """The release's fingerprint: SDXL attention only, and one block of orthonormal rows for each input width."""
    if adapter.family.name != "sdxl" or adapter.format != "diffusers" or adapter.content:
        return False
    by_width: dict[int, np.ndarray] = {}
    for (module,), layer in adapter.style.items():
        down = layer.down.numbers()
        if not module.endswith(SDXL_LAYERS) or not np.array_equal(by_width.setdefault(down.shape[1], down), down):
            return False
    return all(gram_defect(flat(down)) < ORTHONORMAL for down in by_width.values())


def _layers(adapter: Adapter) -> Report:
    layers = adapter.style.values()
    modules = [module for layer in layers for module in layer.modules]
    return {
        "layers": len(adapter.style),
        "parameters": sum(math.prod(t.shape) for layer in layers for t in (layer.down, layer.up)),
        "dtypes": dict(Counter(t.element.torch_name for layer in layers for t in (layer.down, layer.up))),
        "ranks": {str(rank): count for rank, count in sorted(Counter(layer.rank for layer in layers).items())},
        "alphas": {f"{alpha:g}": count for alpha, count in sorted(Counter(layer.alpha for layer in layers).items())},
        "targets": dict(Counter(kind_of(module) for module in modules)),
    }


def _content(adapter: Adapter) -> Content:
    first = next(iter(adapter.content.values()))
    overlap = defect = 0.0
    for key, layer in adapter.content.items():
        if key in adapter.style:
            style, content = flat(adapter.style[key].down.numbers()), flat(layer.down.numbers())
            overlap = max(overlap, branch_overlap(content, style))
            defect = max(defect, gram_defect(np.concatenate([style, content])))
    return {
        "pairs": first.up.shape[0],
        "ranks": {
            str(rank): count for rank, count in sorted(Counter(x.rank for x in adapter.content.values()).items())
        },
        "branch_overlap": overlap,
        "gram_defect": defect,
        "orthogonality": adapter.config.orthogonality if adapter.config else "",
    }


def _rows(branch: Branch) -> Rows:
    """How far the style rows are from orthonormal: 0 where they are frozen rows of a basis."""
    defect = max((gram_defect(flat(layer.down.numbers())) for layer in branch.values()), default=0.0)
    return {"gram_defect": defect, "are_orthonormal": defect < ORTHONORMAL}


def block_norms(branch: Branch) -> dict[str, float]:
    """Frobenius norm of the delta of each block, in the model's order of names."""
    squares: dict[str, float] = {}
    for modules, layer in branch.items():
        block = _block(modules[0])
        squares[block] = squares.get(block, 0.0) + delta_norm(layer) ** 2
    return {block: value**0.5 for block, value in sorted(squares.items())}


def _block(module: str) -> str:
    component, _, path = module.partition(".")
    parts = path.split(".")
    if component.startswith("text_encoder"):
        return component
    return ".".join(parts[:2]) if len(parts) > 1 and parts[1].isdigit() else parts[0]


def _hashes(file: Path) -> dict[str, str]:
    whole = file_hash(file)
    hashes = {"sha256": whole, "autov2": whole[:10]}
    if file.suffix == ".safetensors":
        data = data_hash(file)
        stored = open_tensors(file)[1].get("sshs_model_hash", "")
        # A1111 believes the metadata and hashes the bytes behind the header only where it says nothing.
        hashes.update(data_sha256=data, a1111=(stored or data)[:12], stored_hash_is_right=str(stored in ("", data)))
    return hashes


def _uis(file: Path, adapter: Adapter, options: Reading) -> dict[str, Use]:
    tensors, values = open_tensors(file, options.allow_pickle)
    beside = {key for key, what in adapter.left_out.items() if what not in NOT_READ}
    tensors = {key: tensor for key, tensor in tensors.items() if key not in beside}
    keys = [key.removeprefix(ROOT) if key.startswith(ROOT) else key for key in tensors]
    if adapter.format == "pair" or any(key.startswith(ROOT) for key in tensors):
        keys = list(tensors)  # under these names no UI finds anything
    return {
        match.ui: {"matched": match.matched, "total": match.total, "verdict": match.verdict, "examples": match.examples}
        for match in match_all(keys, adapter.family, values)
    }


VERB = Command(__doc__, Options, run, Conversion(__doc__, BatchOptions, SUFFIX, convert, verify.readable))
