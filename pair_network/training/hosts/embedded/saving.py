"""What a run writes: file names as sd-scripts forms them, LoRA files, states, and the removal of old ones."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from pair_network import leftovers
from pair_network.errors import PairError
from pair_network.files import check_space, remove_folder

from .config import EmbeddedOptions
from .hooks import TrainerHooks
from .metadata import stringified, training_metadata
from .optimizers import train_eval_switches
from .session import DTYPES, Session
from .state import TrainState, save_state, state_bytes, together

logger = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pair.safetensors")


def step_name(args: EmbeddedOptions, step: int) -> str:
    """File name without extension of the save after ``step`` optimizer steps."""
    return f"{args.output_name or 'at'}-step{step:08d}"


def epoch_name(args: EmbeddedOptions, epoch: int) -> str:
    """File name without extension of the save after ``epoch`` epochs."""
    return f"{args.output_name or 'epoch'}-{epoch:06d}"


def last_name(args: EmbeddedOptions) -> str:
    """File name without extension of the last save."""
    return str(args.output_name or "last")


def outdated_step(step: int, save_every: int, keep_steps: int | None) -> int | None:
    """The save that falls out of the last ``keep_steps`` steps when ``step`` is saved; None: nothing to remove."""
    if keep_steps is None:
        return None
    oldest = step - keep_steps - 1
    oldest -= oldest % save_every
    return oldest if oldest > 0 else None


def outdated_epoch(epoch: int, save_every: int, keep_saves: int | None) -> int | None:
    """The save that falls out of the last ``keep_saves`` when ``epoch`` is saved; None: nothing to remove."""
    if keep_saves is None:
        return None
    oldest = epoch - save_every * keep_saves
    return oldest if oldest > 0 else None


class Saver:
    """Writes a session's files; every method is called by all processes, the main one writes."""

    def __init__(self, trainer: TrainerHooks, session: Session, num_epochs: int):
        self.trainer = trainer
        self.session = session
        self.args = session.args
        self.folder = Path(session.args.output_dir)
        bare = getattr(session.optimizer, "optimizer", session.optimizer)  # without accelerate's wrapper
        self.use_train_weights, self.use_eval_weights = train_eval_switches(self.args, bare)
        with together(session.accelerator):
            self._make_folder()
        facts = {
            "session_id": time.time_ns() % 2**32,
            "training_started_at": time.time(),
            "num_epochs": num_epochs,
            "base_model_version": session.model_version,
            "optimizer": session.optimizer_name,
        }
        self.metadata = training_metadata(self.args, session.dataset, facts)
        trainer.update_metadata(self.metadata, self.args)

    def save(self, name: str, state: TrainState, with_state: bool) -> None:
        """Writes NAME.safetensors (through the network) and NAME-state."""
        accelerator = self.session.accelerator
        with together(accelerator):
            if accelerator.is_main_process:
                self._save_weights(name, state)
        if with_state:
            self.use_train_weights()  # a schedule-free optimizer goes on from these
            save_state(accelerator, self.state_folder(name), state, self._state_bytes())
            self.use_eval_weights()

    def _save_weights(self, name: str, state: TrainState) -> None:
        metadata = {
            **self.metadata,
            "ss_training_finished_at": time.time(),
            "ss_steps": state.current_step,
            "ss_epoch": state.current_epoch,
        }
        texts = stringified(metadata, self.args.no_metadata)
        texts.update(self.trainer.get_sai_model_spec(self.args))
        dtype = DTYPES[self.args.save_precision] if self.args.save_precision else None
        self.session.bare_network.save_weights(str(self.folder / f"{name}.safetensors"), dtype, texts)

    def save_step(self, state: TrainState) -> None:
        """The save of --save_every_n_steps; removes what --save_last_n_steps no longer keeps."""
        args, step = self.args, state.current_step
        self.save(step_name(args, step), state, with_state=args.save_state)
        keep, keep_state = args.save_last_n_steps, args.save_last_n_steps_state or args.save_last_n_steps
        every = args.save_every_n_steps or 1
        self._remove(step_name, outdated_step(step, every, keep), outdated_step(step, every, keep_state))

    def save_epoch(self, state: TrainState) -> None:
        """The save of --save_every_n_epochs; removes what --save_last_n_epochs no longer keeps."""
        args, epoch = self.args, state.current_epoch
        self.save(epoch_name(args, epoch), state, with_state=args.save_state)
        keep, keep_state = args.save_last_n_epochs, args.save_last_n_epochs_state or args.save_last_n_epochs
        every = args.save_every_n_epochs or 1
        self._remove(epoch_name, outdated_epoch(epoch, every, keep), outdated_epoch(epoch, every, keep_state))

    def save_last(self, state: TrainState) -> None:
        """The save at the end of training."""
        with_state = self.args.save_state or self.args.save_state_on_train_end
        self.save(last_name(self.args), state, with_state=with_state)

    def _make_folder(self) -> None:
        """Raises PairError now, and not after hours of training, when the folder cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise PairError(f"{self.folder}: --output_dir cannot be made ({cause}); name another folder") from cause
        if not os.access(self.folder, os.W_OK):
            raise PairError(f"{self.folder}: --output_dir is not writable; name another folder")
        if self.session.accelerator.is_main_process:
            for folder in (self.folder, self.folder / "sample"):
                leftovers.clean_once(os.path.abspath(folder))
            check_space(self.folder, self._state_bytes())

    def _state_bytes(self) -> int:
        return state_bytes(self.session.bare_network, self.session.optimizer)

    def state_folder(self, name: str) -> Path:
        return self.folder / f"{name}-state"

    def _remove(self, name: Callable[[EmbeddedOptions, int], str], weights: int | None, state: int | None) -> None:
        with together(self.session.accelerator):
            if not self.session.accelerator.is_main_process:
                return
            if weights is not None:
                remove_weights(self.folder, name(self.args, weights))
            if state is not None:
                remove_folder(self.state_folder(name(self.args, state)))


def remove_weights(folder: Path, name: str) -> None:
    """Removes a save's files: the style LoRA and the coupled checkpoint beside it."""
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.exists():
            logger.info("removing old checkpoint %s", path)
            path.unlink()
