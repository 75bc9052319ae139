"""What pair training relies on in a host's trainer class, checked before anything is loaded."""

from __future__ import annotations

import inspect

from ..errors import PairError

# Method -> positional parameters that the mixin passes or receives, in order, without self.
HOOKS: dict[str, tuple[str, ...]] = {
    "assert_extra_args": ("args", "train_dataset_group", "val_dataset_group"),
    "post_process_network": ("args", "accelerator", "network", "text_encoders", "unet"),
    "process_batch": (
        "batch", "text_encoders", "unet", "network", "vae", "noise_scheduler", "vae_dtype", "weight_dtype",
        "accelerator", "args", "text_encoding_strategy", "tokenize_strategy", "is_train", "train_text_encoder",
        "train_unet",
    ),
    "post_process_loss": ("loss", "args", "timesteps", "noise_scheduler"),
    "generate_step_logs": ("args", "current_loss", "avr_loss"),
    "sample_images": (
        "accelerator", "args", "epoch", "global_step", "device", "vae", "tokenizers", "text_encoder", "unet",
    ),
    "update_metadata": ("metadata", "args"),
    "get_sai_model_spec": ("args",),
    "train": ("args",),
}  # fmt: skip


def broken_hooks(trainer: type) -> list[str]:
    """One sentence for each hook that is missing or takes fewer positional arguments than expected.

    Names are not compared: sd-scripts' families name the same argument differently.
    """
    problems = []
    for name, expected in HOOKS.items():
        method = getattr(trainer, name, None)
        if method is None:
            problems.append(f"{name} is missing")
            continue
        kinds = [parameter.kind for parameter in inspect.signature(method).parameters.values()][1:]
        takes = sum(
            kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds
        )
        if takes < len(expected) and inspect.Parameter.VAR_POSITIONAL not in kinds:
            problems.append(f"{name} takes {takes} arguments instead of {len(expected)}")
    return problems


def check_contract(trainer: type, host: str) -> None:
    """Raises PairError when the host's trainer class lacks a hook that pair training needs."""
    problems = broken_hooks(trainer)
    if problems:
        raise PairError(
            f"{host}: {trainer.__name__} is not the trainer that pair training needs ({'; '.join(problems)}); "
            "use sd-scripts v0.10.0 or later"
        )
