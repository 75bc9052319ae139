"""What kohya_ss GUI saves, as options of a pair training; what has no place there is told key by key.

The GUI writes two kinds of file: ``config_lora-DATE.toml`` for every training, in sd-scripts' names with a few of its
own, and the JSON of "Save config", in the names of its fields. A JSON holds the fields of every family's tab; as in the
GUI itself, those of the ticked family count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import toml

from pair_network.errors import PairError
from pair_network.files import write_text
from pair_network.reading import read_json

# Option of a host -> what reads its value; None: text, or a switch.
Kinds = Mapping[str, Callable[[str], object] | None]
# A field of the JSON -> sd-scripts' option, where the names differ.
OPTION_OF_FIELD = {
    "max_resolution": "resolution",
    "optimizer": "optimizer_type",
    "lora_network_weights": "network_weights",
    "model_path": "pretrained_model_name_or_path",
}
# A field that is ticked -> the model's type.
TYPE_OF_FIELD = {
    "sdxl": "sdxl", "flux1_checkbox": "flux", "sd3_checkbox": "sd3", "lumina_checkbox": "lumina",
    "hunyuan_image_checkbox": "hunyuan_image", "anima_checkbox": "anima",
}  # fmt: skip
# What the names of a family's fields begin with; the option's name follows.
TYPE_OF_PREFIX = {
    "sdxl_": "sdxl", "flux1_": "flux", "sd3_": "sd3", "lumina_": "lumina", "hunyuan_image_": "hunyuan_image",
    "hunyuan_": "hunyuan_image", "anima_": "anima",
}  # fmt: skip
# A family's fields that bear sd-scripts' names as they are.
FIELDS_OF_TYPE = {
    "flux": (
        "model_type", "ae", "clip_l", "t5xxl", "discrete_flow_shift", "model_prediction_type", "timestep_sampling",
        "split_mode", "t5xxl_max_token_length", "guidance_scale", "mem_eff_save", "apply_t5_attn_mask",
        "cpu_offload_checkpointing", "single_blocks_to_swap", "double_blocks_to_swap", "fp8_base_unet",
    ),
    "sd3": (
        "clip_g", "clip_g_dropout_rate", "logit_mean", "logit_std", "mode_scale", "pos_emb_random_crop_rate",
        "save_clip", "save_t5xxl", "t5xxl_device", "t5xxl_dtype", "weighting_scheme",
    ),
}  # fmt: skip
# Fields that count under one kind of noise offset alone.
NOISE_FIELDS = {
    "Original": ("noise_offset", "noise_offset_random_strength", "adaptive_noise_scale"),
    "Multires": ("multires_noise_iterations", "multires_noise_discount"),
}
# A file that only one family needs -> the model's type; the TOML tells it by nothing else.
TYPE_OF_FILE = {"gemma2": "lumina", "qwen3": "anima", "byt5": "hunyuan_image", "clip_g": "sd3", "ae": "flux"}
# Fields that choose what the GUI starts; a pair training has its own.
NOT_CARRIED = {
    "train_data_dir": "name your pair with --content and --style, or --dataset_config",
    "reg_data_dir": "the content branch does what regularisation images are for",
    "prior_loss_weight": "it weighs regularisation images, of which pairs have none",
    "network_module": "pair training has its own, pair_network",
    "LoRA_type": "pair training has plain LoRA layers",
    "network_args": "they are those of another network module; see docs/kohya.md for their counterparts",
    "conv_dim": "convolutions are a target: --network_args targets=attention+conv",
    "conv_alpha": "one alpha holds for all layers, network_alpha",
    "text_encoder_lr": "text encoders stay frozen; --network_args targets=attention+text_encoder trains them",
    "t5xxl_lr": "text encoders stay frozen; --network_args targets=attention+text_encoder+t5 trains them",
    "loraplus_lr_ratio": "both factors of a layer learn at one rate",
    "stop_text_encoder_training": "text encoders stay frozen, unless they are a target",
    "additional_parameters": "write them on the command line",
    "color_aug": "it would recolour the two images of a pair differently",
    "random_crop": "it would crop the two images of a pair differently",
    "log_config": "it prints the GUI's own settings",
    "noise_offset_type": "noise_offset and the multires options say it",
}
# The GUI leaves out what is 0, as it does what is empty, but for these.
COUNTS_AT_ZERO = ("max_data_loader_n_workers", "guidance_scale")
# A value that says what leaving the option out says, and that sd-scripts' own parser does not take.
AS_LEFT_OUT = {"max_token_length": 75, "dynamo_backend": "no"}
LISTS = ("optimizer_args", "lr_scheduler_args")


def is_gui_config(values: Mapping[str, object]) -> bool:
    """Whether a file's keys are the GUI's: fields, or its own words among sd-scripts' options."""
    return "LoRA_type" in values or {"noise_offset_type", "epoch"} <= set(values)


