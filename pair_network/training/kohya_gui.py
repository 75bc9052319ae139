"""What kohya_ss GUI saves, as options of a pair training; what has no place there is told key by key.

The GUI writes two kinds of file: ``config_lora-DATE.toml`` for every training, in sd-scripts' names with a few of its
own, and the JSON of "Save config", in the names of its fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import toml

from pair_network.errors import PairError
from pair_network.files import atomic_file
from pair_network.reading import read_json

# A field of the JSON -> sd-scripts' option, where the names differ.
OPTION_OF_FIELD = {
    "max_resolution": "resolution",
    "optimizer": "optimizer_type",
    "lora_network_weights": "network_weights",
    "lr_scheduler_num_cycles": "lr_scheduler_num_cycles",
    "model_path": "pretrained_model_name_or_path",
    "sdxl_no_half_vae": "no_half_vae",
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
}
# A field that is ticked -> the model's type.
TYPE_OF_FIELD = {
    "sdxl": "sdxl", "flux1_checkbox": "flux", "sd3_checkbox": "sd3", "lumina_checkbox": "lumina",
    "hunyuan_image_checkbox": "hunyuan_image", "anima_checkbox": "anima",
}  # fmt: skip
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
    "stop_text_encoder_training": "text encoders stay frozen, unless they are a target",
    "additional_parameters": "write them on the command line",
    "noise_offset_type": "noise_offset and the multires options say it",
    "color_aug": "it would recolour the two images of a pair differently",
    "random_crop": "it would crop the two images of a pair differently",
    "log_config": "it prints the GUI's own settings",
}
# Where 0 stands for "off", as the GUI itself reads it.
OFF_AT_ZERO = (
    "adaptive_noise_scale", "clip_skip", "ip_noise_gamma", "max_timestep", "max_train_epochs", "max_train_steps",
    "min_snr_gamma", "min_timestep", "multires_noise_discount", "multires_noise_iterations", "network_dropout",
    "noise_offset", "sample_every_n_epochs", "sample_every_n_steps", "save_every_n_epochs", "save_every_n_steps",
    "save_last_n_epochs", "save_last_n_epochs_state", "save_last_n_steps", "save_last_n_steps_state",
    "scale_weight_norms", "seed", "unet_lr", "v_pred_like_loss", "vae_batch_size", "caption_dropout_rate",
    "caption_dropout_every_n_epochs", "noise_offset_random_strength", "ip_noise_gamma_random_strength",
)  # fmt: skip
TEXTS = ("resolution", "output_name", "pretrained_model_name_or_path", "caption_extension", "training_comment")
LISTS = ("optimizer_args", "lr_scheduler_args")


def is_gui_config(values: Mapping[str, object]) -> bool:
    """Whether a file's keys are the GUI's: fields, or its own words among sd-scripts' options."""
    return "LoRA_type" in values or {"noise_offset_type", "epoch"} <= set(values)


def options_of_gui(values: Mapping[str, object], known: set[str]) -> tuple[dict[str, object], list[str]]:
    """Options of a pair training, and a sentence for every setting that is left out.

    Args:
        values: A file of the GUI.
        known: Names of the options that the host has.
    """
    options: dict[str, object] = {}
    notes = []
    model_type = model_type_of_gui(values)
    if model_type:
        options["model_type"] = model_type
    others = 0
    for field, given in values.items():
        key = OPTION_OF_FIELD.get(field, field)
        value = _typed(key, given)
        if value in ("", False, None, []) or (key in OFF_AT_ZERO and value == 0) or field in TYPE_OF_FIELD:
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
            others += 1
        else:
            notes.append(f"{field} = {given!r} is left out: this host has no such option")
    if others:
        notes.append(f"{others} further fields are of the GUI itself or of other families, and left out")
    if "max_train_steps" in options:
        options.pop("max_train_epochs", None)
    return {key: value for key, value in options.items() if value is not False}, notes


def model_type_of_gui(values: Mapping[str, object]) -> str | None:
    """The model type that a file of the GUI names or shows, or None: the checkpoint has to show it."""
    ticked = (name for field, name in TYPE_OF_FIELD.items() if values.get(field) is True)
    shown = (name for field, name in TYPE_OF_FILE.items() if values.get(field) and "LoRA_type" not in values)
    told = values.get("model_type")
    return str(told) if told else next(ticked, None) or next(shown, None)


def _typed(key: str, value: object) -> object:
    """A field's value as sd-scripts' option takes it: the GUI keeps numbers as text, and lists in one line."""
    if key in LISTS and isinstance(value, str):
        return value.replace('"', "").split()
    if isinstance(value, float) and value.is_integer() and not key.endswith(("_lr", "learning_rate")):
        return int(value)
    if isinstance(value, str) and key not in TEXTS:
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value


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
    """Writes the options beside the GUI's file, for --config_file; returns the path."""
    path = source.with_name(f"{source.stem}-pair.toml")
    with atomic_file(path) as temporary:
        temporary.write_text(toml.dumps(dict(sorted(options.items()))), encoding="utf-8")
    return path
