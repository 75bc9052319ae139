"""A style LoRA beside a model: added to the outputs of its layers, only while it is switched on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from .lora import Layer, Match, StyleFileError

CONVOLUTIONS = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}


class LowRank(nn.Module):
    """scale · up(down(x)) for one layer of the model, whose weight is never touched.

    Args:
        layer: The factors.
        base: The model's layer: linear, or a convolution with its stride, padding and dilation.
        multiplier: Strength of the LoRA.
    """

    def __init__(self, layer: Layer, base: nn.Module, shape: tuple[int, ...], multiplier: float) -> None:
        super().__init__()
        self.is_convolution = len(shape) > 2
        kernel_of_ones = (1,) * (len(shape) - 2)
        down = layer.down.reshape(-1, *shape[1:])
        up = layer.up.reshape(layer.up.shape[0], -1, *kernel_of_ones)
        self.down, self.up = nn.Parameter(down, requires_grad=False), nn.Parameter(up, requires_grad=False)
        self.scale = layer.scale * multiplier
        self.place = {name: getattr(base, name) for name in ("stride", "padding", "dilation") if self.is_convolution}

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: the layer's input, (batch, …, in_dim) or (batch, in_channels, …). Returns: its output's change."""
        # The model's layers cast their weights in the same way; both are no-ops where ComfyUI loaded the factors.
        down, up = (factor.to(x.device, x.dtype) for factor in (self.down, self.up))
        if not self.is_convolution:
            return functional.linear(functional.linear(x, down), up) * self.scale
        convolve = CONVOLUTIONS[down.ndim]
        return convolve(convolve(x, down, **self.place), up) * self.scale


class StyleLayers(nn.Module):
    """All layers of one style, to be attached to a model and switched on for single evaluations.

    Forward hooks stack on whatever else changes the model: weights patched by other LoRAs, quantised weights, weights
    that are cast or moved while the model runs.
    """

    def __init__(self, matches: Sequence[Match], model: nn.Module, multiplier: float, name: str) -> None:
        """Args: matches: see ``match_layers``. model: the module that the matches' keys are names in."""
        super().__init__()
        self.name = name
        self.paths = [match.key.removesuffix(".weight") for match in matches]
        self.rows = [match.rows for match in matches]
        self.is_on = False
        self.ran: set[str] = set()
        self.parts = nn.ModuleList()
        for match, path in zip(matches, self.paths, strict=True):
            base = model.get_submodule(path)
            shape = weight_shape(base)
            if getattr(base, "groups", 1) != 1 or len(shape) not in (2, *CONVOLUTIONS):
                raise StyleFileError(
                    f"{name}: {path} is no plain linear or convolution layer; use Style Guidance Guider"
                )
            self.parts.append(LowRank(match.layer, base, shape, multiplier))

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """The layers are in place within the block, and gone after it, whatever happens."""
        with ExitStack() as stack:
            for path, rows, part in zip(self.paths, self.rows, self.parts, strict=True):
                handle = model.get_submodule(path).register_forward_hook(self._hook(path, rows, part))
                stack.callback(handle.remove)
            yield

    @contextmanager
    def switched_on(self) -> Iterator[None]:
        """The layers act within the block, which must evaluate the model once.

        Raises:
            RuntimeError: One of them did not run in it.
        """
        self.ran.clear()
        self.is_on = True
        try:
            with _uncompiled():
                yield
        finally:
            self.is_on = False
        idle = [path for path in self.paths if path not in self.ran]
        if idle:
            raise RuntimeError(
                f"{self.name}: the model ran without {len(idle)} of the style's {len(self.paths)} layers "
                f"({idle[0]}, …), so the picture would have a part of the style, or none; a node that caches, compiles "
                "or replaces the model does that: take it away, or use Style Guidance Guider instead of the model node"
            )

    def _hook(self, path: str, rows: tuple[int, int] | None, part: nn.Module):
        def add(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
            if not self.is_on:
                return None
            self.ran.add(path)
            delta = part(inputs[0]).to(output.dtype)
            if rows is None:
                return output + delta
            output = output.clone()
            output.narrow(-1, *rows).add_(delta)
            return output

        return add


def _uncompiled() -> AbstractContextManager:
    """Compiled models run as written: torch.compile does not notice hooks that came after it."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # torch 2.6
    return set_stance("force_eager") if set_stance else nullcontext()


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """(out, in, *kernel) of a layer; quantised weights may be stored in another shape than their layer's."""
    sizes = getattr(layer, "out_features", None), getattr(layer, "in_features", None)
    if isinstance(sizes[0], int) and isinstance(sizes[1], int):
        return sizes[0], sizes[1]
    weight = getattr(layer, "weight", None)
    return tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()
