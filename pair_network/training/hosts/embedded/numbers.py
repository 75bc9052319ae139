"""Numbers that no training recovers from, found where they come in and not where they show: at a later step's loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from pair_network.errors import PairError, printable

LARGEST_RATE = 1000.0  # D-Adaptation's and Prodigy's is 1
RATES = ("learning_rate", "unet_lr", "text_encoder_lr")
LARGEST_SEED = 2**32 - 1  # numpy's
MOST_TIMESTEPS = 10_000
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")


def check_options(options: Mapping[str, object]) -> None:
    """Raises PairError for an option that is no finite number, a rate that only overflows, or a seed that is none."""
    for name, value in options.items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise PairError(f"--{name} {number}: a finite number is needed")
            if name in RATES and isinstance(number, (int, float)) and not 0 <= number <= LARGEST_RATE:
                raise PairError(f"--{name} {number:g}: a learning rate lies between 0 and {LARGEST_RATE:g}")
    seed = options.get("seed")
    if isinstance(seed, int) and not 0 <= seed <= LARGEST_SEED:
        raise PairError(f"--seed {printable(seed, 40)}: a seed lies between 0 and {LARGEST_SEED}")


def check_weights(model: nn.Module, where: Path) -> None:
    """Raises PairError when a loaded model holds NaN or infinity, which training would blame on its learning rate."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        values = tensor if type(tensor.data) is Tensor else tensor.dequantize()  # torchao's 8-bit weights
        if values.is_floating_point() and not torch.isfinite(values).all():
            raise PairError(f"{printable(where)}: {name} holds NaN or infinity; download or convert the model again")


def check_latents(latents: Tensor, names: Sequence[object]) -> Tensor:
    """The latents, if they are finite.

    Raises:
        PairError: The VAE overflowed.
    """
    if torch.isfinite(latents).all():
        return latents
    shown = printable(", ".join(map(str, names)))
    raise PairError(f"{shown}: the VAE gives no finite latents for it; use --no_half_vae")


def check_schedule(config: Mapping[str, object], file: Path) -> None:
    """Raises PairError for a scheduler_config.json that describes no noise schedule."""

    def refuse(words: str) -> NoReturn:
        raise PairError(f"{printable(file)}: {words}; download the model again")

    steps = config.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 1 <= steps <= MOST_TIMESTEPS:
        refuse(f"num_train_timesteps is {printable(steps, 40)}, no whole number from 1 to {MOST_TIMESTEPS}")
    betas = []
    for name, usual in (("beta_start", 0.0001), ("beta_end", 0.02)):
        beta = config.get(name, usual)
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 < beta < 1:
            refuse(f"{name} is {printable(beta, 40)}, no number between 0 and 1")
        betas.append(beta)
    if betas[0] > betas[1]:
        refuse("beta_start is larger than beta_end")
    kind = config.get("beta_schedule", "linear")
    if kind not in BETA_SCHEDULES:
        refuse(f"beta_schedule is {printable(kind, 40)}, none of {', '.join(BETA_SCHEDULES)}")
    trained = config.get("trained_betas")
    if trained is not None and not _are_betas(trained, steps):
        refuse(f"trained_betas is no list of {steps} numbers between 0 and 1")
    if not isinstance(config.get("rescale_betas_zero_snr") or False, bool):
        refuse("rescale_betas_zero_snr is neither true nor false")


def _are_betas(values: object, count: int) -> bool:
    if not isinstance(values, list) or len(values) != count:
        return False
    return all(isinstance(value, float) and 0 < value < 1 for value in values)
