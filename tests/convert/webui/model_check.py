"""Run by a UI's own Python: style hooks on its own SDXL and FLUX modules, made tiny, against merged weights.

    UI_PYTHON model_check.py a1111|forge CHECKOUT EXTENSION

prints a line for each model: name, layers, largest difference from the merged model, and the LoRA's effect.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

SDXL = {
    "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": 2, "channel_mult": [1, 2, 4],
    "num_head_channels": 8, "use_spatial_transformer": True, "transformer_depth": [0, 2, 2], "context_dim": 16,
    "num_classes": "sequential", "adm_in_channels": 24, "use_linear_in_transformer": True,
}  # fmt: skip


def a1111_models(checkout: Path) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
    sys.path[:0] = [str(checkout / "repositories" / "generative-models")]
    from sgm.modules.diffusionmodules.openaimodel import UNetModel

    settings = {**SDXL, "attention_resolutions": [4, 2], "spatial_transformer_attn_type": "softmax"}
    return {"sdxl": (UNetModel(**settings), sdxl_inputs())}


def forge_models(checkout: Path) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
    sys.path[:0] = [str(checkout), str(checkout / "packages_3rdparty")]
    sys.argv = ["launch.py", "--always-cpu"]
    from backend.nn.flux import IntegratedFluxTransformer2DModel
    from backend.nn.unet import IntegratedUNet2DConditionModel
    from backend.operations import using_forge_operations

    settings = {key: value for key, value in SDXL.items() if key != "use_linear_in_transformer"}
    blocks = {"num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 2, 2, 2, 2], "transformer_depth_middle": 2,
              "transformer_depth_output": [0, 0, 0, 2, 2, 2, 2, 2, 2], "use_linear_in_transformer": True}  # fmt: skip
    flux = {
        "in_channels": 16, "vec_in_dim": 12, "context_in_dim": 20, "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2,
        "depth": 2, "depth_single_blocks": 2, "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True,
        "guidance_embed": True,
    }  # fmt: skip
    with using_forge_operations(device=torch.device("cpu"), dtype=torch.float32):
        models = {"sdxl": IntegratedUNet2DConditionModel(**{**settings, **blocks}), "flux": None}
        models["flux"] = IntegratedFluxTransformer2DModel(**flux)
    for model in models.values():
        load_random(model)
    latents, text = torch.randn(2, 16, 8, 8), torch.randn(2, 5, 20)
    flux_inputs = (latents, torch.tensor([0.5, 0.9]), text, torch.randn(2, 12), torch.ones(2))
    return {"sdxl": (models["sdxl"], sdxl_inputs()), "flux": (models["flux"], flux_inputs)}


def load_random(model: nn.Module) -> None:
    """Forge's linear layers have no weight until one is loaded; its shape is in the layer."""
    for module in model.modules():
        if hasattr(module, "dummy") and hasattr(module, "in_features"):
            weight = torch.randn(module.out_features, module.in_features) / module.in_features**0.5
            module._load_from_state_dict({"weight": weight}, "", {}, True, [], [], [])
        elif isinstance(getattr(module, "weight", None), nn.Parameter):
            shape = module.weight.shape
            value = torch.randn(shape) / shape[1:].numel() ** 0.5 if len(shape) > 1 else torch.ones(shape)
            module.weight = nn.Parameter(value)
        for name, parameter in module.named_parameters(recurse=False):
            if name not in ("weight", "dummy"):
                parameter.data = torch.zeros_like(parameter) if name == "bias" else torch.ones_like(parameter)


def sdxl_inputs() -> tuple[torch.Tensor, ...]:
    return torch.randn(2, 4, 16, 16), torch.tensor([10.0, 700.0]), torch.randn(2, 5, 16), torch.randn(2, 24)


def is_layer(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim in (2, 4) and not isinstance(module, nn.Embedding)


def check(name: str, model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Hooks on every layer, in the native names that kohya gives SDXL and FLUX, against the same deltas merged."""
    from lib_pair_network.hooks import LoraHooks
    from lib_pair_network.lora_file import Layer

    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the last layers start at zero and would hide everything
            if not parameter.any():
                parameter.data = 0.1 * torch.randn(parameter.shape)
    modules = {path: module for path, module in model.named_modules() if is_layer(module)}
    layers = {}
    for path, module in modules.items():
        out, *rest = module.weight.shape
        down = torch.randn(2, *rest) / torch.Size(rest).numel() ** 0.5
        layers["lora_unet_" + path.replace(".", "_")] = Layer(
            down, 0.1 * torch.randn(out, 2, *(1,) * (len(rest) - 1)), 0.5
        )
    hooks = LoraHooks(model, layers, f"{name}.safetensors")
    plain = model(*inputs)
    with hooks.active():
        found = model(*inputs)
    assert torch.equal(model(*inputs), plain)
    for path, module in modules.items():
        layer = layers["lora_unet_" + path.replace(".", "_")]
        delta = layer.scale * layer.up.flatten(1) @ layer.down.flatten(1)
        module.weight = nn.Parameter(module.weight + delta.reshape(module.weight.shape))
    wanted = model(*inputs)
    difference, effect = float((found - wanted).abs().max()), float((found - plain).abs().max())
    print(f"{name}: {len(layers)} layers, difference {difference:.2e}, effect {effect:.2e}", flush=True)
    assert difference < 1e-4 * max(1.0, float(wanted.abs().max())) and effect > 100 * difference


def main() -> None:
    kind, checkout, extension = sys.argv[1:4]
    sys.path.insert(0, extension)
    torch.manual_seed(0)
    with torch.no_grad():
        models = (a1111_models if kind == "a1111" else forge_models)(Path(checkout))
        for name, (model, inputs) in models.items():
            check(name, model, inputs)


if __name__ == "__main__":
    main()
