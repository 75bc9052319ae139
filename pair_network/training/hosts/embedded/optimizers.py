"""Optimizers and learning rate schedules by the names that sd-scripts' users write."""

from __future__ import annotations

import ast
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, cast

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pair_network.errors import PairError, nearest
from pair_network.starting import installed_module

from .config import EmbeddedOptions

logger = logging.getLogger(__name__)

# sd-scripts' name in lower case: (module, class, package to install)
OPTIMIZERS: dict[str, tuple[str, str, str]] = {
    "adamw": ("torch.optim", "AdamW", "torch"),
    "sgdnesterov": ("torch.optim", "SGD", "torch"),
    "adafactor": ("transformers.optimization", "Adafactor", "transformers"),
    "lion": ("lion_pytorch", "Lion", "lion-pytorch"),
    "prodigy": ("prodigyopt", "Prodigy", "prodigyopt"),
    "dadaptation": ("dadaptation.experimental", "DAdaptAdamPreprint", "dadaptation"),
    "dadaptadampreprint": ("dadaptation.experimental", "DAdaptAdamPreprint", "dadaptation"),
    "dadaptadanip": ("dadaptation.experimental", "DAdaptAdanIP", "dadaptation"),
    "sgdnesterov8bit": ("bitsandbytes.optim", "SGD8bit", "bitsandbytes"),
    **{
        f"dadapt{kind.lower()}": ("dadaptation", f"DAdapt{kind}", "dadaptation")
        for kind in ("AdaGrad", "Adam", "Adan", "Lion", "SGD")
    },
    **{
        name.lower(): ("bitsandbytes.optim", name, "bitsandbytes")
        for name in ("AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit", "Lion8bit", "PagedLion8bit")
    },
    **{
        name.lower(): ("schedulefree", name, "schedulefree")
        for name in ("AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree")
    },
}


def optimizer_name(args: EmbeddedOptions) -> str:
    """The chosen optimizer in lower case; AdamW when none is named."""
    return (args.optimizer_type or "AdamW").lower()


def get_optimizer(args: EmbeddedOptions, params: Sequence[object]) -> tuple[str, str, Optimizer]:
    """The optimizer over parameters or groups: (module.Class, its arguments as text, the optimizer).

    Raises:
        PairError: An unknown name, a package that is not installed, or an argument that the optimizer does not take.
    """
    kwargs = parse_key_values(args.optimizer_args, "--optimizer_args")
    name = optimizer_name(args)
    kind = optimizer_class(args.optimizer_type or "AdamW")
    learning_rate: float | None = args.learning_rate
    if name.startswith("sgdnesterov"):
        kwargs = {"momentum": 0.9, "nesterov": True, **kwargs}
    if name == "adafactor":
        params, learning_rate = _prepare_adafactor(args, params, kwargs)
    if (name.startswith("dadapt") or name == "prodigy") and args.learning_rate <= 0.1:
        logger.warning("%s finds its own step size: --learning_rate 1.0 is meant, not %s", kind.__name__, learning_rate)
    try:
        build: Callable[..., Optimizer] = kind
        optimizer = build(params, lr=learning_rate, **kwargs)
    except (TypeError, ValueError) as cause:
        raise PairError(f"--optimizer_args: {kind.__name__} does not take {kwargs} ({cause})") from cause
    if is_schedule_free(args):
        cast(ScheduleFree, optimizer).train()
    return f"{kind.__module__}.{kind.__name__}", ",".join(f"{k}={v}" for k, v in kwargs.items()), optimizer


def parse_key_values(entries: Iterable[str] | None, option: str) -> dict[str, object]:
    """Python values from "key=value" texts; PairError when one is not of that form."""
    values = {}
    for entry in entries or ():
        key, separator, text = entry.partition("=")
        try:
            if not separator:
                raise ValueError("no '=' in it")
            value = ast.literal_eval(text.strip())
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError("no finite number")
            values[key.strip()] = value
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as cause:
            words = "is not KEY=VALUE with a finite Python number, a tuple or a text"
            raise PairError(f"{option}: {entry!r} {words}") from cause
    return values


def optimizer_class(name: str) -> type[Optimizer]:
    """The class that a name stands for; PairError when there is none or its package is not installed."""
    if name.lower() in OPTIMIZERS:
        module, attribute, package = OPTIMIZERS[name.lower()]
    elif "." in name:
        module, _, attribute = name.rpartition(".")
        package = module.split(".")[0]
    else:
        module, attribute, package = "torch.optim", name, "torch"
    try:
        kind = getattr(installed_module(module, "--optimizer_type"), attribute)
    except ImportError as cause:
        # A config file from elsewhere must not talk anyone into installing a package that nobody here knows.
        if package in {known for _, _, known in OPTIMIZERS.values()}:
            remedy = f"needs a package that is not installed: pip install {package}"
        else:
            remedy = f"there is no module {module} in this Python{nearest(name.lower(), OPTIMIZERS)}"
        raise PairError(f"--optimizer_type {name}: {remedy}") from cause
    except PairError:
        raise
    except (AttributeError, ValueError, TypeError) as cause:
        hint = nearest(name.lower(), OPTIMIZERS)
        raise PairError(f"--optimizer_type {name}: {module} has no such optimizer{hint}") from cause
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise PairError(f"--optimizer_type {name}: is no optimizer{nearest(name.lower(), OPTIMIZERS)}")
    return kind


