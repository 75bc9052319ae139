"""A LoRA that acts on a model only inside a ``with`` block, by forward hooks; no weight is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .errors import GuidanceError
from .layer_names import kohya_names
from .lora_file import Layer

SHOWN = 3


class LoraHooks:
    """The layers of one LoRA, each bound to its module.

    Hooks are registered on entering ``active()`` and removed on leaving it, also after an error, so that nothing stays
    in the model between two calls. They add scale · up(down(x)) to whatever the module gives, and so stack on the LoRAs
    of the prompt and work on quantised weights.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer], source: str) -> None:
        """Binds every layer.

        Args:
            model: The U-Net or transformer in its original layout.
            layers: kohya's layer names -> factors.
            source: The file's name, for errors.

        Raises:
            GuidanceError: A layer has no module in this model, or not one of its shape.
        """
        modules = dict(model.named_modules())
        names = kohya_names(modules)
        absent = [key for key in layers if key not in names]
        if absent:
            shown = ", ".join(absent[:SHOWN])
            raise GuidanceError(
                f"{source}: {len(absent)} of {len(layers)} layers are not in this model ({shown}); "
                f"the style was trained for another model family"
            )
        self._source = source
        self._bound = [_Bound(modules[names[key]], layer, key, source) for key, layer in layers.items()]

    def __len__(self) -> int:
        return len(self._bound)

    def size(self) -> int:
        """Bytes of the factors as they were read."""
        return sum(bound.size for bound in self._bound)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Turns the LoRA on.

        Raises:
            GuidanceError: On leaving, if no layer was called: something else runs in the model's place.
        """
        for bound in self._bound:
            bound.calls = 0
        handles = [bound.module.register_forward_hook(bound.hook) for bound in self._bound]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if not any(bound.calls for bound in self._bound):
            raise GuidanceError(
                f"{self._source}: none of its {len(self)} layers was called; "
                f"a TensorRT or other replaced U-Net cannot be guided"
            )


class _Bound:
    """A layer on its module, with the factors where and as the module's input needs them."""

    def __init__(self, module: nn.Module, layer: Layer, key: str, source: str) -> None:
        self.module = module
        self.calls = 0
        self.size = sum(factor.numel() * factor.element_size() for factor in (layer.down, layer.up))
        self._scale = layer.scale
        self._is_conv = isinstance(module, nn.Conv2d)
        self._down, self._up = _fitted(layer.down, self._is_conv), _fitted(layer.up, self._is_conv)
        self._placed: tuple[Tensor, Tensor] | None = None
        _check(module, self._down, self._up, self._is_conv, key, source)

    def hook(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        down, up = self._factors(x)
        if self._is_conv:
            # The module's own convolution: its stride, dilation and padding, which tiling makes circular.
            delta = torch.nn.functional.conv2d(module._conv_forward(x, down, None), up)  # type: ignore[operator]
        else:
            delta = torch.nn.functional.linear(torch.nn.functional.linear(x, down), up)
        self.calls += 1
        return output + delta.to(output.dtype)

    def _factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._placed is None or self._placed[0].device != x.device or self._placed[0].dtype != x.dtype:
            up = self._up.to(x.device, torch.promote_types(x.dtype, torch.float32)) * self._scale
            self._placed = self._down.to(x.device, x.dtype), up.to(x.dtype)
        return self._placed


def _fitted(factor: Tensor, is_conv: bool) -> Tensor:
    """The same layer may be linear in one UI and a 1 × 1 convolution in the other."""
    if is_conv and factor.ndim == 2:
        return factor[:, :, None, None]
    if not is_conv and factor.ndim == 4 and factor.shape[2:] == (1, 1):
        return factor[:, :, 0, 0]
    return factor


def _check(module: nn.Module, down: Tensor, up: Tensor, is_conv: bool, key: str, source: str) -> None:
    found = (up.shape[0], *down.shape[1:])
    wanted = _weight_shape(module)
    weight = getattr(module, "weight", None)
    if wanted is None and not (isinstance(weight, Tensor) and not weight.is_floating_point()):
        raise GuidanceError(f"{source}: {key} is no linear or convolution layer of this model")
    is_other_kind = not is_conv and down.ndim == 4
    if is_other_kind or (wanted is not None and tuple(found) != wanted):
        raise GuidanceError(
            f"{source}: {key} is for a layer of shape {found}, this model has {wanted}; "
            f"the style was trained for another model"
        )


def _weight_shape(module: nn.Module) -> tuple[int, ...] | None:
    """Shape of the layer's weight; None where it is quantised and does not tell."""
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return int(module.out_features), int(module.in_features)  # type: ignore[arg-type]
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim in (2, 4):
        return tuple(weight.shape)
    return None
