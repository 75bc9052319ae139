"""Every optimizer and schedule that this host knows by name, for three content-only steps and three joint ones.

The frozen rows have no gradient, and in content-only steps the style branch has none: what an optimizer or a schedule
does with such groups shows only in a whole run.
"""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file

from pair_network.training.hosts.embedded.config import LR_SCHEDULERS
from pair_network.training.hosts.embedded.optimizers import OPTIMIZERS

# Rates at which six steps move the weights visibly; Prodigy finds its own step, beginning with a tiny one.
RATES = {"prodigy": "1"}
# RAdam makes its first steps without moving anything, unless it is told to.
ARGUMENTS = {"radamschedulefree": ["--optimizer_args", "silent_sgd_phase=False"]}
PHASES = ["--style_start_step", "3", "--max_train_steps", "6", "--cache_latents", "--save_every_n_steps", "3"]


def skip_without(name):
    package = OPTIMIZERS.get(name, ("torch",))[0].split(".")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs the package {package}")


def up_sizes(path, branch):
    tensors = load_file(path)
    return [float(value.abs().max()) for key, value in tensors.items() if key.startswith(branch) and "lora_up" in key]


def check_run(out):
    """Content moves from the start, style from the joint phase on, and nothing is infinite."""
    half, end = out / "x-step00000003.pair.safetensors", out / "x.pair.safetensors"
    assert min(up_sizes(half, "content.")) > 0 and max(up_sizes(half, "style.")) == 0
    assert min(up_sizes(end, "style.")) > 0
    assert all(torch.isfinite(value).all() for value in load_file(end).values())


@pytest.mark.parametrize("schedule", ["joint", "alternate"])
@pytest.mark.parametrize("name", [*OPTIMIZERS, "adagrad", "torch.optim.RMSprop"])
def test_every_optimizer_trains_both_phases(train, pairs, name, schedule):
    skip_without(name)
    name = "Adagrad" if name == "adagrad" else name
    options = ["--optimizer_type", name, "--learning_rate", RATES.get(name, "1e-3"), *ARGUMENTS.get(name, [])]
    check_run(train(pairs, *PHASES, *options, "--pair_schedule", schedule))


@pytest.mark.parametrize("name", LR_SCHEDULERS)
def test_every_schedule_trains_both_phases(train, pairs, name):
    options = ["--optimizer_type", "AdaFactor"] if name == "adafactor" else []
    warm_up = [] if name in ("constant", "adafactor") else ["--lr_warmup_steps", "1"]
    check_run(train(pairs, *PHASES, "--lr_scheduler", name, *options, *warm_up))


def test_adafactor_with_a_rate_of_its_own_trains_both_phases(train, pairs):
    check_run(train(pairs, *PHASES, "--optimizer_type", "AdaFactor", "--optimizer_args", "relative_step=False"))


def test_transformers_schedule_is_itself_again_after_a_run(train, pairs):
    from transformers.optimization import AdafactorSchedule

    before = AdafactorSchedule.get_lr
    train(pairs, "--style_start_step", "1", "--max_train_steps", "2", "--optimizer_type", "AdaFactor")
    assert AdafactorSchedule.get_lr is before
