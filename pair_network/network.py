"""The coupled network: kohya's network-module protocol over ``CoupledLayer``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoint
from .config import PairConfig, parse_network_args
from .errors import PairError
from .layer import CoupledLayer
from .orthogonal import branch_overlap, gram_defect, layer_generator, orthonormal_rows, overlap_penalty
from .route import Row, Routing
from .targets import Target, all_layers, block_ranks, find_targets

logger = logging.getLogger(__name__)
TextEncoders = nn.Module | Sequence[nn.Module] | None


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
        self.is_text_encoder_layer = {target.key: target.is_text_encoder for target in targets}
        self.layers = nn.ModuleDict(
            {t.key: CoupledLayer(t.key, t.module, config, self.routing, *ranks[t.key]) for t in targets if t.key in ranks}
        )

    def coupled_layers(self) -> list[CoupledLayer]:
        return list(self.layers.values())  # type: ignore[arg-type]

    # --- routing -------------------------------------------------------------------------------------------------

    def set_route(self, rows: Sequence[Row] | None) -> None:
        """Route of the batches to come, until it is set again; None: every row through the style branch."""
        self.routing.set(rows)

    def route(self, rows: Sequence[Row] | None, multiplier: float | None = None) -> AbstractContextManager[None]:
        """Context manager: sets route and strength, and restores what was there."""
        return self.routing.use(rows, multiplier)

    def set_multiplier(self, multiplier: float) -> None:
        self.routing.set_multiplier(multiplier)

    # --- attaching -----------------------------------------------------------------------------------------------

    def apply_to(
        self, text_encoder: TextEncoders, unet: nn.Module | None, apply_text_encoder: bool = True, apply_unet: bool = True
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
        """Adds multiplier × the style branch's delta to the base weights, computed in float32."""
        with torch.no_grad():
            for layer in self.coupled_layers():
                weight = layer.base.weight
                merged = weight.float() + self.routing.multiplier * layer.delta().to(weight.device)
                weight.copy_(merged.to(weight.dtype))

    # --- training ------------------------------------------------------------------------------------------------

    def prepare_optimizer_params(
        self, text_encoder_lr: float | Sequence[float] | None, unet_lr: float | None, default_lr: float | None = None
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Parameter groups by branch and model, and kohya's descriptions of them.

        ``content_lr`` and ``style_lr`` of the network_args go before the host's rates.
        """
        if isinstance(text_encoder_lr, (list, tuple)):
            text_encoder_lr = text_encoder_lr[0] if text_encoder_lr else None
        groups, names = [], []
        for branch, own_lr in (("content", self.config.content_lr), ("style", self.config.style_lr)):
            for in_text_encoder, lr in ((False, unet_lr), (True, text_encoder_lr)):
                parameters = self._branch_parameters(branch, in_text_encoder)
                rate = next((r for r in (own_lr, lr, default_lr) if r is not None), None)
                if not parameters or rate == 0:
                    continue
                groups.append({"params": parameters} if rate is None else {"params": parameters, "lr": rate})
                names.append(f"{branch} text encoder" if in_text_encoder else f"{branch} unet")
        if not groups:
            raise PairError("every learning rate is 0, so nothing would train; set learning_rate, content_lr or style_lr")
        return groups, names

    prepare_optimizer_params_with_multiple_te_lrs = prepare_optimizer_params

    def _branch_parameters(self, branch: str, in_text_encoder: bool) -> list[nn.Parameter]:
        return [
            parameter
            for key, layer in self.layers.items()
            if self.is_text_encoder_layer[key] == in_text_encoder
            for name, parameter in layer.named_parameters()
            if name.startswith(branch)
        ]

    def get_trainable_params(self) -> list[nn.Parameter]:
        return list(self.parameters())

    def prepare_grad_etc(self, text_encoder: TextEncoders, unet: nn.Module | None) -> None:
        self.requires_grad_(True)

    def on_epoch_start(self, text_encoder: TextEncoders, unet: nn.Module | None) -> None:
        self.train()

    def enable_gradient_checkpointing(self) -> None:
        """Nothing to do: the hooks run inside the base model's own checkpointed blocks."""

    def overlap_penalty(self) -> Tensor:
        """Mean over the layers of ‖Â_content Â_styleᵀ‖²_F, a scalar with gradient."""
        return torch.stack([overlap_penalty(*layer.downs()) for layer in self.coupled_layers()]).mean()

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
        return self._branch_tensors("style", dtype)

    def pair_tensors(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Both branches of all pairs, as the coupled checkpoint names them."""
        branches = {name: self._branch_tensors(name, dtype) for name in ("content", "style")}
        return {f"{name}.{key}": tensor for name, tensors in branches.items() for key, tensor in tensors.items()}

    def _branch_tensors(self, branch: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
        tensors = {}
        for key, layer in self.layers.items():
            content, style = layer.downs()
            down, up, scale = (
                (style, layer.style_up, layer.style_scale)
                if branch == "style"
                else (content, layer.content_up, layer.content_scale)
            )
            tensors[f"{key}.lora_down.weight"] = down.detach().to("cpu", dtype)
            kernel = (1,) * (down.dim() - 2)  # convolutions: (out, rank, 1, 1)
            tensors[f"{key}.lora_up.weight"] = up.detach().to("cpu", dtype).reshape(*up.shape, *kernel)
            tensors[f"{key}.alpha"] = torch.tensor(scale * down.shape[0])
        return tensors

    def save_weights(self, file: str, dtype: torch.dtype | None, metadata: dict[str, Any] | None) -> None:
        """Writes the style LoRA to ``file`` and the coupled checkpoint beside it, each whole or not at all.

        Raises:
            PairError: ``file`` is no .safetensors, or a weight is not finite.
        """
        if Path(file).suffix != ".safetensors":
            raise PairError(f"{file}: only .safetensors is written; set save_model_as to safetensors")
        report = {f"pair_network_{name}": f"{value:.3e}" for name, value in self.orthogonality_report().items()}
        metadata = {**(metadata or {}), **report}
        checkpoint.write(file, self.style_tensors(dtype), metadata)
        config = {checkpoint.CONFIG_KEY: self.config.to_json()}
        checkpoint.write(checkpoint.pair_path(file), self.pair_tensors(dtype), {**metadata, **config})

    def load_weights(self, file: str) -> str:
        """Loads a coupled checkpoint, or a plain kohya LoRA into the style branch; returns what was loaded.

        Raises:
            PairError: Keys, shapes or number of pairs differ from this network's.
        """
        tensors, metadata = checkpoint.read(file)
        if not checkpoint.is_pair_file(metadata):
            self._load_style(checkpoint.layers_of(tensors, file), file)
            return f"style branch of {len(self.layers)} layers; the content branch starts from zero"
        content, style = checkpoint.split_branches(tensors, file)
        self._load_style(checkpoint.layers_of(style, file), file)
        self._load_content(checkpoint.layers_of(content, file), file)
        return f"content and style branch of {len(self.layers)} layers, {self.config.num_pairs} pair(s)"

    def _check_layers(self, found: dict[str, Any], source: str) -> None:
        missing, unexpected = set(self.layers) - set(found), set(found) - set(self.layers)
        if missing or unexpected:
            raise PairError(
                f"{source}: its layers are not this network's: {len(missing)} missing {sorted(missing)[:3]}, "
                f"{len(unexpected)} unexpected {sorted(unexpected)[:3]}; use --dim_from_weights, or the targets and "
                "block_dims it was trained with"
            )

    @torch.no_grad()
    def _load_style(self, loaded: dict[str, tuple[Tensor, Tensor, float]], source: str) -> None:
        self._check_layers(loaded, source)
        for key, (down, up, alpha) in loaded.items():
            layer: CoupledLayer = self.layers[key]  # type: ignore[assignment]
            content, style = layer.downs()
            _check_shape(source, key, down, style)
            style.copy_(down)
            # Another alpha goes into the up-factor alone: the down's rows must stay orthonormal.
            ratio = alpha / down.shape[0] / layer.style_scale
            layer.style_up.copy_(up.reshape(layer.style_up.shape) * ratio)
            if not self.config.trains_downs:
                generator = layer_generator(self.config.basis_seed, key)
                rows = orthonormal_rows(
                    layer.content_rank, down.flatten(1).shape[1], generator, orthogonal_to=down.flatten(1), layer_name=key
                )
                content.copy_(rows.reshape(content.shape))

    @torch.no_grad()
    def _load_content(self, loaded: dict[str, tuple[Tensor, Tensor, float]], source: str) -> None:
        self._check_layers(loaded, source)
        for key, (down, up, alpha) in loaded.items():
            layer: CoupledLayer = self.layers[key]  # type: ignore[assignment]
            content, _ = layer.downs()
            _check_shape(source, key, down, content)
            if up.shape[0] != self.config.num_pairs:
                raise PairError(
                    f"{source}: holds {up.shape[0]} pair(s), but the dataset has {self.config.num_pairs}; train with the "
                    "same pairs, or continue from the style LoRA alone (NAME.safetensors)"
                )
            content.copy_(down)
            ratio = alpha / down.shape[0] / layer.content_scale
            layer.content_up.copy_(up.reshape(layer.content_up.shape) * ratio)


def _check_shape(source: str, key: str, found: Tensor, own: Tensor) -> None:
    if found.shape != own.shape:
        raise PairError(
            f"{source}: {key} has a down of shape {tuple(found.shape)}, this network's is {tuple(own.shape)}; "
            "use --dim_from_weights, or the rank it was trained with"
        )


def create_network(
    multiplier: float,
    network_dim: int | None,
    network_alpha: float | None,
    vae: nn.Module | None,
    text_encoder: TextEncoders,
    unet: nn.Module | None,
    neuron_dropout: float | None = None,
    **network_args: Any,
) -> PairNetwork:
    """A new network with ups at zero, as kohya's hosts ask for one.

    Raises:
        PairError: An unknown or unusable network_args entry, no matching layer, or a rank that does not fit.
    """
    config = parse_network_args(network_dim, network_alpha, neuron_dropout, network_args)
    targets = find_targets(config, text_encoder, unet)
    return PairNetwork(config, targets, block_ranks(config, targets), multiplier)


def create_network_from_weights(
    multiplier: float,
    file: str,
    vae: nn.Module | None,
    text_encoder: TextEncoders,
    unet: nn.Module | None,
    weights_sd: dict[str, Tensor] | None = None,
    for_inference: bool = False,
    **network_args: Any,
) -> tuple[PairNetwork, dict[str, Tensor]]:
    """A network with the ranks and layers of ``file``, its weights loaded, and the file's tensors.

    A coupled checkpoint brings its own config, of which ``network_args`` may only change what does not shape it;
    a plain kohya LoRA becomes the style branch.

    Raises:
        PairError: The file is unreadable, or names layers that the model does not have.
    """
    tensors, metadata = checkpoint.read(file)
    if checkpoint.is_pair_file(metadata):
        content, style_tensors = checkpoint.split_branches(tensors, file)
        config = _updated(checkpoint.read_config(metadata, file), network_args, file)
        style = checkpoint.layers_of(style_tensors, file)
        content_ranks = {key: down.shape[0] for key, (down, _, _) in checkpoint.layers_of(content, file).items()}
    else:
        style = checkpoint.layers_of(tensors, file)
        rank = max(down.shape[0] for down, _, _ in style.values())
        if for_inference:
            network_args = {"orthogonality": "none", "content_dim": "1"}
        config = parse_network_args(rank, rank, None, network_args)
        content_ranks = {key: min(config.content_rank, down.shape[0]) for key, (down, _, _) in style.items()}
    targets = [target for target in all_layers(text_encoder, unet) if target.key in style]
    unknown = sorted(set(style) - {target.key for target in targets})
    if unknown:
        raise PairError(
            f"{file}: {len(unknown)} of its {len(style)} layers are not in this model, the first is {unknown[0]}; "
            "was it trained on another model family?"
        )
    ranks = {key: (down.shape[0], content_ranks[key]) for key, (down, _, _) in style.items()}
    network = PairNetwork(config, targets, ranks, multiplier)
    network.load_weights(file)
    return network, tensors


_FREE_TO_CHANGE = ("penalty_weight", "dropout", "rank_dropout", "module_dropout", "content_lr", "style_lr")


def _updated(config: PairConfig, network_args: dict[str, Any], file: str) -> PairConfig:
    """The checkpoint's config with the network_args that leave its shape alone."""
    given = parse_network_args(config.rank, config.alpha, None, network_args)
    changed = {key: getattr(given, key) for key in network_args if key in _FREE_TO_CHANGE and network_args[key] is not None}
    if "num_pairs" in network_args and given.num_pairs != config.num_pairs:
        raise PairError(f"{file}: holds {config.num_pairs} pair(s), but the dataset has {given.num_pairs}")
    return replace(config, **changed)
