"""PEFT's adapter folders: adapter_model.safetensors with its scale in adapter_config.json."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from convert.files.lazy import Lazy
from convert.files.storage import open_tensors
from pair_network.errors import PairError, printable
from pair_network.families import Family
from pair_network.reading import read_json_table

from .families import COMPONENTS, FAMILIES, family_by_name
from .parse import suffix_of
from .spelling import known_name

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PICKLED = "adapter_model.bin"  # PEFT's name for weights before it wrote safetensors
ROOT = "base_model.model."
WRAPPER = re.compile(r"(?:(?<=\.)|^)base_model\.model\.")
OPEN_CLIP_WIDTH = 1280  # CLIP bigG, SDXL's and SD3's second text encoder

# Alpha of a layer by its name in the file, its module (with component) and its rank.
AlphaOf = Callable[[str, str, int], float]

# Settings that leave the delta at scale · B · A, with the values that do; in a plain LoRA all others are unset.
PLAIN_SETTINGS: dict[str, tuple[object, ...]] = {
    # PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA take the first factors out of the base's weights, which B · A then lacks.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "mica"),
    "bias": ("none", None),
    "megatron_core": ("megatron.core", None),
}
# Read elsewhere, or of no consequence once the training is over.
FREE_SETTINGS = frozenset((
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "runtime_config", "qalora_group_size",
    "ensure_weight_tying", "eva_config", "loftq_config", "corda_config", "lora_ga_config",
))  # fmt: skip
# What these add lies in tensors of its own, so that leaving those out leaves a plain LoRA.
SEPARATE = ("bias", "lora_bias", "modules_to_save", "trainable_token_indices")


def peft_folder(path: Path) -> Path | None:
    """The adapter folder that a path means, or None: the folder itself, or the weights in it."""
    if path.is_dir():
        if not has_config(path):
            raise PairError(
                f"{path}: is a folder without {CONFIG}, so no PEFT adapter; name a file, or use batch for a folder"
            )
        return path
    return path.parent if path.name in (WEIGHTS, PICKLED) and (path.parent / CONFIG).is_file() else None


def weights_of(folder: Path) -> Path | None:
    """An adapter's weights, or None where the folder has none."""
    return next((folder / name for name in (WEIGHTS, PICKLED) if (folder / name).is_file()), None)


def no_settings(path: Path) -> str:
    """Why an adapter's weights in a file of this name cannot be read, and what helps."""
    reason = f"{path}: is a PEFT adapter, whose scale stands in {CONFIG}"
    if has_config(path.parent):
        return f"{reason}; name the weights {WEIGHTS}, as PEFT does, beside their {CONFIG}"
    return (
        f"{reason}; keep that file in the same folder, the weights as {WEIGHTS}; where it is lost and you know rank "
        f'and alpha, write one: {{"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}}'
    )


def has_config(folder: Path) -> bool:
    """Whether a folder is an adapter, or has one for each of several models."""
    return any((place / CONFIG).is_file() for place in (folder, *(folder / name for name in COMPONENTS)))


def open_peft(
    folder: Path, family: str | None, skip_unknown: bool = False, allow_pickle: bool = False
) -> tuple[dict[str, Lazy], AlphaOf, dict[str, str]]:
    """Tensors under names with component, alphas, and the weights' metadata, of one or several adapters.

    Raises:
        PairError: A part is missing, or holds something else than a plain LoRA of a known model.
    """
    parts = (
        [folder] if (folder / CONFIG).is_file() else [folder / name for name in COMPONENTS if (folder / name).is_dir()]
    )
    tensors: dict[str, Lazy] = {}
    configs: dict[str, dict[str, object]] = {}
    metadata: dict[str, str] = {}
    for part in parts:
        weights = weights_of(part)
        if weights is None:
            raise PairError(f"{part}: holds {CONFIG}, and no {WEIGHTS}, as PEFT names the weights; name them so")
        own, found = open_tensors(weights, allow_pickle)
        prefix = _prefix(part, own, family)
        config = read_config(part / CONFIG, skip_unknown)
        configs.update(dict.fromkeys(COMPONENTS if len(parts) == 1 else [part.name], config))
        metadata.update(found)
        tensors.update({prefix + key.removeprefix(ROOT): tensor for key, tensor in own.items()})
    return tensors, config_alphas(configs, folder), metadata


def read_config(path: Path, skip_unknown: bool) -> dict[str, object]:
    """adapter_config.json of a plain LoRA.

    Args:
        path: The file.
        skip_unknown: What a setting adds in tensors of its own is left out.

    Raises:
        PairError: Unreadable, or another method than LoRA, or settings that change the delta in other ways.
    """
    values = read_json_table(path, remedy="copy it again from where the training saved it")
    if values.get("peft_type") != "LORA":
        raise PairError(
            f"{path}: its method is {printable(str(values.get('peft_type')), 40)}; only plain LoRA can be converted"
        )
    check_settings(values, path, skip_unknown)
    return values


