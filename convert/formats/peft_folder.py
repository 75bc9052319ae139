"""PEFT's adapter folders: adapter_model.safetensors with its scale in adapter_config.json."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from convert.files.header import printable
from convert.files.lazy import Lazy
from convert.files.storage import open_tensors
from pair_network.errors import PairError

from .families import FAMILIES, family_by_name
from .names import peft_modules

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
ROOT = "base_model.model."
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
MAX_CONFIG = 10_000_000
OPEN_CLIP_WIDTH = 1280  # CLIP bigG, SDXL's and SD3's second text encoder

# Alpha of a module (with component) of a given rank.
AlphaOf = Callable[[str, int], float]


def is_peft_key(key: str) -> bool:
    return key.startswith(ROOT)


def peft_folder(path: Path) -> Path | None:
    """The adapter folder that a path means, or None: the folder itself, or the weights in it."""
    if path.is_dir():
        has_config = (path / CONFIG).is_file() or any((path / name / CONFIG).is_file() for name in COMPONENTS)
        if not has_config:
            raise PairError(
                f"{path}: is a folder without {CONFIG}, so no PEFT adapter; name a file, or use batch for a folder"
            )
        return path
    return path.parent if path.name == WEIGHTS and (path.parent / CONFIG).is_file() else None


def open_peft(folder: Path, family: str | None) -> tuple[dict[str, Lazy], AlphaOf, dict[str, str]]:
    """Tensors under diffusers' names with component, alphas, and the weights' metadata, of one or several adapters.

    Raises:
        PairError: A part is missing, or holds something else than a plain LoRA of a known model.
    """
    parts = (
        [folder] if (folder / CONFIG).is_file() else [folder / name for name in COMPONENTS if (folder / name).is_dir()]
    )
    tensors: dict[str, Lazy] = {}
    configs: dict[str, dict[str, Any]] = {}
    metadata: dict[str, str] = {}
    for part in parts:
        own, found = open_tensors(part / WEIGHTS)
        component = _component(part, own, family)
        configs[component] = read_config(part / CONFIG)
        metadata.update(found)
        tensors.update({f"{component}.{key.removeprefix(ROOT)}": tensor for key, tensor in own.items()})
    return tensors, config_alphas(configs, folder), metadata


def read_config(path: Path) -> dict[str, Any]:
    """adapter_config.json of a plain LoRA.

    Raises:
        PairError: Unreadable, or another method than LoRA, or settings that change the delta in other ways.
    """
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise PairError(f"{path}: is larger than {MAX_CONFIG} bytes, which no adapter's settings are")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as cause:
        raise PairError(f"{path}: cannot be read ({printable(str(cause), 80)})") from cause
    if not isinstance(values, dict):
        raise PairError(f"{path}: holds no settings")
    if values.get("peft_type") != "LORA" or values.get("use_dora") or values.get("fan_in_fan_out"):
        raise PairError(
            f"{path}: only plain LoRA adapters can be converted (no DoRA, no fan_in_fan_out, no other method)"
        )
    return values


def config_alphas(configs: Mapping[str, Mapping[str, Any]], source: Path) -> AlphaOf:
    """Alphas by PEFT's rules: ``alpha_pattern`` and ``rank_pattern`` first, scaled by √rank with ``use_rslora``."""
    patterns = {
        component: {name: _Patterns(config.get(name), source) for name in ("alpha_pattern", "rank_pattern")}
        for component, config in configs.items()
    }

    def alpha_of(module: str, rank: int) -> float:
        component, _, path = module.partition(".")
        config = configs.get(component)
        if not config:
            return float(rank)
        own = patterns[component]
        alpha = _number(own["alpha_pattern"].of(path, config.get("lora_alpha", rank)), source, may_be_zero=True)
        told_rank = _number(own["rank_pattern"].of(path, config.get("r", rank)), source)
        return alpha / (math.sqrt(told_rank) if config.get("use_rslora") else told_rank) * rank

    return alpha_of


class _Patterns:
    """PEFT's rank or alpha pattern: values by a layer's path, or by its end where the pattern is not anchored."""

    def __init__(self, values: Any, source: Path):
        if not isinstance(values, (dict, type(None))):
            raise PairError(f"{source}: a rank or alpha pattern is no map from layer names to numbers")
        self.values: dict[tuple[bool, str], tuple[int, Any]] = {}
        for order, (pattern, value) in enumerate((values or {}).items()):
            # PEFT reads regular expressions; one from a foreign file could run for ever, so only names are taken.
            if re.search(r"[*+?(){}|\[\]]", pattern):
                raise PairError(
                    f"{source}: the pattern {printable(pattern, 60)} is no layer name; export it with names"
                )
            name = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
            self.values.setdefault((pattern.startswith("^"), name), (order, value))

    def of(self, path: str, default: Any) -> Any:
        """Value of the first pattern that names the layer."""
        parts = path.split(".")
        keys = [(True, path), *((False, ".".join(parts[start:])) for start in range(len(parts)))]
        found = [self.values[key] for key in keys if key in self.values]
        return min(found, key=lambda entry: entry[0])[1] if found else default


def _number(value: Any, source: Path, may_be_zero: bool = False) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not (value or may_be_zero):
        raise PairError(f"{source}: {printable(str(value), 40)} is no rank or alpha")
    return float(value)


def _component(folder: Path, tensors: Mapping[str, Lazy], family: str | None) -> str:
    """The model that an adapter belongs to: its folder's name, else the only one that has such layers."""
    if folder.name in COMPONENTS:
        return folder.name
    modules = [re.sub(r"\.lora_[AB].*", "", key.removeprefix(ROOT)) for key in tensors]
    families = [family_by_name(family)] if family else list(FAMILIES.values())
    found: set[str] = set()
    for known in (peft_modules(each) for each in families):
        if all(module in known for module in modules):
            found.update(target.partition(".")[0] for target in known[modules[0]])
    if found == {"text_encoder", "text_encoder_2"} and any(OPEN_CLIP_WIDTH in t.shape for t in tensors.values()):
        return "text_encoder_2"
    if not found:
        raise PairError(f"{folder}: its layers ({printable(modules[0], 60)} …) are of no model that is known here")
    return min(found)
