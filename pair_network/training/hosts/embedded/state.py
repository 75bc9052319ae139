"""Saving and restoring everything a run needs to continue bit for bit."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from accelerate.utils.other import load
from torch import Tensor, nn
from torch.optim import Optimizer

from pair_network.errors import PairError, printable
from pair_network.files import atomic_folder

from .config import EmbeddedOptions

logger = logging.getLogger(__name__)

STATE_FILE = "train_state.json"


@dataclass(frozen=True)
class TrainState:
    """Where a run stands, the settings that its data order follows from, and what else shapes it.

    The first two have sd-scripts' names: the epoch in progress, counted from 1, and the finished optimizer steps.
    ``facts`` are those of ``resume.facts_of``; a state of an older version has none.
    """

    current_epoch: int
    current_step: int
    epoch_finished: bool
    seed: int
    batches_per_epoch: int
    gradient_accumulation_steps: int
    num_processes: int
    facts: dict[str, object] = field(default_factory=dict)


@contextlib.contextmanager
def together(accelerator: Accelerator) -> Iterator[None]:
    """A block that all processes run: where it fails in one it fails in all, which would wait for that one forever.

    Raises:
        PairError: It failed in another process, which says why.
    """
    failed = 0.0
    try:
        yield
    except Exception:
        failed = 1.0
        raise
    finally:
        if accelerator.num_processes > 1:
            flags = accelerator.gather(torch.tensor([failed], device=accelerator.device))
            if flags.max() > 0 and not failed:
                raise PairError(f"process {int(flags.argmax())} of this run could not go on; it says why")


def save_state(accelerator: Accelerator, folder: Path, state: TrainState, needed: int = 0) -> None:
    """Writes the state whole or not at all; called by all processes.

    Raises:
        PairError: The disk is full; an earlier state of this name is as it was.
    """
    with together(accelerator), contextlib.ExitStack() as written:
        temporary = None
        with together(accelerator):
            if accelerator.is_main_process:
                temporary = written.enter_context(atomic_folder(folder, needed))
        temporary = broadcast_object_list([temporary])[0]
        with together(accelerator):  # the folder gets its name when all have written
            accelerator.save_state(str(temporary))
            if accelerator.is_main_process:
                (temporary / STATE_FILE).write_text(json.dumps(asdict(state)), encoding="utf-8")


def state_bytes(network: nn.Module, optimizer: Optimizer) -> int:
    """About how much a state takes on disk: the network, what the optimizer remembers of it, and a little more."""
    remembered = (value for values in optimizer.state.values() for value in values.values())
    tensors = [*network.state_dict().values(), *(value for value in remembered if isinstance(value, Tensor))]
    return (1 << 16) + sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def read_train_state(folder: Path) -> TrainState:
    """The position stored in a state folder.

    Raises:
        PairError: The folder is no state of this host, or its numbers are none that a run has.
    """
    try:
        state = TrainState(**json.loads((folder / STATE_FILE).read_text(encoding="utf-8")))
        counts = [state.current_epoch, state.batches_per_epoch, state.gradient_accumulation_steps, state.num_processes]
        if any(type(count) is not int or not 1 <= count < 1 << 48 for count in counts):
            raise ValueError("a count below 1 or no whole number")
        if type(state.current_step) is not int or type(state.seed) is not int or state.current_step < 0:
            raise ValueError("its step or seed is no whole number")
        if not isinstance(state.facts, dict) or type(state.epoch_finished) is not bool:
            raise ValueError("its facts are no table")
        return state
    except (OSError, ValueError, TypeError, RecursionError) as cause:
        raise PairError(
            f"{printable(folder)}: not a state saved by this host ({_reason(cause)}); --resume names a folder in -state"
        ) from cause


def _reason(cause: BaseException) -> str:
    """What went wrong, without torch's advice to load what can run code."""
    text = " ".join(str(cause).split())
    if "weights_only" in text or isinstance(cause, UnpicklingError):
        return "a file holds something else than numbers, or is damaged"
    return printable(text or type(cause).__name__, 200)


def load_state(accelerator: Accelerator, folder: Path) -> None:
    """Restores weights, optimizer, schedule and random numbers.

    Raises:
        PairError: The state is incomplete, damaged, or belongs to a different network or optimizer.
    """
    random_states = folder / f"random_states_{accelerator.process_index}.pkl"
    if random_states.is_file():
        check_random_states(random_states)
    else:
        logger.warning("%s has no random numbers for this process: the run does not continue identically", folder)
    try:
        accelerator.load_state(str(folder))
    except PairError:
        raise
    except Exception as cause:  # accelerate and torch raise whatever a damaged or foreign file makes of them
        raise PairError(
            f"{printable(folder)}: does not fit this run's network or optimizer ({_reason(cause)}); resume with the "
            "options it was saved with, or from another state"
        ) from cause


def check_random_states(file: Path) -> None:
    """Raises PairError unless the file holds usable random states: accelerate would pass over any other in silence."""
    try:
        states = load(file)
        random.Random().setstate(states["random_state"])
        np.random.RandomState().set_state(states["numpy_random_seed"])
        torch.Generator().set_state(states["torch_manual_seed"])
    except Exception as cause:  # of the unpickler, or of what it found
        raise PairError(
            f"{printable(file)}: damaged ({_reason(cause)}); resume from another state, or remove the file to go on "
            "with other random numbers"
        ) from cause


def check_finite(folder: Path, network: nn.Module, optimizer: Optimizer) -> None:
    """Raises PairError when a loaded state holds NaN or infinity."""
    memory = [entry for state in optimizer.state.values() for entry in state.items()]
    for name, value in [*network.state_dict().items(), *memory]:
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            raise PairError(f"{printable(folder)}: {name} holds NaN or infinity; resume from an earlier state")


def seed_of(args: EmbeddedOptions) -> int:
    """--seed; else that of the state to resume; else one drawn for all processes: the data's order follows from it."""
    if args.seed is not None:
        return args.seed
    if args.resume:
        return read_train_state(Path(args.resume)).seed
    PartialState()
    return int(broadcast_object_list([secrets.randbelow(2**32)])[0])


def style_start_of(args: EmbeddedOptions) -> int | None:
    """--style_start_step; else that of the state to resume, because its default would move with --max_train_steps."""
    if args.style_start_step is not None or not args.resume:
        return args.style_start_step
    start = read_train_state(Path(args.resume)).facts.get("style_start_step")
    return start if type(start) is int else None
