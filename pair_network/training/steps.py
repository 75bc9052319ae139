"""Which phase a training step is in, what it reports, and what a saved state keeps: the same on every host."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from pair_network.errors import PairError
from pair_network.network.pair_network import PairNetwork

from .absent_pairs import absent_pairs_kept
from .idle_groups import idle_groups_scheduled
from .objective import Phase, check_schedule, default_style_start, phase_of
from .options import HostOptions, style_words
from .protocols import Accelerator, Args, Trains
from .report.recording import Recording

logger = logging.getLogger(__name__)

STATE_FILE = "pair_state.json"


class PairSteps(Trains[Args]):
    """Mixin over a host's trainer class: counts optimizer updates and closes every step alike.

    The host adapter calls ``_begin_step`` before its forward pass and ``_finish_step`` on the loss.
    """

    def __init__(self, *args: object, **kwargs: object):
        super().__init__(*args, **kwargs)
        self.pair_step: int | None = None  # optimizer updates made; known once a resumed state was read
        self.pair_network: PairNetwork | None = None
        self._resumed_step: int | None = None
        self.pair_captions: list[tuple[str, str]] = []
        self._is_main_process = False
        self._phase = Phase.JOINT
        self._last_losses: dict[str, Tensor] = {}
        self._open = contextlib.ExitStack()
        self._recording: Recording | None = None

    def train(self, args: Args | argparse.Namespace) -> None:
        """Trains, and says at the end how orthogonal the branches stayed."""
        state = "stopped"
        try:
            with self._open, idle_groups_scheduled():
                super().train(args)
            state = "done"
        finally:
            if self._recording is not None:
                self._recording.end(state)
        if self.pair_network is not None and self._is_main_process:
            report = self.pair_network.orthogonality_report()
            print(
                f"orthogonality: largest |Gram - I| {report['gram_defect']:.1e}, "
                f"largest |cosine| between content and style rows {report['branch_overlap']:.1e}"
            )

    def keep_state(self, accelerator: Accelerator) -> None:
        """Lets the host's saved states hold the number of updates, and a resumed run begin from it."""
        accelerator.register_save_state_pre_hook(self._write_state)
        accelerator.register_load_state_pre_hook(self._read_state)

    def _write_state(self, models: list[nn.Module], weights: list[dict[str, Tensor]], output_dir: str) -> None:
        """Beside the host's saved state: the number of updates made, which decides a resumed run's phase."""
        path = Path(output_dir) / STATE_FILE
        path.write_text(json.dumps({"pair_step": self.pair_step or 0}), encoding="utf-8")

    def _read_state(self, models: list[nn.Module], input_dir: str) -> None:
        self._resumed_step = steps_of_state(input_dir)

    def _begin_step(self, args: Args, network: PairNetwork, accelerator: Accelerator) -> Phase:
        """What this step trains."""
        if self.pair_step is None:
            self._is_main_process = accelerator.is_main_process
            if accelerator.num_processes > 1 and network.config.module_dropout:
                raise PairError(
                    "network_args: module_dropout skips other layers on every process, which a distributed run cannot "
                    "reduce; use rank_dropout instead"
                )
            self._begin_training(args, network)
        assert self.pair_step is not None
        return phase_of(self.pair_step, style_start_step(args), args.pair_schedule)

    def _begin_training(self, args: Args, network: PairNetwork) -> None:
        """First step: the host knows the number of steps, and has restored a resumed state."""
        style_start_step(args)
        self.pair_step = self._resumed_step if self._resumed_step is not None else first_step(args)
        if self._is_main_process:
            self.recording(args)
        if network.config.num_pairs > 1 or args.pair_schedule == "alternate":
            # Some step leaves out some pair; with one pair in every step the copies would be for nothing.
            self._open.enter_context(absent_pairs_kept([layer.content_up for layer in network.coupled_layers()]))

    def recording(self, args: Args) -> Recording:
        """The open record of the run; of the main process alone."""
        if self._recording is None:
            self._recording = Recording(args, self.trigger_words(args), self.pair_step or 0)
        return self._recording

    def _finish_step(self, loss: Tensor, network: PairNetwork, accelerator: Accelerator) -> Tensor:
        """The loss, with the overlap penalty when it is on; PairError when it is no finite number."""
        if network.config.orthogonality == "penalty":
            penalty = network.config.penalty_weight * network.overlap_penalty()
            self._last_losses["orthogonality"] = penalty.detach()
            loss = loss + penalty.to(loss.device)
        if not torch.isfinite(loss):
            raise PairError(
                f"the loss is {loss.item()} at step {self.pair_step}: training stopped, files saved before are intact; "
                "lower the learning rate, or train with mixed_precision bf16 or no"
            )
        if accelerator.sync_gradients:
            assert self.pair_step is not None
            self.pair_step += 1
            if self._recording is not None:
                self._recording.note_step(self.pair_step, self._last_losses)
        return loss

    def pair_logs(self) -> dict[str, float]:
        """Losses of the last step by branch."""
        return {f"loss/{name}": float(value) for name, value in self._last_losses.items()}

    def pair_metadata(self, args: Args) -> dict[str, object]:
        """What a LoRA's metadata says of the pairs; the trigger words where they are known."""
        words = self.trigger_words(args)
        return {
            "pair_network_schedule": args.pair_schedule,
            "pair_network_style_start_step": style_start_step(args),
            "pair_network_num_pairs": len(self.pair_captions),
            **({"modelspec.trigger_phrase": words} if words else {}),
        }

    def trigger_words(self, args: Args) -> str:
        """The style words: --style_prompt, or what every style caption adds to its content caption."""
        if args.style_prompt:
            return args.style_prompt
        words = {style_words(style, content) for content, style in self.pair_captions}
        return words.pop() if len(words) == 1 else ""


