"""The training steps that are compared: each a function that makes one optimizer update on the same rows."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.guidance import twin
from pair_network import PairNetwork, create_network
from pair_network.network.route import Row, content_rows, style_rows

from .models import Data

PLAIN, KOHYA, FLOOR = "plain LoRA (peft)", "plain LoRA (kohya)", "frozen U-Net"
Step = Callable[[], None]
CONTENT, STYLE = "content", "style"


@dataclass(frozen=True)
class Way:
    """One way to train.

    Attributes:
        step: makes an update; no update of the frozen U-Net.
        rows: rows that a step passes through the model with gradients.
        trained: parameters that it trains.
    """

    step: Step
    rows: int
    trained: Sequence[nn.Parameter] = ()


@dataclass(frozen=True)
class Setting:
    """What all ways share: rank of either branch, kinds of layers, and the rows."""

    unet: nn.Module
    data: Data
    rank: int
    targets: str
    has_checkpointing: bool
    vae: AutoencoderKL
    is_compiled: bool = False

    @property
    def pairs(self) -> int:
        return len(self.data.latents) // 2


def loss_of(unet: nn.Module, data: Data) -> Tensor:
    """Mean squared error of a prediction, a scalar."""
    prediction = unet(data.latents, data.timesteps, data.states, added_cond_kwargs=data.added).sample
    return functional.mse_loss(prediction.float(), data.target.float())


def make_ways(setting: Setting, wanted: Sequence[str] = ()) -> dict[str, Way]:
    """The ways by name, each on a U-Net of its own that shares the weights.

    Args:
        setting: What they share.
        wanted: Parts of names; the floor and the plain LoRA, to which all are compared, are always there. Empty: all.
    """
    makers: dict[str, Callable[[], Way]] = {FLOOR: lambda: _floor(setting), PLAIN: lambda: _plain(setting)}
    if any(part in KOHYA for part in wanted):  # named alone, as it needs a checkout
        makers[KOHYA] = lambda: _kohya(setting)
    for orthogonality in ("frozen", "penalty"):
        for phase in ("joint", "alternate", "content only"):
            makers[f"ours, {phase}, {orthogonality}"] = functools.partial(_ours, setting, phase, orthogonality)
    makers["official, two passes"] = lambda: _official(setting, None)
    makers["official, with its autoencoder"] = lambda: _official(setting, setting.vae)
    always = FLOOR, PLAIN
    return {
        name: make()
        for name, make in makers.items()
        if not wanted or name in always or any(part in name for part in wanted)
    }


def _model(setting: Setting) -> nn.Module:
    unet = twin(setting.unet).train()
    if setting.has_checkpointing:
        unet.enable_gradient_checkpointing()
    if setting.is_compiled:
        unet.compile(fullgraph=True)  # at its first call, when the LoRA is in place; a break in the graph is an error
    return unet


def _updated(parameters: Sequence[nn.Parameter], step: Callable[[], Tensor]) -> Step:
    """A loss's backward pass and AdamW's update."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)

    def update() -> None:
        step().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def _floor(setting: Setting) -> Way:
    """Forward, and the gradient of the input: what no LoRA can do without."""
    unet = _model(setting)

    def step() -> None:
        data = setting.data
        latents = data.latents.clone().requires_grad_()
        prediction = unet(latents, data.timesteps, data.states, added_cond_kwargs=data.added).sample
        torch.autograd.grad(functional.mse_loss(prediction.float(), data.target.float()), latents)

    return Way(step, len(setting.data.latents))


def _network(setting: Setting, unet: nn.Module, orthogonality: str) -> PairNetwork:
    rank = setting.rank
    network = create_network(
        1.0, rank, float(rank), None, None, unet, targets=setting.targets, orthogonality=orthogonality,
        num_pairs=setting.pairs,
    )  # fmt: skip
    network.apply_to(None, unet)
    return network.to(setting.data.latents.device).train()


