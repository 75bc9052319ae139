"""The embedded host's options: a subset of sd-scripts' options, under the same names, types and defaults.

Each is said once, here; the command line, its help and the page of options are made from these fields.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pair_network.options import option

from ...options import PairOptions

MODEL_TYPES = ("sd", "sdxl")  # values of --model_type, as on sd-scripts
LR_SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "adafactor",
)

DatasetSource = str | Path | Mapping[str, object]  # a TOML file, or what it would hold

# A field with an option of each heading in --help.
dataset = partial(option, group="dataset (defaults for what the dataset TOML leaves out)")
loss = partial(option, group="noise and loss")
model, network, optimizer, training, saving, previews, logging = (
    partial(option, group=name)
    for name in ("model", "network", "optimizer", "training", "saving", "previews", "logging")
)


def int_or_ratio(text: str) -> int | float:
    """A whole number of steps, or a share of all steps written as 0.1 or 10%."""
    value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if value < 0 or (value >= 1 and value != int(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of steps nor a ratio below 1")
    return int(value) if value >= 1 or value == 0 else value


@dataclass(frozen=True)
class EmbeddedOptions(PairOptions):
    """What a run of the embedded host is told, as read from command line and file; nothing writes to it afterwards."""

    config_file: str | None = option(None, "TOML file with any of these options; the command line beats it")

    # model
    pretrained_model_name_or_path: str = model(
        "", "an SD 1.x, 2.x or SDXL model: .safetensors checkpoint, diffusers folder or Hugging Face name"
    )
    model_config: str | None = model(
        None,
        "with a checkpoint: diffusers folder of its family, for configurations and tokenizers",
        default="fetched once",
        metavar="DIR",
    )
    model_type: str | None = model(
        None, "family of the model; checked when given", default="found out", choices=MODEL_TYPES
    )
    v2: bool = model(False, "the model is Stable Diffusion 2.x (found out by itself; checked when given)")
    v_parameterization: bool = model(False, "train v-prediction", default="what the model's scheduler says")
    clip_skip: int | None = model(
        None, "text encoder layer to use, counted from the last one, which is 1", int, default="1"
    )
    quantize: str | None = model(
        None, "keep the frozen U-Net's linear layers in 8 bits; needs the torchao package", choices=("int8",)
    )
    no_half_vae: bool = model(False, "keep the VAE in float32 under mixed precision")
    sdpa: bool = model(False, "torch's scaled-dot-product attention; always on here unless --xformers is")
    xformers: bool = model(False, "xformers attention (CUDA; needs the xformers package)")

    # dataset (defaults for what the dataset TOML leaves out)
    dataset_config: DatasetSource | None = dataset(None, "dataset TOML as sd-scripts reads it (DreamBooth subsets)")
    resolution: str | None = dataset(None, "training size in pixels: SIZE or WIDTH,HEIGHT")
    train_batch_size: int = dataset(1, "pairs per step and process", int)
    dataset_repeats: int = dataset(1, "times an image is used in an epoch", int)
    enable_bucket: bool = dataset(False, "keep aspect ratios: group images of one shape into batches")
    min_bucket_reso: int = dataset(256, "shortest bucket side in pixels", int)
    max_bucket_reso: int = dataset(1024, "longest bucket side in pixels", int)
    bucket_reso_steps: int = dataset(64, "bucket sides are multiples of this, in pixels", int)
    bucket_no_upscale: bool = dataset(False, "never enlarge an image; buckets follow the image sizes")
    caption_extension: str = dataset(".caption", "extension of the caption files beside images")
    caption_separator: str = dataset(",", "what separates the tags of a caption", default="a comma")
    shuffle_caption: bool = dataset(False, "shuffle a caption's tags at every use")
    keep_tokens: int = dataset(0, "leading tags that are not shuffled", int, default="0")
    caption_prefix: str | None = dataset(None, "text put before every caption")
    caption_suffix: str | None = dataset(None, "text put after every caption")
    flip_aug: bool = dataset(False, "mirror half of the samples; the two images of a pair alike")
    cache_latents: bool = dataset(False, "encode the images once and keep the latents in memory")
    cache_latents_to_disk: bool = dataset(False, "keep them in OUTPUT_DIR/NAME-cache instead, for later runs too")
    cache_text_encoder_outputs_to_disk: bool = dataset(False, "keep encoded captions there too, not in memory")
    vae_batch_size: int = dataset(1, "images encoded at a time", int)

    # network
    network_module: str = network("pair_network", "importable network module")
    network_dim: int | None = network(None, "rank", int, default="the network's own")
    network_alpha: float = network(1.0, "alpha; the LoRA's scale is alpha / rank", float)
    network_dropout: float | None = network(None, "probability of dropping an activation while training", float)
    network_args: Sequence[str] | None = network(
        None, "the network's own settings, listed at the end", nargs="*", metavar="KEY=VALUE"
    )
    network_weights: str | None = network(None, "safetensors file to start from")
    dim_from_weights: bool = network(False, "take ranks and settings from --network_weights")
    network_train_unet_only: bool = network(False, "train U-Net layers only")
    network_train_text_encoder_only: bool = network(False, "train text encoder layers only")
    scale_weight_norms: float | None = network(
        None, "largest norm of a layer's weights; larger ones are scaled down", float
    )
    base_weights: Sequence[str] | None = network(
        None, "safetensors LoRAs merged into the model before training", nargs="*"
    )
    base_weights_multiplier: Sequence[float] | None = network(
        None, "strength of each of --base_weights", float, default="1", nargs="*"
    )

    # optimizer
    optimizer_type: str = optimizer("", "AdamW (default), AdamW8bit, Lion, Prodigy, AdaFactor, … or module.Class")
    optimizer_args: Sequence[str] | None = optimizer(
        None, 'such as "weight_decay=0.01" "betas=0.9,0.999"', nargs="*", metavar="KEY=VALUE"
    )
    learning_rate: float = optimizer(2e-06, "learning rate", float)
    unet_lr: float | None = optimizer(None, "learning rate of U-Net layers", float, default="--learning_rate")
    text_encoder_lr: Sequence[float] | None = optimizer(
        None, "learning rate of text encoder layers", float, default="--learning_rate", nargs="*"
    )
    max_grad_norm: float = optimizer(1.0, "gradients are clipped to this norm; 0: never", float)
    lr_scheduler: str = optimizer("constant", "learning rate schedule", choices=LR_SCHEDULERS)
    lr_warmup_steps: int | float = optimizer(0, "warm-up in steps, or as a share below 1", int_or_ratio, default="0")
    lr_scheduler_num_cycles: int = optimizer(1, "restarts of cosine_with_restarts", int)
    lr_scheduler_power: float = optimizer(1.0, "power of the polynomial schedule", float)

    # training
    max_train_steps: int = training(1600, "optimizer steps", int)
    max_train_epochs: int | None = training(None, "epochs; beats --max_train_steps", int)
    seed: int | None = training(None, "seed of the data order, the noise and the timesteps", int, default="drawn")
    mixed_precision: str = training("no", "compute precision; no: float32", choices=("no", "fp16", "bf16"))
    gradient_checkpointing: bool = training(False, "less memory, about a third more time")
    gradient_accumulation_steps: int = training(1, "batches per optimizer step", int)

    # noise and loss
    noise_offset: float | None = loss(None, "strength of a constant added to each channel's noise, around 0.1", float)
    min_snr_gamma: float | None = loss(None, "min-SNR weighting with this gamma; 5 is usual", float, default="off")
    zero_terminal_snr: bool = loss(False, "rescale betas to zero terminal SNR", default="as the model says")
    min_timestep: int | None = loss(None, "smallest timestep to train, 0 to 999", int, default="0")
    max_timestep: int | None = loss(None, "timesteps stay below this, 1 to 1000", int, default="1000")
    loss_type: str = loss("l2", "loss per element", choices=("l1", "l2", "huber", "smooth_l1"))
    huber_schedule: str = loss(
        "snr", "how the huber and smooth_l1 threshold follows the timestep", choices=("constant", "exponential", "snr")
    )
    huber_c: float = loss(0.1, "the threshold's decay parameter", float)
    huber_scale: float = loss(1.0, "the threshold's scale", float)

    # saving
    output_dir: str = saving("", "folder for LoRA files, states and previews")
    output_name: str | None = saving(None, "file name without extension", default="last")
    save_precision: str | None = saving(
        None, "precision of the saved weights", default="float", choices=("float", "fp16", "bf16")
    )
    save_model_as: str = saving("safetensors", "file format", choices=("safetensors",))
    save_every_n_steps: int | None = saving(None, "save LoRA files every N optimizer steps", int)
    save_every_n_epochs: int | None = saving(None, "save LoRA files every N epochs", int)
    save_last_n_steps: int | None = saving(None, "remove LoRA files older than N steps", int)
    save_last_n_epochs: int | None = saving(None, "keep the files of N epoch saves", int)
    save_last_n_steps_state: int | None = saving(None, "the same for states", int, default="--save_last_n_steps")
    save_last_n_epochs_state: int | None = saving(None, "the same for states", int, default="--save_last_n_epochs")
    save_state: bool = saving(False, "save the training state with every LoRA file")
    save_state_on_train_end: bool = saving(False, "save the training state at the end")
    resume: str | None = saving(None, "state folder to continue from; auto: the newest of this run")
    training_comment: str | None = saving(None, "text kept in the metadata")
    no_metadata: bool = saving(False, "write only the metadata that loaders need")
    metadata_title: str | None = saving(None, "title in the modelspec metadata")
    metadata_author: str | None = saving(None, "author in the modelspec metadata")
    metadata_description: str | None = saving(None, "description in the modelspec metadata")
    metadata_license: str | None = saving(None, "license in the modelspec metadata")
    metadata_tags: str | None = saving(None, "tags in the modelspec metadata")

    # previews
    sample_prompts: str | None = previews(
        None, "text file with one preview prompt in a line", default="three subjects that the pair does not show"
    )
    sample_every_n_steps: int | None = previews(None, "previews every N optimizer steps", int)
    sample_every_n_epochs: int | None = previews(None, "previews every N epochs; beats --sample_every_n_steps", int)
    sample_at_first: bool = previews(False, "previews before the first step")

    # logging
    logging_dir: str | None = logging(None, "folder for TensorBoard logs; turns logging on")
    log_with: str | None = logging(
        None, "trackers", default="tensorboard with --logging_dir", choices=("tensorboard", "wandb", "all")
    )
    log_prefix: str | None = logging(None, "put before the name of the run's log folder, which is the time")
    log_tracker_name: str | None = logging(None, "name of the run's project in the trackers", default="network_train")
    wandb_run_name: str | None = logging(None, "name of the wandb run")


def frozen(args: argparse.Namespace | EmbeddedOptions) -> EmbeddedOptions:
    """The options of a parsed command line, which nothing can write to."""
    return EmbeddedOptions(**vars(args)) if isinstance(args, argparse.Namespace) else args
