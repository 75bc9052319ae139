"""Pair training over musubi-tuner's trainer classes, through the seams that it keeps for extensions.

A joint step is one call of the host's ``process_batch`` on 2B rows, content rows first: every family pads and masks
texts of different lengths by itself, gradient checkpointing and block swap see a single forward pass, and the network
routes each row through its branches.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pair_network.errors import PairError
from pair_network.families import Musubi
from pair_network.network.pair_network import PairNetwork
from pair_network.network.route import content_rows, style_rows
from pair_network.reading import read_toml

from ...batch import CONTENT, PAIR_INDICES
from ...objective import Phase
from ...protocols import Accelerator
from ...replaced import evaluated
from ...steps import PairSteps, warn_of_small_alpha
from ..kohya_checks import check_dataset, check_optimizer
from .dataset import check_caches, prepare_dataset
from .protocols import Batch, Collator, Datasets, MusubiTrainer, Prediction


class MusubiPairTraining(PairSteps[argparse.Namespace], MusubiTrainer):
    """Mixin over a musubi-tuner trainer: ``class Trainer(MusubiPairTraining, HostTrainer)``."""

    family: Musubi
    checkout: str

    # --- set-up --------------------------------------------------------------------------------------------------

    def train(self, args: argparse.Namespace) -> None:
        from musubi_tuner.dataset.config_utils import ConfigSanitizer  # of the checkout

        check_optimizer(args, self.get_optimizer, self.get_lr_scheduler)
        given = args.dataset_config
        self._content_of = prepare_dataset(args)
        plain = Path(args.dataset_config)
        check_dataset(read_toml(plain), ConfigSanitizer().sanitize_user_config, Path(given or plain))
        super().train(args)

    def _build_dataset(self, args: argparse.Namespace) -> tuple[Datasets, Collator, object]:
        # Imported here: the module subclasses a class of the checkout, which must be on the path first.
        from .paired_dataset import attach_content

        check_caches(args, self.architecture, self.family, self.checkout)
        group, collator, epoch = super()._build_dataset(args)
        group, self.pair_captions = attach_content(group, self._content_of)
        if collator.dataset is not None:  # without loader workers it sets the epoch on the datasets itself
            collator.dataset = group
        args.network_args = [*(args.network_args or []), f"num_pairs={len(self.pair_captions)}"]
        return group, collator, epoch

    def _register_hooks_and_resume(
        self, args: argparse.Namespace, accelerator: Accelerator, network: nn.Module
    ) -> object:
        """The last call before the loop that sees the network: the state to resume from is read inside."""
        bare = accelerator.unwrap_model(network)
        if not isinstance(bare, PairNetwork):
            raise PairError(f"--network_module {args.network_module}: pair training needs pair_network")
        self.pair_network = bare
        warn_of_small_alpha(bare)
        self.keep_state(accelerator)
        return super()._register_hooks_and_resume(args, accelerator, network)

    # --- the step ------------------------------------------------------------------------------------------------

    def process_batch(
        self,
        args: argparse.Namespace,
        accelerator: Accelerator,
        transformer: nn.Module,
        network: nn.Module,
        batch: Batch,
        latents: Tensor,
        noise: Tensor,
        *rest: object,
    ) -> tuple[Tensor, dict[str, float]]:
        """The step's loss: eq. 4, eq. 6 or their sum (eq. 7), plus the overlap penalty when it is on."""
        from .paired_dataset import joined

        pair_network = accelerator.unwrap_model(network)
        assert isinstance(pair_network, PairNetwork)
        self._phase = phase = self._begin_step(args, pair_network, accelerator)
        content = batch[CONTENT]
        style = {key: value for key, value in batch.items() if key not in (CONTENT, PAIR_INDICES)}
        if any(key.startswith("latents_control") for key in style):
            raise PairError("the caches hold control images: pairs train text-to-image models, not edit models")
        pairs = [int(index) for index in batch[PAIR_INDICES]]
        rows = style_rows(pairs)
        chosen: Mapping[str, object] = style
        if phase is not Phase.STYLE:
            content_latents = self.scale_shift_latents(content["latents"].to(latents))
            content_noise = torch.randn_like(content_latents)
        if phase is Phase.CONTENT:
            rows, chosen, latents, noise = content_rows(pairs), content, content_latents, content_noise
        elif phase is Phase.JOINT:
            rows, chosen = content_rows(pairs) + rows, joined(content, style)
            latents, noise = torch.cat([content_latents, latents]), torch.cat([content_noise, noise])
        # The route outlives this call: the host runs backward, which may recompute the forward, afterwards.
        pair_network.set_route(rows)
        loss, metrics = super().process_batch(args, accelerator, transformer, network, chosen, latents, noise, *rest)
        return self._finish_step(loss, pair_network, accelerator), {**metrics, **self.pair_logs()}

    def compute_loss(
        self, args: argparse.Namespace, output: Prediction, timesteps: Tensor, *rest: object
    ) -> tuple[Tensor, dict[str, float]]:
        """The host's loss of each branch's rows, summed: both have unit weight (eq. 7)."""
        names = [self._phase.value] if self._phase is not Phase.JOINT else ["content", "style"]
        parts = len(names)
        losses: list[Tensor] = []
        metrics: dict[str, float] = {}
        rows = (output.pred.chunk(parts), output.target.chunk(parts), timesteps.chunk(parts))
        for pred, target, times in zip(*rows, strict=True):
            own = replace(output, pred=pred, target=target)
            loss, metrics = super().compute_loss(args, own, times, *rest)
            losses.append(loss)
        self._last_losses = {name: loss.detach() for name, loss in zip(names, losses, strict=True)}
        return torch.stack(losses).sum(), metrics

    # --- reports and previews ------------------------------------------------------------------------------------

    def sample_images(self, *args: object, **named: object) -> None:
        """musubi-tuner's own samples, with the style branch on."""
        network = self.pair_network
        assert network is not None
        with evaluated(network), network.route(None):
            super().sample_images(*args, **named)

    def extra_metadata(self, args: argparse.Namespace) -> dict[str, object]:
        return {**super().extra_metadata(args), **self.pair_metadata(args)}
