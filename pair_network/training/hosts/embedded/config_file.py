"""The --config_file of a run, and the checks on its options that need no model and no images."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from pair_network import leftovers
from pair_network.errors import PairError, nearest, printable
from pair_network.options import one_line

from ...options import check_name, check_one_part
from ..input_files import check_output_folder, check_weights
from ..kohya_config import read_config, toml_path
from .config import EmbeddedOptions
from .model_files import TAKEN, check_model, find_model, refuse_pickle
from .numbers import check_options
from .optimizers import check_lr_scheduler, optimizer_class, parse_key_values
from .quantize import quantization

logger = logging.getLogger(__name__)

# What a value has to be, by the type of its option: in words, and as TOML's types.
KINDS: dict[object, tuple[str, tuple[type, ...]]] = {
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a text in quotes", (str,)),
    one_line: ("a text in quotes", (str,)),
}
# Keys of files that either host can run, and what this one does instead.
NOT_NEEDED = {
    "max_data_loader_n_workers": "images are read in the training process",
    "sample_sampler": "previews are drawn with DDIM",
    "cache_text_encoder_outputs": "captions are encoded once anyhow, unless they change from step to step",
}


def read_config_file(
    args: argparse.Namespace, parser: argparse.ArgumentParser, argv: Sequence[str]
) -> argparse.Namespace:
    """Options of the TOML file named by ``args.config_file``, under those of the command line.

    As in sd-scripts, sections only group options, and ".toml" may be left out. Unlike there, the file is checked.

    Args:
        args: What ``parser`` made of ``argv`` alone.
        argv: The command line without the program's name.

    Raises:
        PairError: The file is missing or broken, or a key is unknown, doubled or of the wrong type.
    """
    if not args.config_file:
        return args
    path = toml_path(args.config_file)
    values = {}
    actions = {action.dest: action for action in parser._actions if action.dest not in ("help", "config_file")}
    for key, value in read_config(path).items():
        if key == "host":  # it has been chosen
            continue
        if key in NOT_NEEDED:
            logger.info("%s: %s is for other hosts: here %s", path, key, NOT_NEEDED[key])
            continue
        if key not in actions:
            remedy = "this trainer has some of sd-scripts' options: correct or remove the key, or use --sd_scripts DIR"
            raise PairError(f"{path}: unknown key {printable(key)!r}{nearest(key, actions)}; {remedy}")
        values[key] = _checked(value, actions[key], f"{path}: {key}")
    return parser.parse_args(list(argv), namespace=argparse.Namespace(**values))


def _checked(value: object, action: argparse.Action, where: str) -> object:
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise PairError(f"{where} must be true or false, not {value!r}")
        return value
    if action.nargs in ("*", "+"):
        return [_checked_scalar(item, action, where) for item in (value if isinstance(value, list) else [value])]
    return _checked_scalar(value, action, where)


def _checked_scalar(value: object, action: argparse.Action, where: str) -> object:
    kind: object = action.type or str
    wanted, fits = KINDS.get(kind, ("a number", (int, float, str)))
    if isinstance(value, bool) or not isinstance(value, fits):
        raise PairError(f"{where} must be {wanted}, not {value!r}")
    if kind not in (int, str) and callable(kind):
        try:
            value = kind(str(value))
        except (ValueError, argparse.ArgumentTypeError) as cause:
            raise PairError(f"{where} = {value!r}: {cause}") from cause
    if action.choices is not None and value not in action.choices:
        choices = [str(choice) for choice in action.choices]
        raise PairError(f"{where} must be one of {', '.join(choices)}{nearest(str(value), choices)}, not {value!r}")
    return value


def verify(args: EmbeddedOptions) -> None:
    """Checks what can be checked before images and models are read.

    Raises:
        PairError: Options are missing, out of range or contradict each other.
    """
    if not args.pretrained_model_name_or_path:
        raise PairError(f"--pretrained_model_name_or_path is missing: name {TAKEN}")
    if not args.output_dir:
        raise PairError("--output_dir is missing: name the folder for the LoRA files")
    if not args.dataset_config:
        raise PairError("there is no dataset: name a dataset TOML with --dataset_config")
    check_model(find_model(args))
    _verify_ranges(args)
    _verify_files(args)
    check_one_part(args.network_train_unet_only, args.network_train_text_encoder_only)
    if args.dim_from_weights and not args.network_weights:
        raise PairError("--dim_from_weights needs --network_weights: name the file to take the rank from")
    optimizer_class(args.optimizer_type or "AdamW")
    parse_key_values(args.optimizer_args, "--optimizer_args")
    check_lr_scheduler(args)
    if args.xformers and args.sdpa:
        raise PairError("--xformers and --sdpa exclude each other; keep one")
    if args.log_with in ("tensorboard", "all") and not args.logging_dir:
        raise PairError(f"--log_with {args.log_with} needs --logging_dir: name the folder for the logs")
    quantization(args)
    if args.base_weights_multiplier and not args.base_weights:
        raise PairError("--base_weights_multiplier needs --base_weights")


def _verify_ranges(args: EmbeddedOptions) -> None:
    check_options(vars(args))
    at_least_one = (
        ["max_train_steps", "max_train_epochs", "train_batch_size", "dataset_repeats", "gradient_accumulation_steps"]
        + ["vae_batch_size", "clip_skip", "network_dim", "lr_scheduler_num_cycles"]
        + [f"save_every_n_{unit}" for unit in ("steps", "epochs")]
        + [f"save_last_n_{unit}" for unit in ("steps", "epochs", "steps_state", "epochs_state")]
        + [f"sample_every_n_{unit}" for unit in ("steps", "epochs")]
    )
    for name in at_least_one:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise PairError(f"--{name} must be at least 1, not {value}")
    for name in ("max_grad_norm", "learning_rate", "unet_lr", "min_snr_gamma", "scale_weight_norms", "huber_c"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < float("inf"):
            raise PairError(f"--{name} must be a number of at least 0, not {value}")
    low = 0 if args.min_timestep is None else args.min_timestep
    high = 1000 if args.max_timestep is None else args.max_timestep
    if not 0 <= low < high <= 1000:
        raise PairError(f"timesteps from {low} up to {high} are no range: --min_timestep < --max_timestep, 0 to 1000")
    check_name(args.output_name)


def _verify_files(args: EmbeddedOptions) -> None:
    for option, names in (("network_weights", [args.network_weights]), ("base_weights", args.base_weights or ())):
        for name in filter(None, names):
            refuse_pickle(Path(name))
            check_weights(option, name)
    if args.resume:
        leftovers.clean_once(os.path.abspath(Path(args.resume).parent))  # it may have to be put back
    if args.resume and not (Path(args.resume) / "train_state.json").is_file():
        raise PairError(
            f"--resume {args.resume}: not a saved state (no train_state.json); name a folder that ends in -state"
        )
    if args.sample_prompts and not Path(args.sample_prompts).is_file():
        raise PairError(f"--sample_prompts {args.sample_prompts}: no such file; name a text file of prompts")
    for option, folder in (("output_dir", args.output_dir), ("logging_dir", args.logging_dir)):
        if folder:
            check_output_folder(option, folder)