def check_settings(values: Mapping[str, object], source: Path, skip_unknown: bool) -> None:
    """Refuses an adapter whose delta is not scale · B · A, by the settings that PEFT keeps with it.

    Raises:
        PairError: A setting that is none of the plain ones, or has another value than they.
    """
    for name, value in values.items():
        if name in FREE_SETTINGS or (skip_unknown and name in SEPARATE):
            continue
        # 1 == True in Python, and PEFT takes the one for the other.
        if value in PLAIN_SETTINGS.get(name, ()) or (name not in PLAIN_SETTINGS and not value):
            continue
        remedy = "pass --skip-unknown to leave out what it adds" if name in SEPARATE else _remedy(name)
        shown = f"{printable(name, 40)} = {printable(str(value), 60)}"
        raise PairError(f"{source}: is no plain LoRA ({shown}), so its factors alone are not the change; {remedy}")


def _remedy(name: str) -> str:
    if name == "init_lora_weights":
        return "save it in PEFT with save_pretrained(…, path_initial_model_for_weight_conversion=…), which makes one"
    return "merge it into its model with PEFT, and use extract on the two models"


def config_alphas(configs: Mapping[str, Mapping[str, object]], source: Path) -> AlphaOf:
    """Alphas by PEFT's rules: ``alpha_pattern`` and ``rank_pattern`` first, scaled by √rank with ``use_rslora``."""
    patterns = {
        component: {name: _Patterns(config.get(name), source) for name in ("alpha_pattern", "rank_pattern")}
        for component, config in configs.items()
    }

    def alpha_of(name: str, module: str, rank: int) -> float:
        component, _, path = module.partition(".")
        config = configs.get(component)
        if not config:
            return float(rank)
        # Patterns name the layers of what was trained: a model, with the original's paths or diffusers', or a pipeline.
        plain = WRAPPER.sub("", name)
        paths = (plain.partition(".")[2], path, plain)
        own = patterns[component]
        alpha = _number(own["alpha_pattern"].of(paths, config.get("lora_alpha", rank)), source, may_be_zero=True)
        told_rank = _number(own["rank_pattern"].of(paths, config.get("r", rank)), source)
        return alpha / (math.sqrt(told_rank) if config.get("use_rslora") else told_rank) * rank

    return alpha_of


class _Patterns:
    """PEFT's rank or alpha pattern: values by a layer's path, or by its end where the pattern is not anchored."""

    def __init__(self, values: object, source: Path):
        if not isinstance(values, (dict, type(None))):
            raise PairError(f"{source}: a rank or alpha pattern is no map from layer names to numbers")
        self.values: dict[tuple[bool, str], tuple[int, object]] = {}
        for order, (pattern, value) in enumerate((values or {}).items()):
            # PEFT reads regular expressions; one from a foreign file could run for ever, so only names are taken.
            if re.search(r"[*+?(){}|\[\]]", pattern):
                raise PairError(
                    f"{source}: the pattern {printable(pattern, 60)} is no layer name; export it with names"
                )
            name = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
            self.values.setdefault((pattern.startswith("^"), name), (order, value))

    def of(self, paths: Sequence[str], default: object) -> object:
        """Value of the first pattern that names the layer, by any of its paths."""
        keys = [(True, path) for path in paths]
        for path in paths:
            parts = path.split(".")
            keys += [(False, ".".join(parts[start:])) for start in range(len(parts))]
        found = [self.values[key] for key in keys if key in self.values]
        return min(found, key=lambda entry: entry[0])[1] if found else default


def _number(value: object, source: Path, may_be_zero: bool = False) -> float:
    # JSON's whole numbers have as many digits as they like; NaN is not below anything.
    is_number = isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    if not is_number or isinstance(value, bool) or not (value or may_be_zero):
        raise PairError(f"{source}: {printable(str(value), 40)} is no rank or alpha")
    assert isinstance(value, (int, float))
    return float(value)


def _prefix(folder: Path, tensors: Mapping[str, Lazy], family: str | None) -> str:
    """What an adapter's names lack before them: its model, or "" where they name it themselves.

    The model is the folder's name, else that with the most of its layers.
    """
    modules = list(dict.fromkeys(key.removeprefix(ROOT)[: -len(row[0])] for key in tensors if (row := suffix_of(key))))
    known: Counter[str] = Counter()
    for each in [family_by_name(family)] if family else FAMILIES.values():
        components = {each.component, *(encoder.component for encoder in each.text_encoders)}
        for component in components & {folder.name} if folder.name in COMPONENTS else components:
            prefix = f"{component}."
            known[prefix] = max(known[prefix], _count(modules, prefix, each))
        known[""] = max(known[""], _count(modules, "", each))
    most = max(known.values())
    if not most:
        first = printable(next(iter(modules), "none"), 60)
        raise PairError(f"{folder}: its layers ({first} …) are of no model that is known here")
    found = {prefix for prefix, count in known.items() if count == most}
    if {"text_encoder.", "text_encoder_2."} <= found and any(OPEN_CLIP_WIDTH in t.shape for t in tensors.values()):
        return "text_encoder_2."
    return min(found - {""} or found)


def _count(modules: Sequence[str], prefix: str, family: Family) -> int:
    """How many of the modules the family has under this prefix."""
    return sum(known_name(prefix + module, family) is not None for module in modules)
