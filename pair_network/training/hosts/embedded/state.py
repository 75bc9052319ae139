"""Saving and restoring everything a run needs to continue bit for bit."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import Tensor

from pair_network.errors import PairError
from pair_network.files import atomic_folder

from .config import EmbeddedOptions

logger = logging.getLogger(__name__)

STATE_FILE = "train_state.json"


@dataclass(frozen=True)
class TrainState:
    """Where a run stands, and the settings that its data order follows from.

    The first two have sd-scripts' names: the epoch in progress, counted from 1, and the finished optimizer steps.
    """

    current_epoch: int
    current_step: int
    epoch_finished: bool
    seed: int
    batches_per_epoch: int
    gradient_accumulation_steps: int
    num_processes: int


def save_state(accelerator: Accelerator, folder: Path, state: TrainState, needed: int = 0) -> None:
    """Writes the state whole or not at all; called by all processes.

    Raises:
        PairError: The disk is full; an earlier state of this name is as it was.
    """
    with contextlib.ExitStack() as written:
        temporary = None
        if accelerator.is_main_process:
            temporary = written.enter_context(atomic_folder(folder, needed))
        temporary = broadcast_object_list([temporary])[0]
        accelerator.save_state(str(temporary))
        if accelerator.is_main_process:
            (temporary / STATE_FILE).write_text(json.dumps(asdict(state)), encoding="utf-8")
        accelerator.wait_for_everyone()
    accelerator.wait_for_everyone()


def state_bytes(network: Any, optimizer: Any) -> int:
    """About how much a state takes on disk: the network, what the optimizer remembers of it, and a little more."""
    remembered = (value for values in optimizer.state.values() for value in values.values())
    tensors = [*network.state_dict().values(), *(value for value in remembered if isinstance(value, Tensor))]
    return (1 << 16) + sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def read_train_state(folder: Path) -> TrainState:
    """The position stored in a state folder.

    Raises:
        PairError: The folder is no state of this host.
    """
    try:
        return TrainState(**json.loads((folder / STATE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as cause:
        raise PairError(
            f"{folder}: not a state saved by this host ({cause}); --resume names a folder in -state"
        ) from cause


def load_state(accelerator: Accelerator, folder: Path) -> None:
    """Restores weights, optimizer, schedule and random numbers.

    Raises:
        PairError: The state is incomplete or belongs to a different network or optimizer.
    """
    random_states = folder / f"random_states_{accelerator.process_index}.pkl"
    if not random_states.is_file():
        logger.warning("%s has no random numbers for this process: the run does not continue identically", folder)
    try:
        accelerator.load_state(str(folder))
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, SafetensorError, UnpicklingError) as cause:
        reason = " ".join(str(cause).split())[:300]
        raise PairError(
            f"{folder}: does not fit this run's network or optimizer ({reason}); resume with the options it "
            "was saved with"
        ) from cause


def seed_of(args: EmbeddedOptions) -> int:
    """--seed; else that of the state to resume; else one drawn for all processes: the data's order follows from it."""
    if args.seed is not None:
        return args.seed
    if args.resume:
        return read_train_state(Path(args.resume)).seed
    PartialState()
    return int(broadcast_object_list([secrets.randbelow(2**32)])[0])


def warn_of_changes(saved: TrainState, now: TrainState) -> None:
    """Warns when a setting that decides the order of the data differs from the saved run's."""
    for name in ("seed", "batches_per_epoch", "gradient_accumulation_steps", "num_processes"):
        before, after = getattr(saved, name), getattr(now, name)
        if before != after:
            logger.warning(
                "%s was %s in the saved run and is %s now: it does not continue identically", name, before, after
            )
