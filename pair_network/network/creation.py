"""Making networks: the functions that kohya's trainers call on a network module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from pair_network.errors import PairError

from . import checkpoint
from .config import FREE_TO_CHANGE, NETWORK_ARGS, PairConfig, parse_network_args
from .loading import FileLayers, load_style
from .pair_file import is_pair_file, read_config
from .pair_network import PairNetwork, TextEncoders
from .targets import Target, all_layers, block_ranks, find_targets, split_targets


def create_network(
    multiplier: float,
    network_dim: int | None,
    network_alpha: float | None,
    vae: nn.Module | None,
    text_encoder: TextEncoders,
    unet: nn.Module | None,
    neuron_dropout: float | None = None,
    **network_args: str | None,
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
    **network_args: str | None,
) -> tuple[PairNetwork, dict[str, Tensor]]:
    """A network with the ranks and layers of ``file``, its weights loaded, and the file's tensors.

    A coupled checkpoint brings its own config, of which ``network_args`` may only change what does not shape it;
    a plain kohya LoRA becomes the style branch.

    Raises:
        PairError: The file is unreadable, names layers that the model does not have, or was trained with other
            ``network_args`` than the given ones.
    """
    tensors, metadata = checkpoint.read(file)
    if is_pair_file(metadata):
        content, style_tensors = checkpoint.split_branches(tensors, file)
        config = _updated(read_config(metadata, file), network_args, file)
        style = checkpoint.layers_of(style_tensors, file)
        content_layers = checkpoint.layers_of(content, file)
        checkpoint.check_branches(style, content_layers, file)
        _check_pairs(config, content_layers, file)
        content_ranks = {key: down.shape[0] for key, (down, _, _) in content_layers.items()}
    else:
        style = checkpoint.layers_of(tensors, file)
        config = _config_of(style, {"orthogonality": "none", "content_dim": "1"} if for_inference else network_args)
        content_ranks = {key: min(config.content_rank, down.shape[0]) for key, (down, _, _) in style.items()}
    network = _network_of(style, content_ranks, config, all_layers(text_encoder, unet), multiplier, file)
    network.load_weights(file)
    return network, tensors


def create_arch_network(
    multiplier: float,
    network_dim: int | None,
    network_alpha: float | None,
    vae: nn.Module | None,
    text_encoders: TextEncoders,
    unet: nn.Module | None,
    neuron_dropout: float | None = None,
    **network_args: str | None,
) -> PairNetwork:
    """``create_network`` as musubi-tuner asks for it; it trains no text encoder.

    Raises:
        PairError: As ``create_network``.
    """
    return create_network(
        multiplier, network_dim, network_alpha, vae, None, unet, neuron_dropout=neuron_dropout, **network_args
    )


def create_arch_network_from_weights(
    multiplier: float,
    weights_sd: dict[str, Tensor],
    text_encoders: TextEncoders = None,
    unet: nn.Module | None = None,
    for_inference: bool = False,
    **network_args: str | None,
) -> PairNetwork:
    """The style branch of a file's tensors, as musubi-tuner merges it (--base_weights).

    Raises:
        PairError: The tensors are no LoRA of this model.
    """
    source = "--base_weights"
    if any(key.startswith("style.") for key in weights_sd):
        _, weights_sd = checkpoint.split_branches(weights_sd, source)
    style = checkpoint.layers_of(weights_sd, source)
    config = replace(_config_of(style, {}), orthogonality="none", content_rank=1)
    network = _network_of(style, dict.fromkeys(style, 1), config, all_layers(None, unet), multiplier, source)
    load_style(network.coupled_layers(), style, source)
    return network


def _config_of(style: FileLayers, network_args: Mapping[str, str | None]) -> PairConfig:
    rank = max(down.shape[0] for down, _, _ in style.values())
    return parse_network_args(rank, rank, None, network_args)


def _network_of(
    style: FileLayers,
    content_ranks: dict[str, int],
    config: PairConfig,
    layers: Iterable[Target],
    multiplier: float,
    source: str,
) -> PairNetwork:
    """A network of the layers and ranks that a file has; its weights are not filled in.

    Raises:
        PairError: The file names layers that the model does not have.
    """
    targets = [target for target in layers if target.key in style]
    unknown = sorted(set(style) - {target.key for target in targets})
    if unknown:
        raise PairError(
            f"{source}: {len(unknown)} of its {len(style)} layers are not in this model, the first is {unknown[0]}; "
            "was it trained on another model family?"
        )
    targets = split_targets(targets) if config.split_qkv else targets
    num_splits = {target.key: max(1, len(target.splits)) for target in targets}
    ranks = {
        key: (down.shape[0] // num_splits[key], content_ranks[key] // num_splits[key])
        for key, (down, _, _) in style.items()
    }
    return PairNetwork(config, targets, ranks, multiplier)


def _check_pairs(config: PairConfig, content: Mapping[str, tuple[Tensor, Tensor, float]], file: str) -> None:
    """Raises PairError where the file's settings claim other pairs than its tensors hold."""
    for key, (_, up, _) in content.items():
        if up.shape[0] != config.num_pairs:
            raise PairError(
                f"{file}: its settings say {config.num_pairs} pair(s), {key} holds {up.shape[0]}; take the file as it "
                "was saved"
            )


def _updated(config: PairConfig, network_args: Mapping[str, str | None], file: str) -> PairConfig:
    """The checkpoint's config with the network_args that leave its shape alone.

    Raises:
        PairError: An entry contradicts what the checkpoint was trained with.
    """
    parsed = parse_network_args(config.rank, config.alpha, None, network_args)
    given = [key for key, value in network_args.items() if value is not None]
    if "num_pairs" in given and parsed.num_pairs != config.num_pairs:
        raise PairError(f"{file}: holds {config.num_pairs} pair(s), but the dataset has {parsed.num_pairs}")
    for key in given:
        wanted, trained = getattr(parsed, NETWORK_ARGS[key]), getattr(config, NETWORK_ARGS[key])
        if key not in FREE_TO_CHANGE and _comparable(wanted) != _comparable(trained):
            raise PairError(
                f"{file}: was trained with {key}={_text(trained)}, but network_args say {key}={_text(wanted)}; leave "
                "it out to continue with the checkpoint's, or train anew without --network_weights"
            )
    return replace(config, **{key: getattr(parsed, key) for key in given if key in FREE_TO_CHANGE})


def _comparable(value: object) -> object:
    """Targets are the same in any order."""
    return frozenset(value) if isinstance(value, tuple) else value


def _text(value: object) -> str:
    """A setting as network_args write it."""
    if not isinstance(value, tuple):
        return str(value)
    return (
        ",".join(f"{part}={rank}" for part, rank in value) if value and isinstance(value[0], tuple) else "+".join(value)
    )
