"""The embedded host's command line: a subset of sd-scripts' options, under the same names, types and defaults."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from pair_network.errors import PairError, nearest

LR_SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "adafactor",
)


class OptionParser(argparse.ArgumentParser):
    """An argument parser whose every complaint is a PairError, with the nearest option for an unknown one."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = next((text for text in unknown if text.startswith("-")), unknown[0]).split("=")[0]
            accepted = [flag for flag in self._option_string_actions if flag.startswith("--")]
            raise PairError(
                f"unknown option {name}{nearest(name, accepted)}; the embedded host has some of sd-scripts' options; "
                "--help lists them"
            )
        return parsed

    def error(self, message: str) -> NoReturn:
        raise PairError(re.sub(r"^argument (--\S+?)(?:/\S+)?:", r"\1:", message))


def int_or_ratio(text: str) -> int | float:
    """A whole number of steps, or a share of all steps written as 0.1 or 10%."""
    value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if value < 0 or (value >= 1 and value != int(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of steps nor a ratio below 1")
    return int(value) if value >= 1 or value == 0 else value


def setup_parser() -> argparse.ArgumentParser:
    """A parser with all options of the embedded host; the plug-in adds its own to it."""
    parser = OptionParser(description="Train a coupled content and style LoRA on one or more image pairs.")
    parser.add_argument("--config_file", help="TOML file with any of these options; the command line beats it")
    _add_model(parser.add_argument_group("model"))
    _add_dataset(parser.add_argument_group("dataset (defaults for what the dataset TOML leaves out)"))
    _add_network(parser.add_argument_group("network"))
    _add_optimizer(parser.add_argument_group("optimizer"))
    _add_training(parser.add_argument_group("training"))
    _add_loss(parser.add_argument_group("noise and loss"))
    _add_saving(parser.add_argument_group("saving"))
    _add_previews(parser.add_argument_group("previews"))
    _add_logging(parser.add_argument_group("logging"))
    return parser


def _add_model(group: Any) -> None:
    add = group.add_argument
    add("--pretrained_model_name_or_path", help="diffusers folder of a Stable Diffusion 1.x or 2.x model")
    add("--v2", action="store_true", help="the model is Stable Diffusion 2.x (found out by itself; checked when given)")
    add(
        "--v_parameterization",
        action="store_true",
        help="train v-prediction (default: what the model's scheduler says)",
    )
    add("--clip_skip", type=int, help="text encoder layer to use, counted from the last one, which is 1 (default: 1)")
    add("--no_half_vae", action="store_true", help="keep the VAE in float32 under mixed precision")
    add("--sdpa", action="store_true", help="torch's scaled-dot-product attention; always on here unless --xformers is")
    add("--xformers", action="store_true", help="xformers attention (CUDA; needs the xformers package)")


def _add_dataset(group: Any) -> None:
    add = group.add_argument
    add("--dataset_config", help="dataset TOML as sd-scripts reads it (DreamBooth subsets)")
    add("--resolution", help="training size in pixels: SIZE or WIDTH,HEIGHT")
    add("--train_batch_size", type=int, default=1, help="pairs per step and process (default: 1)")
    add("--dataset_repeats", type=int, default=1, help="times an image is used in an epoch (default: 1)")
    add("--enable_bucket", action="store_true", help="keep aspect ratios: group images of one shape into batches")
    add("--min_bucket_reso", type=int, default=256, help="shortest bucket side in pixels (default: 256)")
    add("--max_bucket_reso", type=int, default=1024, help="longest bucket side in pixels (default: 1024)")
    add("--bucket_reso_steps", type=int, default=64, help="bucket sides are multiples of this, in pixels (default: 64)")
    add("--bucket_no_upscale", action="store_true", help="never enlarge an image; buckets follow the image sizes")
    add(
        "--caption_extension",
        default=".caption",
        help="extension of the caption files beside images (default: .caption)",
    )
    add("--caption_separator", default=",", help="what separates the tags of a caption (default: a comma)")
    add("--shuffle_caption", action="store_true", help="shuffle a caption's tags at every use")
    add("--keep_tokens", type=int, default=0, help="leading tags that are not shuffled (default: 0)")
    add("--caption_prefix", help="text put before every caption")
    add("--caption_suffix", help="text put after every caption")
    add("--flip_aug", action="store_true", help="mirror half of the samples; the two images of a pair alike")
    add("--cache_latents", action="store_true", help="encode the images once and keep the latents in memory")
    add("--vae_batch_size", type=int, default=1, help="images encoded at a time (default: 1)")


def _add_network(group: Any) -> None:
    add = group.add_argument
    add("--network_module", default="pair_network", help="importable network module (default: pair_network)")
    add("--network_dim", type=int, help="rank (default: the network's own)")
    add("--network_alpha", type=float, default=1.0, help="alpha; the LoRA's scale is alpha / rank (default: 1)")
    add("--network_dropout", type=float, help="probability of dropping an activation while training")
    add("--network_args", nargs="*", metavar="KEY=VALUE", help="the network's own settings")
    add("--network_weights", help="safetensors file to start from")
    add("--dim_from_weights", action="store_true", help="take ranks and settings from --network_weights")
    add("--network_train_unet_only", action="store_true", help="train U-Net layers only")
    add("--network_train_text_encoder_only", action="store_true", help="train text encoder layers only")
    add("--scale_weight_norms", type=float, help="largest norm of a layer's weights; larger ones are scaled down")
    add("--base_weights", nargs="*", help="safetensors LoRAs merged into the model before training")
    add("--base_weights_multiplier", type=float, nargs="*", help="strength of each of --base_weights (default: 1)")


def _add_optimizer(group: Any) -> None:
    add = group.add_argument
    add("--optimizer_type", default="", help="AdamW (default), AdamW8bit, Lion, Prodigy, AdaFactor, … or module.Class")
    add("--optimizer_args", nargs="*", metavar="KEY=VALUE", help='such as "weight_decay=0.01" "betas=0.9,0.999"')
    add("--learning_rate", type=float, default=2.0e-6, help="learning rate (default: 2e-6)")
    add("--unet_lr", type=float, help="learning rate of U-Net layers (default: --learning_rate)")
    add(
        "--text_encoder_lr",
        type=float,
        nargs="*",
        help="learning rate of text encoder layers (default: --learning_rate)",
    )
    add("--max_grad_norm", type=float, default=1.0, help="gradients are clipped to this norm; 0: never (default: 1)")
    add("--lr_scheduler", default="constant", choices=LR_SCHEDULERS, help="learning rate schedule (default: constant)")
    add("--lr_warmup_steps", type=int_or_ratio, default=0, help="warm-up in steps, or as a share below 1 (default: 0)")
    add("--lr_scheduler_num_cycles", type=int, default=1, help="restarts of cosine_with_restarts (default: 1)")
    add("--lr_scheduler_power", type=float, default=1.0, help="power of the polynomial schedule (default: 1)")


def _add_training(group: Any) -> None:
    add = group.add_argument
    add("--max_train_steps", type=int, default=1600, help="optimizer steps (default: 1600)")
    add("--max_train_epochs", type=int, help="epochs; beats --max_train_steps")
    add("--seed", type=int, help="seed of the data order, the noise and the timesteps (default: drawn)")
    add(
        "--mixed_precision",
        default="no",
        choices=["no", "fp16", "bf16"],
        help="compute precision (default: no: float32)",
    )
    add("--gradient_checkpointing", action="store_true", help="less memory, about a third more time")
    add("--gradient_accumulation_steps", type=int, default=1, help="batches per optimizer step (default: 1)")


def _add_loss(group: Any) -> None:
    add = group.add_argument
    add("--noise_offset", type=float, help="strength of a constant added to each channel's noise, around 0.1")
    add("--min_snr_gamma", type=float, help="min-SNR weighting with this gamma; 5 is usual (default: off)")
    add(
        "--zero_terminal_snr",
        action="store_true",
        help="rescale betas to zero terminal SNR (default: as the model says)",
    )
    add("--min_timestep", type=int, help="smallest timestep to train, 0 to 999 (default: 0)")
    add("--max_timestep", type=int, help="timesteps stay below this, 1 to 1000 (default: 1000)")
    add("--loss_type", default="l2", choices=["l1", "l2", "huber", "smooth_l1"], help="loss per element (default: l2)")
    add(
        "--huber_schedule",
        default="snr",
        choices=["constant", "exponential", "snr"],
        help="how the huber and smooth_l1 threshold follows the timestep (default: snr)",
    )
    add("--huber_c", type=float, default=0.1, help="the threshold's decay parameter (default: 0.1)")
    add("--huber_scale", type=float, default=1.0, help="the threshold's scale (default: 1)")


def _add_saving(group: Any) -> None:
    add = group.add_argument
    add("--output_dir", help="folder for LoRA files, states and previews")
    add("--output_name", help="file name without extension (default: last)")
    add("--save_precision", choices=["float", "fp16", "bf16"], help="precision of the saved weights (default: float)")
    add("--save_model_as", default="safetensors", choices=["safetensors"], help="file format; there is no other")
    add("--save_every_n_steps", type=int, help="save LoRA files every N optimizer steps")
    add("--save_every_n_epochs", type=int, help="save LoRA files every N epochs")
    add("--save_last_n_steps", type=int, help="remove LoRA files older than N steps")
    add("--save_last_n_epochs", type=int, help="keep the files of N epoch saves")
    add("--save_last_n_steps_state", type=int, help="the same for states (default: --save_last_n_steps)")
    add("--save_last_n_epochs_state", type=int, help="the same for states (default: --save_last_n_epochs)")
    add("--save_state", action="store_true", help="save the training state with every LoRA file")
    add("--save_state_on_train_end", action="store_true", help="save the training state at the end")
    add("--resume", help="state folder to continue from")
    add("--training_comment", help="text kept in the metadata")
    add("--no_metadata", action="store_true", help="write only the metadata that loaders need")
    for field in ("title", "author", "description", "license", "tags"):
        add(f"--metadata_{field}", help=f"{field} in the modelspec metadata")


def _add_previews(group: Any) -> None:
    add = group.add_argument
    add("--sample_prompts", help="text file with one preview prompt in a line")
    add("--sample_every_n_steps", type=int, help="previews every N optimizer steps")
    add("--sample_every_n_epochs", type=int, help="previews every N epochs; beats --sample_every_n_steps")
    add("--sample_at_first", action="store_true", help="previews before the first step")


def _add_logging(group: Any) -> None:
    add = group.add_argument
    add("--logging_dir", help="folder for TensorBoard logs; turns logging on")
    add(
        "--log_with", choices=["tensorboard", "wandb", "all"], help="trackers (default: tensorboard with --logging_dir)"
    )
    add("--log_prefix", help="put before the name of the run's log folder, which is the time")
    add("--log_tracker_name", help="name of the run's project in the trackers (default: network_train)")
    add("--wandb_run_name", help="name of the wandb run")
