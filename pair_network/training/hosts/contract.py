"""What pair training relies on in a host's trainer class, checked before anything is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

from pair_network.errors import PairError

from ..protocols import STEP_ARGUMENTS

# Method -> positional parameters that the mixin passes or receives, in order, without self.
HOOKS: dict[str, tuple[str, ...]] = {
    "assert_extra_args": ("args", "train_dataset_group", "val_dataset_group"),
    "post_process_network": ("args", "accelerator", "network", "text_encoders", "unet"),
    "on_step_start": (
        "args", "accelerator", "network", "text_encoders", "unet", "batch", "weight_dtype", "is_train",
    ),
    "process_batch": STEP_ARGUMENTS,
    "post_process_loss": ("loss", "args", "timesteps", "noise_scheduler"),
    "generate_step_logs": ("args", "current_loss", "avr_loss"),
    "sample_images": (
        "accelerator", "args", "epoch", "global_step", "device", "vae", "tokenizers", "text_encoder", "unet",
    ),
    "update_metadata": ("metadata", "args"),
    "get_sai_model_spec": ("args",),
    "train": ("args",),
}  # fmt: skip

# Of sd-scripts alone: its trainers' encoding of prompts.
SD_SCRIPTS_HOOKS: dict[str, tuple[str, ...]] = {
    "cache_text_encoder_outputs_if_needed": (
        "args", "accelerator", "unet", "vae", "text_encoders", "dataset", "weight_dtype",
    ),
}  # fmt: skip

# Of musubi-tuner: its extension seams ("no API stability guarantees"), and what its scripts call.
MUSUBI_HOOKS: dict[str, tuple[str, ...]] = {
    "train": ("args",),
    "_build_dataset": ("args",),
    "_register_hooks_and_resume": ("args", "accelerator", "network"),
    "scale_shift_latents": ("latents",),
    "process_batch": (
        "args", "accelerator", "transformer", "network", "batch", "latents", "noise", "noise_scheduler", "dit_dtype",
        "network_dtype", "vae", "global_step",
    ),
    "compute_loss": (
        "args", "output", "timesteps", "noise_scheduler", "dit_dtype", "network_dtype", "global_step",
    ),
    "sample_images": (
        "accelerator", "args", "epoch", "steps", "vae", "transformer", "sample_parameters", "dit_dtype",
    ),
    "extra_metadata": ("args",),
    "get_optimizer": ("args", "trainable_params"),
    "get_lr_scheduler": ("args", "optimizer", "num_processes"),
}  # fmt: skip
MUSUBI_FUNCTIONS: dict[str, tuple[str, ...]] = {
    "setup_parser_common": (),
    "read_config_from_file": ("args", "parser"),
    "main": (),
}
NEEDED = {"sd-scripts": "sd-scripts v0.10.0 or later", "musubi-tuner": "a musubi-tuner of April 2026 or later"}


@dataclass(frozen=True)
class Comparison:
    """One method or function of a host beside what pair training expects of it.

    Attributes:
        found: Its positional parameters; None: it is missing. Names are not compared: sd-scripts' families name the
            same argument differently.
        is_open: It takes any number of positional arguments.
    """

    owner: str
    name: str
    expected: tuple[str, ...]
    found: tuple[str, ...] | None
    is_open: bool = False

    @property
    def problem(self) -> str:
        """A sentence without a full stop, or "" when the host is as expected."""
        if self.found is None:
            return f"{self.name} is missing"
        if len(self.found) < len(self.expected) and not self.is_open:
            return f"{self.name} takes {len(self.found)} arguments instead of {len(self.expected)}"
        return ""


def compare(owner: str, holder: type | ModuleType, expected: dict[str, tuple[str, ...]]) -> Iterator[Comparison]:
    """Comparisons for the members of a class (whose ``self`` is left out) or of a module."""
    for name, parameters in expected.items():
        member = getattr(holder, name, None)
        if member is None:
            yield Comparison(owner, name, parameters, None)
            continue
        names, is_open = _positional(member)
        yield Comparison(owner, name, parameters, names[1:] if inspect.isclass(holder) else names, is_open)


def _positional(function: Callable[..., object]) -> tuple[tuple[str, ...], bool]:
    parameters = inspect.signature(function).parameters.values()
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return (
        tuple(parameter.name for parameter in parameters if parameter.kind in named),
        any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters),
    )


def broken_hooks(trainer: type | ModuleType, expected: dict[str, tuple[str, ...]] | None = None) -> list[str]:
    """One sentence for each hook that is missing or takes fewer positional arguments than expected."""
    found = compare(trainer.__name__, trainer, expected or HOOKS)
    return [comparison.problem for comparison in found if comparison.problem]


def check_contract(trainer: type | ModuleType, host: str, expected: dict[str, tuple[str, ...]] | None = None) -> None:
    """Raises PairError when the host's trainer class lacks a hook that pair training needs."""
    problems = broken_hooks(trainer, expected)
    if problems:
        raise PairError(
            f"{host}: {trainer.__name__} is not the trainer that pair training needs ({'; '.join(problems)}); "
            f"use {NEEDED.get(host, host)}"
        )


def report(comparisons: list[Comparison]) -> int:
    """Prints the comparisons of a checkout; 1 when something is missing or changed."""
    for comparison in comparisons:
        verdict = comparison.problem or "ok"
        found = "–" if comparison.found is None else f"({', '.join(comparison.found)})"
        print(f"{comparison.owner}.{comparison.name}: {verdict}\n    found {found}")
        if comparison.problem:
            print(f"    needed ({', '.join(comparison.expected)})")
    problems = sum(bool(comparison.problem) for comparison in comparisons)
    print(f"{len(comparisons)} compared, {problems} missing or changed")
    return 1 if problems else 0
