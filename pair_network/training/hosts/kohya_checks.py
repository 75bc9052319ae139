"""What makes kohya's trainers end in a traceback, often after minutes of loading: told in one line before that."""

from __future__ import annotations

import argparse
import copy
import importlib.util
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from pair_network.errors import PairError, is_out_of_memory, printable
from pair_network.network.config import parse_network_args

from ..options import key_values
from .input_files import check_input_files

# A switch that needs a package which the trainer does not bring.
PACKAGES = {
    "xformers": "xformers",
    "flash_attn": "flash_attn",
    "flash3": "flash_attn_interface",
    "sage_attn": "sageattention",
}
# What the trainers, torch and the packages of optimizers raise on a setting that they cannot use.
MISTAKES = (ImportError, AttributeError, TypeError, ValueError, AssertionError, KeyError, SyntaxError, RuntimeError)


def check_run(args: argparse.Namespace, needed: Sequence[str] = (), takes_folders: Collection[str] = ()) -> None:
    """Raises PairError for what either trainer would stumble over: files, packages, the network's settings.

    Args:
        args: The trainer's options.
        needed: Options that name the files without which it cannot start.
        takes_folders: Options that take a folder, a hub name or a pickle in place of a .safetensors file.
    """
    for name in needed:
        if not getattr(args, name):
            raise PairError(f"--{name} is missing: name the .safetensors file")
    for name, package in PACKAGES.items():
        if getattr(args, name, False) and importlib.util.find_spec(package) is None:
            raise PairError(f"--{name}: needs the package {package} in the trainer's environment; --sdpa needs none")
    check_input_files(vars(args), takes_folders)
    parse_network_args(args.network_dim, args.network_alpha, args.network_dropout, key_values(args.network_args))


def check_resolution(text: object) -> list[int]:
    """Width and height, or one number for both.

    Raises:
        PairError: The text is missing or something else.
    """
    if text is None:
        raise PairError("--resolution is missing: give the training size in pixels, for example --resolution 1024")
    try:
        sides = [int(part) for part in str(text).split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise PairError(f"--resolution must be SIZE or WIDTH,HEIGHT in pixels, not {text!r}")
    return sides


@contextmanager
def unlogged() -> Iterator[None]:
    """Inside the block nothing is logged."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def told(option: str, remedy: str, kinds: tuple[type[Exception], ...] = MISTAKES) -> Iterator[None]:
    """Inside the block a trainer's complaint is a PairError: the option, what it says, and the remedy."""
    try:
        yield
    except PairError:
        raise
    except kinds as cause:
        if isinstance(cause, (RuntimeError, MemoryError)) and is_out_of_memory(cause):
            raise  # it has a remedy of its own
        words = printable(" ".join(str(cause).split()), 250) or type(cause).__name__
        raise PairError(f"{option}: {words}; {remedy}") from cause


def telling(trainer: type, hooks: Mapping[str, tuple[str, str]]) -> type:
    """The trainer's class with hooks whose complaints are one line.

    Args:
        trainer: A trainer of kohya's.
        hooks: Method that reads options or files -> what it reads, and the remedy. Those that it lacks are left out.
    """

    def wrapped(name: str, what: str, remedy: str) -> Callable[..., object]:
        def hook(self: object, *args: object, **named: object) -> object:
            with told(what, remedy, (Exception,)):  # what reads files raises whatever a broken one makes of it
                return getattr(super(told_trainer, self), name)(*args, **named)

        return hook

    members = {name: wrapped(name, *words) for name, words in hooks.items() if hasattr(trainer, name)}
    told_trainer = type(trainer.__name__, (trainer,), members)
    return told_trainer


def check_optimizer(
    args: argparse.Namespace,
    make_optimizer: Callable[[argparse.Namespace, list[dict[str, object]]], tuple[object, ...]],
    make_schedule: Callable[[argparse.Namespace, object, int], object],
) -> None:
    """Makes the trainer's optimizer and schedule once over a single number.

    Args:
        args: The trainer's options, which stay as they are.
        make_optimizer: The trainer's own function; it returns name, arguments, the optimizer, and what it likes.
        make_schedule: The trainer's own function.

    Raises:
        PairError: One of them cannot be made: an unknown name, a wrong argument, a package that is not installed.
    """
    tried = copy.copy(args)  # kohya writes AdaFactor's settings into the options
    name = args.optimizer_type or "AdamW"
    group = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": args.learning_rate}
    with unlogged():  # both are made, and reported, again
        with told(f"--optimizer_type {name}", "correct it or --optimizer_args, or install its package"):
            optimizer = make_optimizer(tried, [group])[2]
        with told(f"--lr_scheduler {args.lr_scheduler}", "correct it, --lr_warmup_steps or --lr_scheduler_args"):
            make_schedule(tried, optimizer, 1)


def check_dataset(values: Mapping[str, object], sanitize: Callable[[Mapping[str, object]], object], path: Path) -> None:
    """Raises PairError where the trainer's own schema refuses a dataset file."""
    from voluptuous import Invalid  # of the trainer's environment

    try:
        with unlogged():
            sanitize(values)
    except Invalid as cause:
        reason = printable(" ".join(str(cause).split()), 250)
        raise PairError(f"{path}: {reason}; correct this key of the dataset file") from cause
