"""The training loop: steps, saves, interruptions and resuming."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import torch
from tqdm import tqdm

from pair_network.errors import PairError

from ...protocols import Batch, StepInputs
from .dataset import place_batches
from .hooks import TrainerHooks
from .interrupt import Interrupt
from .resume import RATES, apply_rates, compare, facts_of, initial_rates
from .saving import Saver, step_name
from .session import Session, init_trackers
from .state import TrainState, check_finite, load_state, read_train_state, together

AVERAGED_LOSSES = 100
Norms = tuple[int, float, float] | tuple[None, None, None]  # keys scaled, mean and largest norm


class TrainingLoop:
    """Runs a prepared session from its first step, or from a saved state, to its last."""

    def __init__(self, trainer: TrainerHooks, session: Session):
        self.trainer = trainer
        self.session = session
        self.args = session.args
        self.accelerator = session.accelerator
        self.accumulation = self.args.gradient_accumulation_steps
        self.num_epochs = -(-self.args.max_train_steps // session.steps_per_epoch)
        self.saver = Saver(trainer, session, self.num_epochs)
        self.facts = facts_of(session, self.saver.metadata)
        self.use_train_weights, self.use_eval_weights = self.saver.use_train_weights, self.saver.use_eval_weights
        self.interrupt = Interrupt(session.accelerator)
        self.losses: deque[float] = deque(maxlen=AVERAGED_LOSSES)
        self.global_step = 0
        self.epoch = 0
        self.epoch_steps_done = 0

    def run(self) -> None:
        """Trains to the end, or until the run is interrupted.

        Raises:
            PairError: The options leave nothing to train, or the state to resume from does not fit.
            SystemExit: The run was interrupted and its state saved.
        """
        self._announce()
        init_trackers(self.accelerator, self.args)
        with self.interrupt:
            # nothing may draw random numbers between this and the first step
            self._resume()
            if self.global_step == 0:
                self.use_eval_weights()
                self._previews(0)
                self.use_train_weights()
                if self.interrupt.requested():
                    self._leave("stopped before the first step; nothing was trained")
            with self._progress_bar() as progress:
                while self.epoch < self.num_epochs:
                    self._run_epoch(progress)
                    self._after_epoch()
                    self.epoch += 1
            self._finish()

    def _announce(self) -> None:
        session = self.session
        if self.accumulation > session.batches_per_epoch:
            raise PairError(
                f"--gradient_accumulation_steps {self.accumulation} is more than the {session.batches_per_epoch} "
                "batches of an epoch, where a step ends: raise num_repeats (or --dataset_repeats)"
            )
        self.accelerator.print(
            f"training: {session.dataset.num_pairs} pairs, {session.batches_per_epoch} batches per epoch, "
            f"{self.num_epochs} epochs, {self.args.max_train_steps} steps, seed {self.args.seed}"
        )

    def _progress_bar(self) -> tqdm:
        return tqdm(
            total=self.args.max_train_steps,
            initial=self.global_step,
            desc="steps",
            disable=not self.accelerator.is_local_main_process,
        )

    def _run_epoch(self, progress: tqdm) -> None:
        session, accelerator = self.session, self.accelerator
        session.bare_network.on_epoch_start(session.text_encoder, session.unet)
        skip = self.epoch_steps_done * self.accumulation
        self.epoch_steps_done = 0
        for number, batch in place_batches(
            session.dataset, self.epoch, skip, accelerator.process_index, accelerator.num_processes
        ):
            if self.global_step >= self.args.max_train_steps:
                break
            self._run_batch(number, batch)
            if accelerator.sync_gradients:
                self._after_step(progress)
                # Asked of all processes first; after the last step there is nothing left to resume.
                if self.interrupt.requested() and self.global_step < self.args.max_train_steps:
                    progress.close()
                    self._stop()

    def _run_batch(self, number: int, batch: Batch) -> None:
        """Forward and backward of one batch, and the optimizer step when it is the last of its group."""
        session, accelerator = self.session, self.accelerator
        first = number // self.accumulation * self.accumulation
        group_size = min(self.accumulation, session.batches_per_epoch - first)
        if number == session.batches_per_epoch - 1:
            # a step ends with its epoch, even after fewer batches than accelerate counts
            accelerator.step = self.accumulation - 1
        with accelerator.accumulate(session.network):
            if hasattr(session.bare_network, "on_step_start"):
                session.bare_network.on_step_start(session.text_encoder, session.unet)
            loss = self._process(batch)
            # accelerate divides by the accumulation steps; the last group of an epoch may be smaller
            accelerator.backward(loss if group_size == self.accumulation else loss * (self.accumulation / group_size))
            if accelerator.sync_gradients:
                self.trainer.all_reduce_network(accelerator, session.network)
                if self.args.max_grad_norm:
                    accelerator.clip_grad_norm_(session.bare_network.get_trainable_params(), self.args.max_grad_norm)
            session.optimizer.step()
            session.lr_scheduler.step()
            session.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.detach().item())

    def _process(self, batch: Batch) -> torch.Tensor:
        s = self.session
        self.trainer.on_step_start(
            s.args, s.accelerator, s.network, s.text_encoders, s.unet, batch, s.weight_dtype, is_train=True
        )
        step = StepInputs(
            batch, s.text_encoders, s.unet, s.network, s.vae, s.noise_scheduler, s.vae_dtype, s.weight_dtype,
            s.accelerator, s.args, s.text_encoding_strategy, s.tokenize_strategy,
            train_text_encoder=s.train_text_encoder, train_unet=s.train_unet,
        )  # fmt: skip
        return self.trainer.process_batch(*step.positional())

    def _after_step(self, progress: tqdm) -> None:
        self.global_step += 1
        norms: Norms = (None, None, None)
        if self.args.scale_weight_norms:
            norms = self.session.bare_network.apply_max_norm_regularization(
                self.args.scale_weight_norms, self.accelerator.device
            )
        self.use_eval_weights()
        if self.global_step < self.args.max_train_steps:  # the last save has the run's name, its previews come after it
            if self.args.save_every_n_steps and self.global_step % self.args.save_every_n_steps == 0:
                self.saver.save_step(self._state())
            self._previews(None)
        self.use_train_weights()
        self._log(progress, norms)

    def _log(self, progress: tqdm, norms: Norms) -> None:
        average = sum(self.losses) / len(self.losses)
        progress.update(1)
        progress.set_postfix(self.trainer.progress_postfix({"avr_loss": average}), refresh=False)
        if self.accelerator.trackers:
            s = self.session
            logs = self.trainer.generate_step_logs(
                self.args, self.losses[-1], average, s.lr_scheduler, s.lr_descriptions, s.optimizer, *norms
            )
            self.trainer.step_logging(self.accelerator, logs, self.global_step, self.epoch + 1)

    def _after_epoch(self) -> None:
        number = self.epoch + 1
        self.accelerator.wait_for_everyone()
        self.use_eval_weights()
        every = self.args.save_every_n_epochs
        if every and number % every == 0 and number < self.num_epochs:
            self.saver.save_epoch(self._state(epoch_finished=True))
        self._previews(number)
        self.use_train_weights()

    def _finish(self) -> None:
        self.epoch = self.num_epochs - 1
        self.accelerator.wait_for_everyone()
        self.use_eval_weights()
        finished = self.global_step == self.num_epochs * self.session.steps_per_epoch
        self.saver.save_last(self._state(epoch_finished=finished))
        self._previews(None)
        if self.interrupt.requested():
            self._leave("stopped after the last step: all files are written, previews may be missing")
        self.accelerator.end_training()

    def _stop(self) -> None:
        """Saves weights and state where the run stands, and leaves."""
        name = step_name(self.args, self.global_step)
        self.use_eval_weights()
        self.saver.save(name, self._state(), with_state=True)
        self._leave(
            f"stopped after step {self.global_step}; to continue: the same options and "
            f'--resume "{self.saver.state_folder(name)}"'
        )

    def _leave(self, words: str) -> None:
        self.accelerator.print(words)
        self.accelerator.end_training()
        raise SystemExit(self.interrupt.exit_code)

    def _previews(self, epoch: int | None) -> None:
        """Pictures to look at: a signal breaks them off, or keeps them from beginning."""
        s = self.session
        with together(self.accelerator), self.interrupt.may_break_off():
            if self.interrupt.signum:
                return
            self.trainer.sample_images(
                s.accelerator, s.args, epoch, self.global_step, s.accelerator.device, s.vae, s.tokenizers,
                s.text_encoder, s.unet,
            )  # fmt: skip

    def _state(self, epoch_finished: bool = False) -> TrainState:
        assert self.args.seed is not None  # drawn at the start where none is given
        return TrainState(
            current_epoch=self.epoch + 1,
            current_step=self.global_step,
            epoch_finished=epoch_finished,
            seed=self.args.seed,
            batches_per_epoch=self.session.dataset.batches_per_epoch,
            gradient_accumulation_steps=self.accumulation,
            num_processes=self.accelerator.num_processes,
            facts=self.facts,
        )

    def _resume(self) -> None:
        if not self.args.resume:
            return
        folder = Path(self.args.resume)
        saved = read_train_state(folder)
        if saved.current_step >= self.args.max_train_steps:
            raise PairError(
                f"{folder} is at step {saved.current_step}, so --max_train_steps {self.args.max_train_steps} leaves "
                "nothing to do; raise it"
            )
        rates = initial_rates(self.session)
        changed = compare(folder, saved.facts, self.facts)
        load_state(self.accelerator, folder)
        check_finite(folder, self.session.bare_network, self.session.optimizer)
        if RATES & {*changed}:
            apply_rates(self.session, rates)
        self.use_train_weights()
        self.global_step = saved.current_step
        length = self.session.steps_per_epoch
        self.epoch = saved.current_epoch - (0 if saved.epoch_finished else 1)
        if not 0 <= self.global_step - self.epoch * length <= length:  # other pairs, or another number of processes
            self.epoch = self.global_step // length
        self.epoch_steps_done = self.global_step - self.epoch * length