def _prepare_adafactor(
    args: EmbeddedOptions, params: Sequence[object], kwargs: dict[str, object]
) -> tuple[Sequence[object], float | None]:
    kwargs.setdefault("relative_step", True)
    if not kwargs["relative_step"]:
        return params, args.learning_rate
    # with relative_step, Adafactor takes no learning rate at all, and neither may its groups
    groups = [group for group in params if isinstance(group, dict)] if isinstance(params, list) else []
    return [{key: value for key, value in group.items() if key != "lr"} for group in groups] or params, None


def with_own_schedule(args: EmbeddedOptions) -> EmbeddedOptions:
    """The options with --lr_scheduler adafactor where AdaFactor sets its own learning rate (relative_step)."""
    if optimizer_name(args) != "adafactor" or args.lr_scheduler == "adafactor":
        return args
    if not parse_key_values(args.optimizer_args, "--optimizer_args").get("relative_step", True):
        return args
    logger.warning("AdaFactor with relative_step sets its own learning rate: --lr_scheduler adafactor is used")
    return replace(args, lr_scheduler="adafactor")


def is_schedule_free(args: EmbeddedOptions) -> bool:
    """Whether the optimizer keeps two sets of weights, one for training and one for everything else."""
    return optimizer_name(args).endswith("schedulefree")


def train_eval_switches(args: EmbeddedOptions, optimizer: Optimizer) -> tuple[Callable[[], None], Callable[[], None]]:
    """(before training, before sampling or saving): they matter for schedule-free optimizers only."""
    if not is_schedule_free(args):
        return lambda: None, lambda: None
    weights = _TwoSets(cast(ScheduleFree, optimizer))
    return weights.train, weights.evaluate


class ScheduleFree(Protocol):
    """What is used of a schedule-free optimizer."""

    param_groups: list[Mapping[str, Sequence[Tensor]]]

    def train(self) -> None: ...
    def eval(self) -> None: ...


class _TwoSets:
    """The two sets of weights of a schedule-free optimizer. It computes one from the other, which rounds: the training
    weights are kept meanwhile, so that a save or a preview changes nothing, not even the last bit."""

    def __init__(self, optimizer: ScheduleFree):
        self.optimizer = optimizer
        self.kept: list[Tensor] = []

    def _params(self) -> list[Tensor]:
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    def evaluate(self) -> None:
        if not self.kept:
            self.kept = [param.detach().clone() for param in self._params()]
            self.optimizer.eval()

    def train(self) -> None:
        self.optimizer.train()
        with torch.no_grad():
            for param, kept in zip(self._params(), self.kept, strict=False):
                param.copy_(kept)
        self.kept = []


def get_lr_scheduler(args: EmbeddedOptions, optimizer: Optimizer, num_processes: int) -> LRScheduler:
    """The learning rate schedule.

    Its length counts ``num_processes`` calls per optimizer step, which is how often accelerate calls it.

    Raises:
        PairError: The schedule does not fit the optimizer or the warm-up.
    """
    check_lr_scheduler(args)
    if args.lr_scheduler == "adafactor":
        return _adafactor_schedule(args, optimizer)
    steps = args.max_train_steps
    warmup = args.lr_warmup_steps
    warmup_steps = int(warmup * steps) if isinstance(warmup, float) else warmup
    if warmup_steps >= steps:
        raise PairError(f"--lr_warmup_steps {warmup_steps} leaves nothing of the {steps} training steps")
    return get_scheduler(
        args.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=warmup_steps * num_processes,
        num_training_steps=steps * num_processes,
        num_cycles=args.lr_scheduler_num_cycles,
        power=args.lr_scheduler_power,
    )


def check_lr_scheduler(args: EmbeddedOptions) -> None:
    """Raises PairError for a schedule that contradicts the optimizer or the warm-up."""
    if is_schedule_free(args) and (args.lr_scheduler != "constant" or args.lr_warmup_steps):
        raise PairError(
            f"{args.optimizer_type} has no schedule: --lr_scheduler constant and --lr_warmup_steps 0; its warm-up is "
            "--optimizer_args warmup_steps=N"
        )
    if args.lr_scheduler == "constant" and args.lr_warmup_steps:
        raise PairError("--lr_scheduler constant has no warm-up: use constant_with_warmup, or --lr_warmup_steps 0")
    if args.lr_scheduler == "adafactor" and optimizer_name(args) != "adafactor":
        raise PairError("--lr_scheduler adafactor works with --optimizer_type AdaFactor alone")


def _adafactor_schedule(args: EmbeddedOptions, optimizer: Optimizer) -> LRScheduler:
    from transformers.optimization import AdafactorSchedule

    return AdafactorSchedule(optimizer, args.learning_rate)


def rate_logs(schedule: LRScheduler, names: list[str] | None, optimizer: Optimizer | None) -> dict[str, float]:
    """The learning rate of every parameter group, for the trackers."""
    logs = {}
    groups = optimizer.param_groups if optimizer is not None else []
    for i, rate in enumerate(schedule.get_last_lr()):
        name = names[i] if names else f"group{i}"
        logs[f"lr/{name}"] = float(rate)
        if i < len(groups) and "d" in groups[i]:
            # Prodigy and D-Adaptation: the step size they found
            logs[f"lr/d*lr/{name}"] = float(groups[i]["d"] * groups[i]["lr"])
    return logs


def reduce_gradients(accelerator: Accelerator, network: nn.Module) -> None:
    """Replaces every gradient by its mean over the processes, in one reduction."""
    grads = [param.grad for param in network.parameters() if param.grad is not None]
    if accelerator.num_processes == 1 or not grads:
        return
    flat = accelerator.reduce(torch.cat([grad.float().reshape(-1) for grad in grads]), reduction="mean")
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))
