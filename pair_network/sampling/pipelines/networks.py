"""A style's network on a pipeline's models: from its file, or the one that is being trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from pair_network.errors import PairError
from pair_network.network import checkpoint
from pair_network.network.config import parse_network_args
from pair_network.network.creation import create_network_from_weights
from pair_network.network.loading import FileLayers
from pair_network.network.pair_file import is_pair_file
from pair_network.network.pair_network import PairNetwork
from pair_network.network.route import BASE_ROW
from pair_network.network.targets import all_layers

from ..protocols import Pipeline
from .style import Style
from .transformer_keys import is_split_transformer, split_layers

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
COMPUTE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def text_encoders(pipe: Pipeline) -> list[nn.Module]:
    """The pipeline's text encoders in the order in which kohya numbers them."""
    found = (getattr(pipe, name, None) for name in ENCODERS)
    return [encoder for encoder in found if isinstance(encoder, nn.Module)]


def networks_of(pipe: Pipeline, denoiser: nn.Module, styles: Sequence[Style]) -> list[PairNetwork]:
    """The network of each style, on the pipeline's models but not yet hooked in; styles of one file share it.

    Raises:
        PairError: A file does not fit the pipeline's models, a network belongs to other models, or fused layers would
            run instead of those that carry the style.
    """
    if any(_is_fused(module) for module in denoiser.modules()):
        raise PairError(
            f"{type(pipe).__name__}: its attention layers are fused and would run without the style; undo "
            "fuse_qkv_projections() by unfuse_qkv_projections() first"
        )
    encoders = text_encoders(pipe)
    own_modules = {id(module) for model in (*encoders, denoiser) for module in model.modules()}
    from_file: dict[str, PairNetwork] = {}
    chosen: list[PairNetwork] = []
    for style in styles:
        source = style.file_or_network
        if isinstance(source, PairNetwork):
            if any(id(layer.base) not in own_modules for layer in source.coupled_layers()):
                raise PairError(
                    f"style {style.name}: made for another model than this pipeline's; build it on this one"
                )
            chosen.append(source)
        else:
            file = str(source)
            if file not in from_file:
                from_file[file] = network_from_file(file, encoders, denoiser)
            chosen.append(from_file[file])
    return chosen


@contextmanager
def attached_networks(pipe: Pipeline, denoiser: nn.Module, styles: Sequence[Style]) -> Iterator[list[PairNetwork]]:
    """The networks of the styles, hooked into the pipeline's models and routed to the base model; undone afterwards.

    Raises:
        PairError: As ``networks_of``.
    """
    chosen = networks_of(pipe, denoiser, styles)
    with ExitStack() as stack:
        for network in dict.fromkeys(chosen):
            stack.enter_context(attached(network, pipe._execution_device))
        if any(is_compiled(model) for model in (*text_encoders(pipe), denoiser)):
            # Compiled code does not look whether hooks were added or removed: it would run without the style, and
            # afterwards with it.
            torch.compiler.reset()
            stack.callback(torch.compiler.reset)
        yield chosen


def _is_fused(module: nn.Module) -> bool:
    """Whether diffusers computes q, k and v by one layer, past those that a style file names."""
    # An older attention class keeps its mark when it is taken apart again; what counts is its processor.
    is_marked = getattr(module, "fused_projections", False) and hasattr(module, "unfuse_projections")
    return is_marked or "Fused" in type(getattr(module, "processor", None)).__name__


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile made code of the model or of a part of it."""
    return any(m._compiled_call_impl is not None or hasattr(m, "_orig_mod") for m in model.modules())


@contextmanager
def attached(network: PairNetwork, device: torch.device) -> Iterator[None]:
    """Hooks the network in, on the pipeline's device and without dropout, and puts everything back as it was."""
    unhooked = [layer for layer in network.coupled_layers() if not layer.is_attached]
    was_training, home = network.training, next(network.parameters()).device
    try:
        network.eval().to(device)
        for layer in unhooked:
            layer.attach()
        with network.route([BASE_ROW]):
            yield
    finally:
        for layer in unhooked:
            layer.detach_from_base()
        network.train(was_training).to(home)


def network_from_file(file: str, encoders: Sequence[nn.Module], denoiser: nn.Module) -> PairNetwork:
    """The style branch of a kohya LoRA or of a coupled checkpoint, in the precision of the model.

    Raises:
        PairError: The file is unreadable, or has layers that the models lack.
    """
    model = getattr(denoiser, "_orig_mod", denoiser)  # torch.compile's wrapper adds a level to every path
    if is_split_transformer(model):
        network = _network_on_split_transformer(file, encoders, model)
    else:
        network, _ = create_network_from_weights(1.0, file, None, list(encoders), model, for_inference=True)
    dtype = next(model.parameters()).dtype
    # Quantised weights name a storage type; the layers then follow their output's precision instead.
    return network.requires_grad_(False).to(dtype if dtype in COMPUTE_DTYPES else torch.float32)


def _network_on_split_transformer(file: str, encoders: Sequence[nn.Module], model: nn.Module) -> PairNetwork:
    layers = split_layers(_style_layers(file), model, file)
    targets = [target for target in all_layers(list(encoders), model) if target.key in layers]
    unknown = sorted(set(layers) - {target.key for target in targets})
    if unknown:
        raise PairError(
            f"{file}: {len(unknown)} of its layers are not in {type(model).__name__}, the first is {unknown[0]}; was "
            "it trained on another model family?"
        )
    rank = max(down.shape[0] for down, _, _ in layers.values())
    config = parse_network_args(rank, rank, None, {"orthogonality": "none", "content_dim": "1"})
    network = PairNetwork(config, targets, {key: (down.shape[0], 1) for key, (down, _, _) in layers.items()})
    with torch.no_grad():
        for layer in network.coupled_layers():
            down, up, alpha = layers[layer.name]
            layer.downs()[1].copy_(down)
            layer.set_up("style", up * (alpha / down.shape[0]))
    return network


def _style_layers(file: str) -> FileLayers:
    tensors, metadata = checkpoint.read(file)
    if is_pair_file(metadata):
        tensors = checkpoint.split_branches(tensors, file)[1]
    return checkpoint.layers_of(tensors, file)
