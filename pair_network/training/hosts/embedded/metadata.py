"""The ``ss_*`` and ``modelspec.*`` metadata by which UIs recognise a LoRA and show how it was made."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path

from .config import EmbeddedOptions
from .dataset import Dataset, DatasetGroup

MINIMUM_KEYS = (
    "ss_v2",
    "ss_base_model_version",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
)
# metadata that repeats an option under its own name
OPTION_KEYS = (
    "output_name",
    "learning_rate",
    "text_encoder_lr",
    "unet_lr",
    "gradient_checkpointing",
    "gradient_accumulation_steps",
    "max_train_steps",
    "lr_warmup_steps",
    "lr_scheduler",
    "network_module",
    "network_dim",
    "network_alpha",
    "network_dropout",
    "mixed_precision",
    "v2",
    "clip_skip",
    "cache_latents",
    "seed",
    "noise_offset",
    "zero_terminal_snr",
    "training_comment",
    "max_grad_norm",
    "min_snr_gamma",
    "scale_weight_norms",
    "loss_type",
    "huber_schedule",
    "huber_scale",
    "huber_c",
)


def training_metadata(args: EmbeddedOptions, group: DatasetGroup, facts: Mapping[str, object]) -> dict[str, object]:
    """``ss_*`` entries of a run; ``facts`` are those that follow from neither options nor dataset, without prefix."""
    metadata: dict[str, object] = {f"ss_{key}": getattr(args, key) for key in OPTION_KEYS}
    metadata.update({f"ss_{key}": value for key, value in facts.items()})
    metadata["ss_num_train_images"] = group.num_train_images
    metadata["ss_num_reg_images"] = 0
    metadata["ss_num_batches_per_epoch"] = group.batches_per_epoch
    metadata["ss_sd_model_name"] = Path(args.pretrained_model_name_or_path).resolve().name
    metadata["ss_datasets"] = json.dumps([_dataset(dataset, group) for dataset in group.datasets])
    metadata["ss_tag_frequency"] = json.dumps(group.tag_frequency())
    metadata["ss_dataset_dirs"] = json.dumps(_dirs(group))
    if args.network_args:
        metadata["ss_network_args"] = json.dumps(dict(entry.split("=", 1) for entry in args.network_args))
    return metadata


def _dataset(dataset: Dataset, group: DatasetGroup) -> dict[str, object]:
    config = dataset.config
    buckets = dataset.buckets()
    entries = {str(i): {"resolution": size, "count": len(samples)} for i, (size, samples) in enumerate(buckets.items())}
    return {
        "is_dreambooth": True,
        "batch_size_per_device": dataset.batch_size,
        "num_train_images": dataset.num_train_images,
        "num_reg_images": 0,
        "resolution": config.resolution,
        "enable_bucket": config.enable_bucket,
        "min_bucket_reso": config.min_bucket_reso,
        "max_bucket_reso": config.max_bucket_reso,
        "tag_frequency": group.tag_frequency(),
        "bucket_info": {"buckets": entries} if config.enable_bucket else None,
        "subsets": [
            {
                "img_count": len(samples),
                "num_repeats": subset.num_repeats,
                "flip_aug": subset.flip_aug,
                "shuffle_caption": subset.shuffle_caption,
                "keep_tokens": subset.keep_tokens,
                "caption_prefix": subset.caption_prefix,
                "caption_suffix": subset.caption_suffix,
                "image_dir": subset.image_dir.name,
                "class_tokens": subset.class_tokens,
                "is_reg": False,
            }
            for subset, samples in dataset.subsets
        ],
    }


def _dirs(group: DatasetGroup) -> dict[str, dict[str, int]]:
    dirs: dict[str, dict[str, int]] = {}
    for dataset in group.datasets:
        for subset, samples in dataset.subsets:
            name, number = subset.image_dir.name, 2
            while name in dirs:
                name, number = f"{subset.image_dir.name} ({number})", number + 1
            dirs[name] = {"n_repeats": subset.num_repeats, "img_count": len(samples)}
    return dirs


def stringified(metadata: Mapping[str, object], minimum: bool) -> dict[str, str]:
    """The metadata as safetensors stores it; only what loaders look at when ``minimum``."""
    return {key: str(value) for key, value in metadata.items() if not minimum or key in MINIMUM_KEYS}


def model_version(args: EmbeddedOptions) -> str:
    """sd-scripts' name for the base model's family: sdxl_base_v1-0, sd_v1, sd_v2 or sd_v2_v, …"""
    if args.model_type == "sdxl":
        return "sdxl_base_v1-0"
    return f"sd_{'v2' if args.v2 else 'v1'}{'_v' if args.v_parameterization else ''}"


def sai_model_spec(args: EmbeddedOptions, resolution: tuple[int, int]) -> dict[str, str]:
    """``modelspec.*`` entries (Stability AI's model metadata standard, 1.0.0) of a LoRA trained at ``resolution``."""
    if args.model_type == "sdxl":
        architecture = "stable-diffusion-xl-v1-base/lora"
    elif args.v2:
        architecture = "stable-diffusion-v2-768-v/lora" if args.v_parameterization else "stable-diffusion-v2-512/lora"
    else:
        architecture = "stable-diffusion-v1/lora"
    spec = {
        "sai_model_spec": "1.0.0",
        "architecture": architecture,
        "implementation": "diffusers",
        "title": args.metadata_title or args.output_name or "LoRA",
        "resolution": f"{resolution[0]}x{resolution[1]}",
        "date": datetime.datetime.now().replace(microsecond=0).isoformat(),
        "prediction_type": "v" if args.v_parameterization else "epsilon",
        "author": args.metadata_author,
        "description": args.metadata_description,
        "license": args.metadata_license,
        "tags": args.metadata_tags,
    }
    if args.min_timestep is not None or args.max_timestep is not None:
        low = 0 if args.min_timestep is None else args.min_timestep
        spec["timestep_range"] = f"{low},{1000 if args.max_timestep is None else args.max_timestep}"
    if args.clip_skip is not None:
        spec["encoder_layer"] = str(args.clip_skip)
    return {f"modelspec.{key}": value for key, value in spec.items() if value is not None}
