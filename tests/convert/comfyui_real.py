"""ComfyUI itself as the checks' back end: tiny random models of its own classes, on the CPU."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import torch

SAMPLERS = ["euler", "euler_ancestral", "dpmpp_2m", "ddim", "uni_pc"]
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "context_dim": 16, "use_spatial_transformer": True, "legacy": False,
    "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False, "num_heads": 4,
    "dtype": torch.float32,
}  # fmt: skip
SDXL = {
    **UNET, "model_channels": 64,
    "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": 1536 + 16,
}  # fmt: skip
FLUX = {
    "image_model": "flux", "in_channels": 4, "out_channels": 4, "vec_in_dim": 16, "context_in_dim": 16,
    "hidden_size": 48, "mlp_ratio": 4.0, "num_heads": 3, "depth": 1, "depth_single_blocks": 1,
    "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True, "guidance_embed": True, "patch_size": 2,
    "dtype": torch.float32,
}  # fmt: skip
SD3 = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None,
    "adm_in_channels": 16, "context_embedder_config": {"params": {"in_features": 16, "out_features": 128},
    "target": "torch.nn.Linear"}, "pos_embed_max_size": 32, "num_patches": 1024, "dtype": torch.float32,
}  # fmt: skip
POOLED = {"sd1": 16, "sdxl": 16, "flux": 16, "sd3": 16}
CHANNELS = {"sd1": 4, "sdxl": 4, "flux": 4, "sd3": 16}


def install(folder: Path) -> None:
    """Puts ComfyUI on the path, without a GPU."""
    sys.path.insert(0, str(folder))
    sys.argv[1:] = ["--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sd

    logging.getLogger().setLevel(logging.ERROR)


def tiny_model(family: str = "sd1"):
    """A ModelPatcher over a small model of a family, with random weights."""
    import comfy.model_patcher
    import comfy.supported_models as supported

    kind, config = {
        "sd1": (supported.SD15, UNET),
        "sdxl": (supported.SDXL, SDXL),
        "flux": (supported.Flux, flux_config()),
        "sd3": (supported.SD3, SD3),
    }[family]
    model = kind(dict(config)).get_model({}, "", device="cpu").eval()
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def flux_config() -> dict[str, object]:
    """FLUX's settings, with the one that newer versions of ComfyUI ask for as well."""
    from comfy.ldm.flux.model import FluxParams

    return {**FLUX, "txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else FLUX


def with_lora(model, tensors, strength):
    """The model behind ComfyUI's own LoRA loader."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, tensors, strength, 0.0)[0]


def make_control():
    """A ControlNet that adds a constant to the middle of the U-Net."""
    import comfy.controlnet

    class Control(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            return {"input": [], "middle": [torch.full((1, 1, 1, 1), 0.5)], "output": []}

        def get_models(self):
            return []

    return Control()


def idle_sampler():
    """A sampler that never calls the model."""
    import comfy.samplers

    return comfy.samplers.KSAMPLER(lambda model, noise, *arguments, **options: noise)


def compiled(model):
    """The model behind torch.compile as ComfyUI's own node puts it, traced but not translated to C++."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    clone = model.clone()
    set_torch_compile_wrapper(clone, backend="eager")
    return clone
