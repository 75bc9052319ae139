"""Pair training on top of a host's trainer class.

``PairTraining`` overrides the hooks that sd-scripts' ``NetworkTrainer`` (v0.10.0 or later) and the embedded host
share. One pass through the host's own ``process_batch`` serves both losses of the paper's eq. 7: the batch holds the
content rows, then the style rows, and the network routes each row through its branches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from pair_network.errors import PairError
from pair_network.network import checkpoint
from pair_network.network.pair_network import PairNetwork
from pair_network.network.route import Row, content_rows, style_rows

from . import batch as pair_batch
from .objective import Phase, branch_losses, joint_loss
from .options import HostOptions, check_preview_options
from .protocols import Accelerator, Args, Batch, HostTrainer, StepInputs
from .steps import PairSteps, set_num_pairs, warn_of_small_alpha


class PairTraining(PairSteps[Args], HostTrainer[Args]):
    """Mixin over a host's trainer: ``class Trainer(PairTraining, HostTrainer)``.

    The host adapter provides ``attach_content(args, train_group, val_group)``: it makes every batch carry
    ``content`` and ``pair_indices`` (-1: a validation pair that has no content branch) and returns the training pairs
    as (content caption, style caption).
    """

    # --- set-up --------------------------------------------------------------------------------------------------

    def assert_extra_args(self, args: Args, train_dataset_group: object, val_dataset_group: object) -> None:
        check_preview_options(args)
        super().assert_extra_args(args, train_dataset_group, val_dataset_group)
        self.pair_captions = self.attach_content(args, train_dataset_group, val_dataset_group)

    def post_process_network(self, args: Args, accelerator: Accelerator, network: nn.Module, *models: object) -> None:
        if not isinstance(network, PairNetwork):
            raise PairError(f"--network_module {args.network_module}: pair training needs pair_network")
        self.pair_network = network
        set_num_pairs(network, len(self.pair_captions), args.network_weights)
        warn_of_small_alpha(network)
        super().post_process_network(args, accelerator, network, *models)
        self.keep_state(accelerator)

    # --- the step ------------------------------------------------------------------------------------------------

    def on_step_start(
        self,
        args: Args,
        accelerator: Accelerator,
        network: nn.Module,
        text_encoders: object,
        unet: object,
        batch: Batch,
        weight_dtype: object,
        is_train: bool = True,
    ) -> None:
        """What the host does to a batch is done to its content rows too."""
        for part in (batch, batch["content"]):
            super().on_step_start(args, accelerator, network, text_encoders, unet, part, weight_dtype, is_train)

    def process_batch(self, *given: object, **named: object) -> Tensor:
        """The step's loss: eq. 4, eq. 6 or their sum (eq. 7), plus the overlap penalty when it is on."""
        step = StepInputs[Args].of(given, named)
        network = step.accelerator.unwrap_model(step.network)
        assert isinstance(network, PairNetwork)
        phase = self._begin_step(step.args, network, step.accelerator) if step.is_train else Phase.JOINT
        rows, joined = routed_batch(step.batch, phase)
        # A training route outlives this call: the host runs backward, which may recompute the forward, afterwards.
        route = contextlib.nullcontext() if step.is_train else network.route(rows)
        if step.is_train:
            network.set_route(rows)
        phase_before, self._phase = self._phase, phase
        with route:
            mean = super().process_batch(*replace(step, batch=joined).positional())
        loss = joint_loss(mean, phase)
        if not step.is_train:
            self._phase = phase_before
            return loss
        return self._finish_step(loss, network, step.accelerator)

    def post_process_loss(self, loss: Tensor, args: Args, *rest: object) -> Tensor:
        """The host's weighting; the weighted loss of each branch is noted for the log."""
        loss = super().post_process_loss(loss, args, *rest)
        self._last_losses = branch_losses(loss, self._phase)
        return loss

    # --- reports -------------------------------------------------------------------------------------------------

    def generate_step_logs(self, *args: object, **kwargs: object) -> dict[str, float]:
        return {**super().generate_step_logs(*args, **kwargs), **self.pair_logs()}

    def progress_postfix(self, logs: Mapping[str, float]) -> dict[str, str]:
        """Both losses for the embedded host's progress bar."""
        return {name.removeprefix("loss/"): f"{value:.4f}" for name, value in self.pair_logs().items()}

    def update_metadata(self, metadata: dict[str, object], args: Args) -> None:
        super().update_metadata(metadata, args)
        metadata.update(self.pair_metadata(args))


def routed_batch(batch: Batch, phase: Phase) -> tuple[list[Row], Batch]:
    """The route and the host's batch for a phase: content rows, then style rows."""
    pairs = [int(index) if index >= 0 else None for index in batch["pair_indices"]]
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


def check_parts(unet_only: bool, args: HostOptions) -> None:
    """Raises PairError where the switch for the denoiser alone contradicts the targets."""
    if unet_only and trains_text_encoder(args):
        raise PairError(
            "--network_train_unet_only leaves out the text encoder, which targets or the file of --dim_from_weights "
            "has; remove one of them"
        )


def continues_text_encoder(args: HostOptions) -> bool:
    """Whether --dim_from_weights takes text-encoder layers from --network_weights."""
    if not (args.dim_from_weights and args.network_weights):
        return False
    return any("lora_te" in key for key in checkpoint.read_keys(args.network_weights))
