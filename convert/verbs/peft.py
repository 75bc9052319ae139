"""Any LoRA → PEFT's adapter folder, bit by bit: ranks and alphas stand in its adapter_config.json."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from convert import verify
from convert.conversion import Conversion
from convert.files.writer import write_tensors
from convert.formats import metadata
from convert.formats.layers import Layer, by_module
from convert.formats.peft_folder import CONFIG, ROOT, WEIGHTS
from convert.options import OfBranch, chosen_branch, read_source
from pair_network.files import atomic_folder

SUFFIX = "-peft"


def convert(source: Path, target: Path, options: OfBranch) -> list[Path]:
    """Writes ``source`` as the folder ``target``; one sub-folder for each model where there are several.

    Returns:
        The folder.
    """
    adapter = read_source(source, options)
    components: dict[str, dict[str, Layer]] = {}
    branch = by_module(chosen_branch(adapter, options), source)
    for (module,), layer in branch.items():
        component, _, path = module.partition(".")
        components.setdefault(component, {})[path] = layer
    values = {**metadata.converted(adapter, "peft"), "format": "pt"}
    metadata.correct_rank(values, branch)
    with atomic_folder(target) as folder:
        for component, layers in components.items():
            # A denoiser alone lies in the folder itself, so that PeftModel.from_pretrained(unet, folder) finds it.
            alone = len(components) == 1 and component == adapter.family.component
            _write(folder if alone else folder / component, layers, values)
    return [target]


def _write(folder: Path, layers: Mapping[str, Layer], values: Mapping[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    tensors = {}
    for path, layer in layers.items():
        tensors[f"{ROOT}{path}.lora_A.weight"] = layer.down
        tensors[f"{ROOT}{path}.lora_B.weight"] = layer.up
    write_tensors(folder / WEIGHTS, tensors, values)
    (folder / CONFIG).write_text(json.dumps(peft_config(layers), indent=2), encoding="utf-8")


def peft_config(layers: Mapping[str, Layer]) -> dict[str, object]:
    """PEFT's settings: the commonest rank and alpha, and patterns for the layers that differ."""
    rank = Counter(layer.rank for layer in layers.values()).most_common(1)[0][0]
    alpha = Counter(layer.alpha for layer in layers.values()).most_common(1)[0][0]
    # "^": a bare path would also match every longer path that ends in it.
    return {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{path}": layer.rank for path, layer in layers.items() if layer.rank != rank},
        "alpha_pattern": {f"^{path}": layer.alpha for path, layer in layers.items() if layer.alpha != alpha},
        # One expression, matched as a whole: a list would match by ending, and so reach other layers too.
        "target_modules": "|".join(re.escape(path) for path in layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


VERB = Conversion(__doc__, OfBranch, SUFFIX, convert, verify.same)