def warn_of_small_alpha(network: PairNetwork) -> None:
    """kohya's default, network_alpha 1, all but turns a LoRA of a usual rank off."""
    if network.config.alpha < network.config.rank / 2:
        logger.warning(
            "network_alpha %g with network_dim %d scales the style by %.2g: expect a weak effect, or set "
            "network_alpha to network_dim as the paper does",
            network.config.alpha, network.config.rank, network.config.alpha / network.config.rank,
        )  # fmt: skip


def set_num_pairs(network: PairNetwork, num_pairs: int, weights: str | None) -> None:
    """One content branch for each of the dataset's pairs, before the network is applied.

    Raises:
        PairError: The network was made from a file with another number of pairs.
    """
    trained = network.config.num_pairs
    if trained != num_pairs and trained > 1 and weights:
        raise PairError(f"{weights}: holds {trained} pair(s), but the dataset has {num_pairs}")
    network.set_num_pairs(num_pairs)


def style_start_step(args: HostOptions) -> int:
    """--style_start_step, or its default once the number of steps is known.

    Raises:
        PairError: No step would train the style branch.
    """
    start = default_style_start(args.max_train_steps) if args.style_start_step is None else args.style_start_step
    check_schedule(start, args.max_train_steps)
    return start


def first_step(args: HostOptions) -> int:
    """The step to begin with when no state was restored: --initial_step, or 0.

    Raises:
        PairError: --initial_epoch, from which the content-only steps cannot be counted.
    """
    if getattr(args, "initial_epoch", None):
        raise PairError("--initial_epoch: the content-only steps are counted in steps; use --initial_step")
    return getattr(args, "initial_step", None) or 0


def steps_of_state(resume: str | None) -> int:
    """Optimizer updates made before a state was saved, over all resumed runs; 0 without a state.

    The host's own train_state.json counts from the last resume, so it is only read where ours is missing.
    """
    for name, key in ((STATE_FILE, "pair_step"), ("train_state.json", "current_step")):
        state = Path(resume) / name if resume else None
        if state is not None and state.is_file():
            return _count(state, key)
    return 0


def _count(file: Path, key: str) -> int:
    try:
        count = json.loads(file.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as cause:
        raise PairError(f"{file}: damaged, it holds no {key}; resume from another state") from cause
    if type(count) is not int or not 0 <= count < 1 << 48:
        raise PairError(f"{file}: damaged, its {key} is no number of steps; resume from another state")
    return count