def options_of_gui(values: Mapping[str, object], known: Kinds) -> tuple[dict[str, object], list[str]]:
    """Options of a pair training, and a sentence for every setting that is left out.

    Args:
        values: A file of the GUI.
        known: The options that the host has.
    """
    model_type = model_type_of_gui(values)
    options: dict[str, object] = {"model_type": model_type} if model_type else {}
    notes, others = [], []
    own, unused = _fields_of(values, model_type) if "LoRA_type" in values else (values, 0)
    for field, given in own.items():
        key = OPTION_OF_FIELD.get(field, field)
        value = _typed(key, given, known.get(key))
        if _is_off(key, value) or field in TYPE_OF_FIELD or key == "model_type":
            continue
        if key in NOT_CARRIED:
            notes.append(f"{field} = {given!r} is left out: {NOT_CARRIED[key]}")
        elif key == "epoch":
            options.setdefault("max_train_epochs", value)
        elif key == "xformers" and isinstance(value, str):
            options["sdpa" if value == "sdpa" else "xformers"] = value != "none"
        elif key in known:
            options[key] = value
        elif "LoRA_type" in values:
            others.append(field)
        else:
            notes.append(f"{field} = {given!r} is left out: this host has no such option")
    if "max_train_steps" in options:
        options.pop("max_train_epochs", None)
    elif "max_train_epochs" in options:
        notes.append(
            f"epoch = {options['max_train_epochs']} stays: an epoch uses each pair --dataset_repeats times, once if "
            "that is not given; --max_train_steps says how long to train"
        )
    if others:
        notes.append(f"left out, since they are no options of this host: {', '.join(sorted(others))}")
    if unused:
        notes.append(f"{unused} further fields are of other families, and left out")
    return {key: value for key, value in options.items() if value is not False}, notes


def _fields_of(values: Mapping[str, object], model_type: str | None) -> tuple[dict[str, object], int]:
    """The fields of a JSON that count for a family, under their options' names, and how many others are set."""
    family = "flux" if model_type == "chroma" else model_type
    noise = str(values.get("noise_offset_type") or "Original")
    silent = {name for kind, names in NOISE_FIELDS.items() if kind != noise for name in names}
    own: dict[str, object] = {}
    prefixed: dict[str, object] = {}
    unused = 0
    for field, value in values.items():
        prefix = next((each for each in TYPE_OF_PREFIX if field.startswith(each)), "")
        owner = TYPE_OF_PREFIX.get(prefix) or next((t for t, names in FIELDS_OF_TYPE.items() if field in names), None)
        if field in TYPE_OF_FIELD or owner is None:
            own |= {field: value} if field not in silent else {}
        elif owner == family:
            (prefixed if prefix else own)[field.removeprefix(prefix)] = value
        elif value:
            unused += 1
    own |= prefixed
    warm_up = _number(own.pop("lr_warmup", 0))
    if warm_up and not _number(own.get("lr_warmup_steps")):
        own["lr_warmup_steps"] = warm_up / 100  # the field is a percentage of the steps
    if own.get("lr_scheduler_num_cycles", 1) in ("", None) and own.get("epoch"):
        own["lr_scheduler_num_cycles"] = own["epoch"]
    return own, unused


def _number(value: object) -> float:
    """A field's number; 0 where it holds none."""
    try:
        return float(str(value))
    except ValueError:
        return 0.0


def _is_off(key: str, value: object) -> bool:
    """Whether a value is the same as none."""
    if value is None or value is False or value in ("", []) or value == AS_LEFT_OUT.get(key, ""):
        return True
    return value == 0 and key not in COUNTS_AT_ZERO


def model_type_of_gui(values: Mapping[str, object]) -> str | None:
    """The model type that a file of the GUI names or shows, or None: the checkpoint has to show it."""
    ticked = next((name for field, name in TYPE_OF_FIELD.items() if values.get(field) is True), None)
    if "LoRA_type" in values:  # its model_type is a field of FLUX's tab
        return "chroma" if ticked == "flux" and values.get("model_type") == "chroma" else ticked
    told = values.get("model_type")
    return str(told) if told else next((name for file, name in TYPE_OF_FILE.items() if values.get(file)), None)


def _typed(key: str, value: object, kind: Callable[[str], object] | None) -> object:
    """A field's value as the option takes it: the GUI keeps numbers as text, and lists in one line."""
    if key in LISTS and isinstance(value, str):
        return value.replace('"', "").split()
    if isinstance(value, (bool, list)) or value is None:
        return value
    if kind in (None, str) and key != "epoch":
        return value
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text  # what is no number is not dropped as 0: the trainer's own parser refuses it by name
    return number if kind is float or not number.is_integer() else int(number)


def read_gui_json(path: Path) -> dict[str, object]:
    """The fields of a saved JSON.

    Raises:
        PairError: Missing, no JSON, or not the GUI's.
    """
    values = read_json(path, "--config_file")
    if not isinstance(values, dict) or not is_gui_config(values):
        raise PairError(f"{path}: a JSON config is read when kohya_ss GUI saved it; this one has none of its fields")
    return values


def write_options(options: Mapping[str, object], source: Path) -> Path:
    """Writes the options beside the GUI's file, for --config_file; returns the path.

    A JSON holds the prompts themselves, where sd-scripts' option names a file: it is written too.
    """
    path = source.with_name(f"{source.stem}-pair.toml")
    written = dict(sorted(options.items()))
    if source.suffix == ".json" and "sample_prompts" in written:
        prompts = source.with_name(f"{source.stem}-prompts.txt")
        write_text(prompts, str(written["sample_prompts"]) + "\n")
        written["sample_prompts"] = prompts.as_posix()
    write_text(path, toml.dumps(written))
    return path
