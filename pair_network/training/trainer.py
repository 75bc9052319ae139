"""Pair training on top of a host's trainer class.

``PairTraining`` overrides the hooks that sd-scripts' ``NetworkTrainer`` (v0.10.0 or later) and the embedded host
share. One pass through the host's own ``process_batch`` serves both losses of the paper's eq. 7: the batch holds the
content rows, then the style rows, and the network routes each row through its branches.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from pair_network.errors import PairError
from pair_network.network import checkpoint
from pair_network.network.pair_network import PairNetwork
from pair_network.network.route import Row, content_rows, style_rows

from . import batch as pair_batch
from .absent_pairs import absent_pairs_kept
from .objective import Phase, branch_losses, check_schedule, default_style_start, joint_loss, phase_of
from .options import HostOptions, check_preview_options, style_words

logger = logging.getLogger(__name__)

STATE_FILE = "pair_state.json"
Args = TypeVar("Args", bound=HostOptions)  # the host's own options


class PairTraining(Generic[Args]):
    """Mixin over a host's trainer: ``class Trainer(PairTraining, HostTrainer)``.

    The host adapter provides ``attach_content(args, train_group, val_group)``: it makes every batch carry
    ``content`` and ``pair_indices`` (-1: a validation pair that has no content branch) and returns the training pairs
    as (content caption, style caption).
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.pair_step: int | None = None  # optimizer updates made; known once a resumed state was read
        self.pair_network: PairNetwork | None = None
        self._resumed_step: int | None = None
        self.pair_captions: list[tuple[str, str]] = []
        self._is_main_process = False
        self._phase = Phase.JOINT
        self._last_losses: dict[str, Tensor] = {}
        self._open = contextlib.ExitStack()

    # --- set-up --------------------------------------------------------------------------------------------------

    def assert_extra_args(self, args: Args, train_dataset_group: Any, val_dataset_group: Any) -> None:
        check_preview_options(args)
        super().assert_extra_args(args, train_dataset_group, val_dataset_group)  # type: ignore[misc]
        self.pair_captions = self.attach_content(args, train_dataset_group, val_dataset_group)  # type: ignore[attr-defined]

    def post_process_network(self, args: Args, accelerator: Any, network: Any, *models: Any) -> None:
        if not isinstance(network, PairNetwork):
            raise PairError(f"--network_module {args.network_module}: pair training needs pair_network")
        self.pair_network = network
        set_num_pairs(network, len(self.pair_captions), args.network_weights)
        if network.config.alpha < network.config.rank / 2:
            logger.warning(
                "network_alpha %g with network_dim %d scales the style by %.2g: expect a weak effect, or set "
                "network_alpha to network_dim as the paper does",
                network.config.alpha, network.config.rank, network.config.alpha / network.config.rank,
            )  # fmt: skip
        super().post_process_network(args, accelerator, network, *models)  # type: ignore[misc]
        accelerator.register_save_state_pre_hook(self._write_state)
        accelerator.register_load_state_pre_hook(self._read_state)

    def train(self, args: Args | argparse.Namespace) -> None:
        """Trains, and says at the end how orthogonal the branches stayed."""
        with self._open:
            super().train(args)  # type: ignore[misc]
        if self.pair_network is not None and self._is_main_process:
            report = self.pair_network.orthogonality_report()
            print(
                f"orthogonality: largest |Gram - I| {report['gram_defect']:.1e}, "
                f"largest |cosine| between content and style rows {report['branch_overlap']:.1e}"
            )

    # --- the step ------------------------------------------------------------------------------------------------

    def on_step_start(
        self,
        args: Args,
        accelerator: Any,
        network: Any,
        text_encoders: Any,
        unet: Any,
        batch: dict[str, Any],
        weight_dtype: Any,
        is_train: bool = True,
    ) -> None:
        """What the host does to a batch is done to its content rows too."""
        for part in (batch, batch[pair_batch.CONTENT]):
            super().on_step_start(  # type: ignore[misc]
                args, accelerator, network, text_encoders, unet, part, weight_dtype, is_train
            )

    def process_batch(
        self,
        batch: dict[str, Any],
        text_encoders: Any,
        unet: Any,
        network: Any,
        vae: Any,
        noise_scheduler: Any,
        vae_dtype: Any,
        weight_dtype: Any,
        accelerator: Any,
        args: Args,
        text_encoding_strategy: Any,
        tokenize_strategy: Any,
        is_train: bool = True,
        train_text_encoder: bool = True,
        train_unet: bool = True,
    ) -> Tensor:
        """The step's loss: eq. 4, eq. 6 or their sum (eq. 7), plus the overlap penalty when it is on."""
        pair_network: PairNetwork = accelerator.unwrap_model(network)
        phase = self._begin_step(args, pair_network, accelerator) if is_train else Phase.JOINT
        rows, joined = routed_batch(batch, phase)
        # A training route outlives this call: the host runs backward, which may recompute the forward, afterwards.
        route = contextlib.nullcontext() if is_train else pair_network.route(rows)
        if is_train:
            pair_network.set_route(rows)
        phase_before, self._phase = self._phase, phase
        with route:
            mean = super().process_batch(  # type: ignore[misc]
                joined, text_encoders, unet, network, vae, noise_scheduler, vae_dtype, weight_dtype, accelerator, args,
                text_encoding_strategy, tokenize_strategy, is_train, train_text_encoder, train_unet,
            )  # fmt: skip
        loss = joint_loss(mean, phase)
        if not is_train:
            self._phase = phase_before
            return loss
        return self._finish_step(loss, pair_network, accelerator)

    def post_process_loss(self, loss: Tensor, args: Args, *rest: Any) -> Tensor:
        """The host's weighting; the weighted loss of each branch is noted for the log."""
        loss = super().post_process_loss(loss, args, *rest)  # type: ignore[misc]
        self._last_losses = branch_losses(loss, self._phase)
        return loss

    def _write_state(self, models: list[Any], weights: list[Any], output_dir: str) -> None:
        """Beside the host's saved state: the number of updates made, which decides a resumed run's phase."""
        path = Path(output_dir) / STATE_FILE
        path.write_text(json.dumps({"pair_step": self.pair_step or 0}), encoding="utf-8")

    def _read_state(self, models: list[Any], input_dir: str) -> None:
        self._resumed_step = steps_of_state(input_dir)

    def _begin_step(self, args: Args, network: PairNetwork, accelerator: Any) -> Phase:
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
        if network.config.num_pairs > 1 or args.pair_schedule == "alternate":
            # Some step leaves out some pair; with one pair in every step the copies would be for nothing.
            self._open.enter_context(absent_pairs_kept([layer.content_up for layer in network.coupled_layers()]))

    def _finish_step(self, loss: Tensor, network: PairNetwork, accelerator: Any) -> Tensor:
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
        return loss

    # --- reports -------------------------------------------------------------------------------------------------

    def pair_logs(self) -> dict[str, float]:
        """Losses of the last step by branch."""
        return {f"loss/{name}": float(value) for name, value in self._last_losses.items()}

    def generate_step_logs(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().generate_step_logs(*args, **kwargs), **self.pair_logs()}  # type: ignore[misc]

    def progress_postfix(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Both losses for the embedded host's progress bar."""
        return {name.removeprefix("loss/"): f"{value:.4f}" for name, value in self.pair_logs().items()}

    def update_metadata(self, metadata: dict[str, Any], args: Args) -> None:
        super().update_metadata(metadata, args)  # type: ignore[misc]
        metadata["pair_network_schedule"] = args.pair_schedule
        metadata["pair_network_style_start_step"] = style_start_step(args)
        metadata["pair_network_num_pairs"] = len(self.pair_captions)
        words = self.trigger_words(args)
        if words:
            metadata["modelspec.trigger_phrase"] = words

    def trigger_words(self, args: Args) -> str:
        """The style words: --style_prompt, or what every style caption adds to its content caption."""
        if args.style_prompt:
            return args.style_prompt
        words = {style_words(style, content) for content, style in self.pair_captions}
        return words.pop() if len(words) == 1 else ""


def routed_batch(batch: dict[str, Any], phase: Phase) -> tuple[list[Row], dict[str, Any]]:
    """The route and the host's batch for a phase: content rows, then style rows."""
    pairs = [int(index) if index >= 0 else None for index in batch[pair_batch.PAIR_INDICES]]
    if phase is Phase.CONTENT:
        return content_rows(pairs), pair_batch.content_only(batch)
    if phase is Phase.STYLE:
        return style_rows(pairs), pair_batch.style_only(batch)
    return content_rows(pairs) + style_rows(pairs), pair_batch.content_and_style(batch)


def trains_text_encoder(args: HostOptions) -> bool:
    """Whether a text encoder has layers to train: by the targets, or those of a file that training continues from."""
    targets = [arg.partition("=")[2] for arg in args.network_args or () if arg.startswith("targets=")]
    is_target = any(kind in ("text_encoder", "t5") for value in targets for kind in value.split("+"))
    return is_target or continues_text_encoder(args)


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
            return int(json.loads(state.read_text(encoding="utf-8"))[key])
    return 0


def continues_text_encoder(args: HostOptions) -> bool:
    """Whether --dim_from_weights takes text-encoder layers from --network_weights."""
    if not (args.dim_from_weights and args.network_weights):
        return False
    return any("lora_te" in key for key in checkpoint.read_keys(args.network_weights))