def _ours(setting: Setting, phase: str, orthogonality: str) -> Way:
    unet = _model(setting)
    network = _network(setting, unet, orthogonality)
    numbers, pairs = list(range(setting.pairs)), setting.pairs
    content, style = slice(0, pairs), slice(pairs, None)
    routes: list[tuple[Sequence[Row], slice]] = {
        "joint": [(content_rows(numbers) + style_rows(numbers), slice(None))],
        "alternate": [(style_rows(numbers), style), (content_rows(numbers), content)],
        "content only": [(content_rows(numbers), content)],
    }[phase]
    made = 0

    def loss() -> Tensor:
        nonlocal made
        rows, part = routes[made % len(routes)]
        made += 1
        network.set_route(rows)
        value = loss_of(unet, setting.data.rows(part)) * (2 if phase == "joint" else 1)
        return value + network.overlap_penalty() if orthogonality == "penalty" else value

    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return Way(_updated(trained, loss), 2 * pairs if phase == "joint" else pairs, trained)


def _target_names(setting: Setting, unet: nn.Module) -> list[str]:
    """Paths of the layers that our network takes, for peft."""
    network = create_network(1.0, 1, 1.0, None, None, unet, targets=setting.targets)
    wanted = {id(layer.base) for layer in network.coupled_layers()}
    return [name for name, module in unet.named_modules() if id(module) in wanted]


def _with_peft(setting: Setting, ranks: dict[str, int]) -> nn.Module:
    unet = _model(setting)
    names = _target_names(setting, unet)
    for adapter, rank in ranks.items():
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
        inject_adapter_in_model(config, unet, adapter_name=adapter)
    return unet


def _plain(setting: Setting) -> Way:
    """One LoRA of both branches' ranks on all rows."""
    unet = _with_peft(setting, {STYLE: 2 * setting.rank})
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    return Way(_updated(trained, lambda: loss_of(unet, setting.data)), len(setting.data.latents), trained)


def _kohya(setting: Setting) -> Way:
    """The same as kohya's own layers do it; needs the packages of the checkout in SD_SCRIPTS_DIR."""
    unet = _model(setting)
    network = create_network(1.0, 1, 1.0, None, None, unet, targets=setting.targets)
    sys.path.insert(0, os.environ["SD_SCRIPTS_DIR"])
    kohya = importlib.import_module("networks.lora")
    trained: list[nn.Parameter] = []
    for key, layer in network.layers.items():
        rank = 2 * setting.rank
        module = kohya.LoRAModule(key, layer.base, 1.0, rank, float(rank)).to(unet.device)
        module.apply_to()
        trained += module.parameters()
    return Way(_updated(trained, lambda: loss_of(unet, setting.data)), len(setting.data.latents), trained)


def _official(setting: Setting, vae: AutoencoderKL | None) -> Way:
    """The released procedure: a pass for each image, adapters switched between them, one update for each.

    The downs have gradients though they never change, as there; with `vae`, both pictures are encoded in every step.
    """
    unet = _with_peft(setting, {CONTENT: setting.rank, STYLE: setting.rank})
    ups = {name: value for name, value in unet.named_parameters() if "lora_B" in name}
    optimizers = {
        branch: torch.optim.AdamW([value for name, value in ups.items() if f".{branch}." in name], lr=1e-6)
        for branch in (CONTENT, STYLE)
    }
    layers = [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]
    halves = {CONTENT: slice(0, setting.pairs), STYLE: slice(setting.pairs, None)}

    def one_pass(branch: str, active: list[str]) -> None:
        for layer in layers:
            layer.set_adapter(active)
        for name, parameter in unet.named_parameters():
            if "lora_" in name:
                parameter.requires_grad_(f".{branch}." in name)
        data = setting.data.rows(halves[branch])
        if vae is not None:
            with torch.no_grad():
                vae.encode(data.pictures.to(vae.dtype))
        loss_of(unet, data).backward()
        optimizers[branch].step()
        unet.zero_grad(set_to_none=True)

    def step() -> None:
        one_pass(CONTENT, [CONTENT])
        one_pass(STYLE, [CONTENT, STYLE])

    return Way(step, len(setting.data.latents), list(ups.values()))
