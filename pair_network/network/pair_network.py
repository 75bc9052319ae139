"""The coupled network: kohya's network-module protocol over ``CoupledLayer``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

from pair_network.errors import PairError

from . import checkpoint
from .config import PairConfig
from .layer import CoupledLayer
from .loading import load_file
from .orthogonal import branch_overlap, gram_defect, overlap_penalty
from .pair_file import CONFIG_KEY, pair_path
from .rates import one_rate, warn_of_unused_rates
from .route import Routing, Row
from .targets import Target

logger = logging.getLogger(__name__)
TextEncoders = nn.Module | Sequence[nn.Module] | None


class ParameterGroup(TypedDict, total=False):
    """As torch's optimizers take it; without ``lr``, at the host's own rate."""

    params: list[nn.Parameter]
    lr: float


class PairNetwork(nn.Module):
    """Content and style LoRA over the layers of a text-to-image model.

    Args:
        config: Settings; every layer's scale is alpha / rank, whatever its own rank.
        targets: The layers to couple.
        ranks: Style and content rank by the layer's key.
        multiplier: Strength of both branches.
    """

    def __init__(
        self, config: PairConfig, targets: Sequence[Target], ranks: dict[str, tuple[int, int]], multiplier: float = 1.0
    ):
        super().__init__()
        self.config = config
        self.routing = Routing(float(multiplier))
        self.is_plain = False  # one branch, no pairs: kohya's stock scripts
        self._still: set[int] = set()  # ids of parameters whose learning rate is 0
        self.is_text_encoder_layer = {target.key: target.is_text_encoder for target in targets}
        self.layers = nn.ModuleDict(
            {
                target.key: CoupledLayer(
                    target.key, target.module, config, self.routing, *ranks[target.key], target.splits
                )
                for target in targets
                if target.key in ranks
            }
        )

    def coupled_layers(self) -> list[CoupledLayer]:
        return [layer for layer in self.layers.values() if isinstance(layer, CoupledLayer)]

    # --- routing -------------------------------------------------------------------------------------------------

    def set_route(self, rows: Sequence[Row] | None) -> None:
        """Route of the batches to come, until it is set again; None: every row through the style branch."""
        self.routing.set(rows)

    def route(self, rows: Sequence[Row] | None, multiplier: float | None = None) -> AbstractContextManager[None]:
        """Context manager: sets route and strength, and restores what was there."""
        return self.routing.use(rows, multiplier)

    def set_multiplier(self, multiplier: float) -> None:
        self.routing.set_multiplier(multiplier)

    def set_num_pairs(self, num_pairs: int) -> None:
        """One content up, at zero, for each training pair; before the network is applied and optimised.

        A network that has as many keeps its values.
        """
        if num_pairs == self.config.num_pairs:
            return
        self.config = replace(self.config, num_pairs=num_pairs)
        for layer in self.coupled_layers():
            layer.set_num_pairs(num_pairs)

    # --- attaching -----------------------------------------------------------------------------------------------

    def apply_to(
        self,
        text_encoder: TextEncoders,
        unet: nn.Module | None,
        apply_text_encoder: bool = True,
        apply_unet: bool = True,
    ) -> None:
        """Hooks the layers into the models they were made for; those of a model that is not wanted are dropped."""
        wanted = {True: apply_text_encoder, False: apply_unet}
        for key in [key for key in self.layers if not wanted[self.is_text_encoder_layer[key]]]:
            del self.layers[key]
        if not len(self.layers):
            raise PairError(
                f"targets={'+'.join(self.config.targets)} leaves nothing to train here; for the text encoder add it: "
                "network_args targets=attention+text_encoder"
            )
        for layer in self.coupled_layers():
            layer.attach()
        logger.info("coupled %d layers, %d pair(s)", len(self.layers), self.config.num_pairs)

    def restore(self) -> None:
        """Undoes ``apply_to``: the models are as they were."""
        for layer in self.coupled_layers():
            layer.detach_from_base()

    def is_mergeable(self) -> bool:
        return True

    def merge_to(
        self,
        text_encoder: TextEncoders = None,
        unet: nn.Module | None = None,
        weights_sd: dict[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        """Adds multiplier × the style branch's delta to the base weights, computed in float32.

        Raises:
            PairError: The base holds 8-bit codes with scales beside them, as sd-scripts and musubi-tuner lay them out.
        """
        for layer in self.coupled_layers():
            if getattr(layer.base, "scale_weight", None) is not None:
                raise PairError(
                    f"{layer.name}: nothing can be merged into scaled 8-bit weights; leave --fp8_scaled out, or merge "
                    "--base_weights into a checkpoint first (python -m convert bake)"
                )
        with torch.no_grad():
            for layer in self.coupled_layers():
                weight = layer.base.weight
                merged = weight.float() + self.routing.multiplier * layer.delta().to(weight.device)
                weight.copy_(merged.to(weight.dtype))

    # --- training ------------------------------------------------------------------------------------------------

    @property
    def train_t5xxl(self) -> bool:
        """Asked by sd-scripts' SD3 and FLUX trainers."""
        return "t5" in self.config.targets

    def prepare_network(self, args: object) -> None:
        """Looks at the host's options: in kohya's stock scripts, this trains as a plain LoRA on orthonormal rows.

        Raises:
            PairError: The dataset names content images, which a stock script would leave out without a word.
        """
        self.is_plain = not hasattr(args, "pair_schedule")
        if not self.is_plain:
            return
        config: str | None = getattr(args, "dataset_config", None)
        if config and "content_dir" in Path(config).read_text(encoding="utf-8", errors="replace"):
            raise PairError(
                f"{config}: content_dir needs pair training, which kohya's own scripts do not know; start "
                "train_pair_network.py --sd_scripts DIR (or --musubi DIR) with the same options, or remove content_dir "
                "for a plain LoRA"
            )
        logger.warning("no pairs in this script: training one plain LoRA; for pairs start train_pair_network.py")

    def prepare_optimizer_params(
        self,
        text_encoder_lr: float | Sequence[float] | None = None,
        unet_lr: float | None = None,
        default_lr: float | None = None,
    ) -> tuple[list[ParameterGroup], list[str]]:
        """Parameter groups by branch and model, and kohya's descriptions of them.

        ``content_lr`` and ``style_lr`` of the network_args go before the host's rates.
        """
        text_encoder_lr = one_rate(text_encoder_lr)
        warn_of_unused_rates(unet_lr, text_encoder_lr, {self.is_text_encoder_layer[key] for key in self.layers})
        groups: list[ParameterGroup] = []
        names = []
        self._still.clear()
        branches = (("content", self.config.content_lr), ("style", self.config.style_lr))
        for branch, own_lr in branches[1:] if self.is_plain else branches:
            for in_text_encoder, lr in ((False, unet_lr), (True, text_encoder_lr)):
                parameters = self._branch_parameters(branch, in_text_encoder)
                rate = next((r for r in (own_lr, lr, default_lr) if r is not None), None)
                if rate == 0:
                    self._still.update(map(id, parameters))
                if not parameters or rate == 0:
                    continue
                groups.append({"params": parameters} if rate is None else {"params": parameters, "lr": rate})
                names.append(f"{branch} text encoder" if in_text_encoder else f"{branch} unet")
        if not groups:
            raise PairError("every learning rate is 0: nothing would train; set learning_rate, content_lr or style_lr")
        return groups, names

    prepare_optimizer_params_with_multiple_te_lrs = prepare_optimizer_params

    def _branch_parameters(self, branch: str, in_text_encoder: bool) -> list[nn.Parameter]:
        return [
            parameter
            for layer in self.coupled_layers()
            if self.is_text_encoder_layer[layer.name] == in_text_encoder
            for name, parameter in layer.named_parameters()
            if name.startswith(branch)
        ]

    def get_trainable_params(self) -> list[nn.Parameter]:
        """What hosts clip: without the branches that stand still, whose gradients would shrink the others' steps."""
        return [parameter for parameter in self.parameters() if id(parameter) not in self._still]

    # sd-scripts passes text encoder and U-Net to the next three, musubi-tuner its one transformer or nothing.

    def prepare_grad_etc(self, *models: object) -> None:
        self.requires_grad_(True)

    def on_epoch_start(self, *models: object) -> None:
        self.train()

    def on_step_start(self, *models: object) -> None:
        """Nothing to do: the trainer sets every batch's route."""

    def enable_gradient_checkpointing(self) -> None:
        """Nothing to do: the hooks run inside the base model's own checkpointed blocks."""

    def overlap_penalty(self) -> Tensor:
        """Mean over the layers of ‖Â_content Â_styleᵀ‖²_F, a scalar with gradient."""
        return overlap_penalty([layer.downs() for layer in self.coupled_layers()])

    def orthogonality_report(self) -> dict[str, float]:
        """Largest |Gram − I| of any layer's stacked downs, and largest |cosine| between the branches' rows."""
        downs = [layer.downs() for layer in self.coupled_layers()]
        return {
            "gram_defect": max(gram_defect(torch.cat(pair)) for pair in downs),
            "branch_overlap": max(branch_overlap(*pair) for pair in downs),
        }

    @torch.no_grad()
    def apply_max_norm_regularization(self, max_norm: float, device: torch.device) -> tuple[int, float, float]:
        """Shrinks style ups whose layer delta has a Frobenius norm above ``max_norm``; downs keep their rows.

        Returns:
            Number of layers scaled, mean norm and largest norm afterwards.
        """
        norms, scaled = [], 0
        for layer in self.coupled_layers():
            norm = float(layer.delta().norm())
            if norm > max_norm:
                layer.style_up.mul_(max_norm / norm)
                scaled += 1
            norms.append(min(norm, max_norm))
        return scaled, sum(norms) / len(norms), max(norms)

    # --- files ---------------------------------------------------------------------------------------------------

    def style_tensors(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """The style branch under kohya's names; alpha stays in float32."""
        return {key: tensor for layer in self.coupled_layers() for key, tensor in layer.tensors("style", dtype).items()}

    def pair_tensors(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Both branches of all pairs, as the coupled checkpoint names them."""
        return {
            f"{branch}.{key}": tensor
            for branch in ("content", "style")
            for layer in self.coupled_layers()
            for key, tensor in layer.tensors(branch, dtype).items()
        }

    def save_weights(self, file: str, dtype: torch.dtype | None, metadata: Mapping[str, object] | None) -> None:
        """Writes the style LoRA to ``file`` and the coupled checkpoint beside it, both whole or neither.

        Raises:
            PairError: ``file`` is no .safetensors, or a weight is not finite.
        """
        if Path(file).suffix != ".safetensors":
            raise PairError(f"{file}: only .safetensors is written; set save_model_as to safetensors")
        report = {f"pair_network_{name}": f"{value:.3e}" for name, value in self.orthogonality_report().items()}
        metadata = {**(metadata or {}), **report}
        files: dict[Path, tuple[dict[str, Tensor], dict[str, object]]]
        files = {Path(file): (self.style_tensors(dtype), metadata)}
        if not self.is_plain:
            config = {CONFIG_KEY: self.config.to_json()}
            files[pair_path(file)] = (self.pair_tensors(dtype), {**metadata, **config})
        checkpoint.write_together(files)

    def load_weights(self, file: str) -> str:
        """Loads a coupled checkpoint, or a plain kohya LoRA into the style branch; returns what was loaded.

        Raises:
            PairError: Keys, shapes or number of pairs differ from this network's.
        """
        return load_file(self.coupled_layers(), self.config, file)
