"""ComfyUI or its stand-ins, the nodes, tiny random models and a picture's settings: what comfyui_checks.py works with.

The first argument of the command line names ComfyUI's folder; without one the stand-ins take its place.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
if len(sys.argv) > 1:
    import comfyui_real as backend

    FOLDER = Path(sys.argv[1]).resolve()
    backend.install(FOLDER)
else:
    import comfyui_standin as backend

    backend.install()

import comfy.hooks  # noqa: E402
import comfy.sampler_helpers  # noqa: E402
import comfy.samplers  # noqa: E402
import folder_paths  # noqa: E402
from comfy.samplers import CFGGuider  # noqa: E402

LORAS = Path(tempfile.mkdtemp())
folder_paths.add_model_folder_path("loras", str(LORAS))
MECHANISMS = ("guider", "patch")
CFG, STEPS = 5.0, 6


def load_nodes():
    """The folder convert/comfyui, or PAIR_NODES, loaded by its path as ComfyUI loads custom nodes."""
    folder = Path(os.environ.get("PAIR_NODES", HERE.parents[1] / "convert" / "comfyui"))
    spec = importlib.util.spec_from_file_location("pair_nodes", folder / "__init__.py", submodule_search_locations=[str(folder)])  # fmt: skip  # noqa: E501
    module = importlib.util.module_from_spec(spec)
    sys.modules["pair_nodes"] = module
    spec.loader.exec_module(module)
    return importlib.import_module("pair_nodes.nodes").NODE_CLASS_MAPPINGS


def load_names():
    return importlib.import_module("pair_nodes.nodes").NODE_DISPLAY_NAME_MAPPINGS


NODES = load_nodes()
Style, Guider, Patch, Guidance = (NODES[f"PairNetwork{name}"]() for name in ("Style", "Guider", "Patch", "Guidance"))


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_model(family="sd1", deltas=None, seed=1):
    """A model with weights that depend on the seed alone, plus ``deltas`` (weight's name: tensor)."""
    model = backend.tiny_model(family)
    with torch.no_grad():
        for number, (name, weight) in enumerate(sorted(model.model.diffusion_model.named_parameters())):
            values = random(*weight.shape, seed=seed * 10000 + number)
            if weight.ndim < 2:
                weight.copy_(0.1 * values + (1.0 if name.endswith("weight") or name.endswith("scale") else 0.0))
            else:
                weight.copy_(values / weight[0].numel() ** 0.5)
            if deltas and name in deltas:
                weight += deltas[name]
        for buffer in model.model.diffusion_model.buffers():
            buffer.zero_()  # SD 3's position table is read from the checkpoint, and holds anything without one
    return model


def lora_of(model, seed, scale=0.15, rank=3, pick=lambda name: True):
    """A kohya LoRA over the model's linear and convolution layers, and the deltas it stands for."""
    tensors, deltas = {}, {}
    for number, (path, module) in enumerate(sorted(model.model.diffusion_model.named_modules())):
        shape = getattr(getattr(module, "weight", None), "shape", ())
        if len(shape) < 2 or "mbed" in type(module).__name__ or not pick(path):
            continue
        down = random(rank, *shape[1:], seed=seed * 1000 + number) / shape[1:].numel() ** 0.5
        up = scale * random(shape[0], rank, *(1,) * (len(shape) - 2), seed=seed * 1000 + number + 500000)
        key, alpha = "lora_unet_" + path.replace(".", "_"), 1.0 + number % 3
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
        deltas[f"{path}.weight"] = (alpha / rank * up.flatten(1) @ down.flatten(1)).reshape(shape)
    return tensors, deltas


def prompt(seed, tokens=77, family="sd1", **options):
    return [
        [
            random(1, tokens, 16, seed=seed),
            {"pooled_output": random(1, backend.POOLED[family], seed=seed + 1), **options},
        ]
    ]


def style(tensors, conditioning, scale=1.0, start=0.0, end=1.0, styles=None, strength=1.0):
    name = f"style{len(list(LORAS.iterdir()))}.safetensors"
    save_file(tensors, LORAS / name)
    return Style.add(conditioning, name, scale, start, end, styles, strength)[0]


class Run:
    """One picture's settings; ``plain``, and ``guided`` through the guider or the patch."""

    def __init__(self, **changes):
        self.family, self.sampler, self.batch, self.cfg = "sd1", "euler", 1, CFG
        self.steps, self.denoise, self.latent, self.mask, self.sigmas, self.size = STEPS, 1.0, None, None, None, 8
        self.positive, self.negative = None, None
        self.__dict__.update(changes)
        self.positive = self.positive or prompt(10, family=self.family)
        self.negative = self.negative or prompt(20, family=self.family)

    def plain(self, model, positive=None):
        guider = CFGGuider(model)
        guider.set_conds(positive or self.positive, self.negative)
        guider.set_cfg(self.cfg)
        return self.sample(model, guider)

    def guided(self, model, styles, how, cfg_end=1.0):
        return self.sample(model, self.guider(model, styles, how, cfg_end))

    def guider(self, model, styles, how, cfg_end=1.0):
        if how == "patch":
            guider = CFGGuider(Patch.patch(model, styles, cfg_end)[0])
            guider.set_conds(self.positive, self.negative)
            guider.set_cfg(self.cfg)
            return guider
        return Guider.guide(model, self.positive, styles, self.cfg, self.negative, cfg_end)[0]

    def joined_guided(self, later, model, styles, how, edge):
        """Guided Euler steps of this run up to ``edge``, and of another one from there on, over one schedule."""
        latent = torch.zeros(self.batch, 4, self.size, self.size)
        schedule = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(schedule, "normal", self.steps)
        for number, (run, part) in enumerate(((self, sigmas[: edge + 1]), (later, sigmas[edge:]))):
            noise = random(*latent.shape, seed=5) if number == 0 else torch.zeros(latent.shape)
            sampler = comfy.samplers.sampler_object("euler")
            guider = run.guider(model, styles, how)
            latent = guider.sample(noise, latent, sampler, part, disable_pbar=True, seed=7)
        return latent

    def joined(self, parts, edges):
        """Euler steps of different models (each with a prompt, or its own) over one schedule, cut at ``edges``."""
        latent = torch.zeros(self.batch, 4, self.size, self.size)
        schedule = parts[0][0].get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(schedule, "normal", self.steps)
        for number, ((model, words), start, end) in enumerate(zip(parts, edges[:-1], edges[1:], strict=True)):
            guider = CFGGuider(model)
            guider.set_conds(words or self.positive, self.negative)
            guider.set_cfg(self.cfg)
            noise = random(*latent.shape, seed=5) if number == 0 else torch.zeros(latent.shape)
            sampler = comfy.samplers.sampler_object("euler")
            latent = guider.sample(noise, latent, sampler, sigmas[start : end + 1], disable_pbar=True, seed=7)
        return latent

    def sample(self, model, guider):
        shape = (self.batch, backend.CHANNELS[self.family], self.size, self.size)
        schedule = model.get_model_object("model_sampling")
        total = int(self.steps / self.denoise)
        sigmas = comfy.samplers.calculate_sigmas(schedule, "normal", total)[-(self.steps + 1) :]
        latent = torch.zeros(shape) if self.latent is None else self.latent
        noise, sampler = random(*shape, seed=5), backend.idle_sampler()
        sampler = comfy.samplers.sampler_object(self.sampler) if self.sampler else sampler
        sigmas = sigmas if self.sigmas is None else self.sigmas(sigmas)
        return guider.sample(noise, latent, sampler, sigmas, denoise_mask=self.mask, disable_pbar=True, seed=7)
