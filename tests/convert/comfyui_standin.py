"""Stand-ins for the parts of ComfyUI that the nodes use, with its contracts but none of its code.

Conditions are dicts; a condition outside its time predicts zeros; areas and masks are averaged; a model clone shares
its module; hooks change weights for the conditions that carry them; wrappers nest; post-CFG functions follow CFG.
"""

from __future__ import annotations

import sys
import types
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

SAMPLERS = ["euler", "euler_ancestral"]
POOLED, CHANNELS = {"sd1": 16}, {"sd1": 4}


class Denoiser(nn.Module):
    """Convolutions and attention-like linear layers, (batch, 4, h, w) with a text (batch, tokens, 16)."""

    def __init__(self):
        super().__init__()
        self.time_embed = nn.ModuleList([nn.Linear(1, 16)])
        self.conv1, self.down, self.out = (
            nn.Conv2d(4, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, 2, 1),
            nn.Conv2d(16, 4, 1),
        )
        self.attn2_to_q, self.attn2_to_k, self.attn2_to_v = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x, sigma, text, control=None):
        hidden = torch.tanh(self.conv1(x / (1 + sigma**2) ** 0.5))
        hidden = hidden + self.time_embed[0](sigma.flatten()[:, None].log1p())[:, :, None, None]
        small = self.down(hidden) + (0 if control is None else control)
        query = self.attn2_to_q(small.flatten(2).transpose(1, 2))
        attended = (query @ self.attn2_to_k(text).transpose(1, 2) / 4).softmax(-1) @ self.attn2_to_v(text)
        attended = attended.transpose(1, 2).reshape(small.shape)
        return self.out(hidden + nn.functional.interpolate(attended, size=hidden.shape[2:]))


class Schedule:
    sigmas = torch.linspace(0.02, 3.8, 1000).sinh()
    sigma_max = sigmas[-1]

    def percent_to_sigma(self, share):
        return 1e9 if share <= 0 else 0.0 if share >= 1 else float(self.sigmas[round((1 - share) * 999)])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.diffusion_model = Denoiser()
        self.model_sampling = Schedule()


class ModelPatcher:
    def __init__(self, model, load_device=None, offload_device=None):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.wrappers, self.additional, self.model_options, self.loras = {}, {}, {}, []
        self.run = model.diffusion_model if isinstance(model, Model) else None

    def clone(self):
        other = ModelPatcher(self.model, self.load_device, self.offload_device)
        other.wrappers = {kind: list(found) for kind, found in self.wrappers.items()}
        other.run = self.run
        other.additional, other.loras = dict(self.additional), list(self.loras)
        return other

    def model_dtype(self):
        return torch.float32

    def get_model_object(self, name):
        return getattr(self.model, name)

    def add_wrapper_with_key(self, kind, key, wrapper):
        self.wrappers.setdefault(kind, []).append(wrapper)

    def set_additional_models(self, key, models):
        self.additional[key] = models


def tiny_model(family="sd1"):
    return ModelPatcher(Model(), "cpu", "cpu")


def with_lora(model, tensors, strength):
    clone = model.clone()
    clone.loras.append((tensors, strength))
    return clone


def make_control():
    return types.SimpleNamespace(value=0.5, cleanup=lambda: None)


def idle_sampler():
    return lambda guider, sigmas, extra_args, noise, latent, mask: noise


def compiled(model):
    clone = model.clone()
    clone.run = torch.compile(model.model.diffusion_model, backend="eager")
    return clone


def key_map(model, found):
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            found["lora_unet_" + name.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_")] = name
    return found


@contextmanager
def merged(model, loras):
    """The module with LoRAs in its weights, and without them afterwards."""
    weights, names = dict(model.named_parameters()), key_map(model, {})
    saved = {}
    with torch.no_grad():
        for tensors, strength in loras:
            for key, name in names.items():
                if f"{key}.lora_up.weight" in tensors:
                    up, down = (tensors[f"{key}.lora_{part}.weight"].flatten(1) for part in ("up", "down"))
                    saved.setdefault(name, weights[name].clone())
                    delta = float(tensors[f"{key}.alpha"]) / down.shape[0] * up @ down
                    weights[name] += strength * delta.reshape(weights[name].shape)
        try:
            yield
        finally:
            for name, value in saved.items():
                weights[name].copy_(value)


class HookGroup:
    def __init__(self, loras):
        self.loras = loras

    @staticmethod
    def combine_all_hooks(groups):
        loras = [lora for group in groups if group is not None for lora in group.loras]
        return HookGroup(loras) if loras else None


def set_hooks(conditioning, hooks):
    return [[text, {**options, "hooks": hooks}] for text, options in conditioning]


def convert_cond(conditioning):
    return [{**options, "cross_attn": text, "model_conds": {}, "uuid": object()} for text, options in conditioning]


def process_conds(model, noise, conds, device, latent_image=None, denoise_mask=None, seed=None):
    def prepare(condition):
        condition = dict(condition)
        height, width = noise.shape[2:]
        if condition.get("area", [0])[0] == "percentage":
            share = condition["area"][1:]
            condition["area"] = tuple(round(s * size) for s, size in zip(share, (height, width) * 2, strict=True))
        for end in ("start", "end"):
            if f"{end}_percent" in condition:
                condition[f"timestep_{end}"] = model.model_sampling.percent_to_sigma(condition[f"{end}_percent"])
        condition["model_conds"] = {"text": condition["cross_attn"]}
        return condition

    return {name: [prepare(condition) for condition in found] for name, found in conds.items()}


def get_area_and_mult(condition, x, sigma):
    if not condition.get("timestep_end", 0.0) <= float(sigma[0]) <= condition.get("timestep_start", 1e9):
        return None
    area, mult = condition.get("area"), torch.ones_like(x)
    if "mask" in condition:
        mult = mult * condition["mask"][:, None]
    if area is not None:
        mult = mult[:, :, area[2] : area[2] + area[0], area[3] : area[3] + area[1]]
    return types.SimpleNamespace(area=area, mult=mult * condition.get("strength", 1.0))


def calc_cond_batch(model, conds, x, sigma, options):
    results = []
    for found in conds:
        total, count = torch.zeros_like(x), torch.full_like(x, 1e-37)
        for condition in found or []:
            placed = get_area_and_mult(condition, x, sigma)
            if placed is None:
                continue
            h, w, top, left = placed.area or (*x.shape[2:], 0, 0)
            place = (..., slice(top, top + h), slice(left, left + w))
            hooks = condition.get("hooks")
            text = condition["model_conds"]["text"].repeat(x.shape[0], 1, 1)
            control = getattr(condition.get("control"), "value", None)
            with merged(model, hooks.loras if hooks else []):
                noise = model.run(x[place], sigma.view(-1, 1, 1, 1), text, control)
            total[place] += (x[place] - sigma.view(-1, 1, 1, 1) * noise) * placed.mult
            count[place] += placed.mult
        results.append(total / count)
    return results


class CFGGuider:
    def __init__(self, model):
        self.model_patcher, self.model_options, self.original_conds, self.cfg = model, model.model_options, {}, 1.0

    def set_conds(self, positive, negative):
        self.inner_set_conds({"positive": positive, "negative": negative})

    def inner_set_conds(self, conds):
        self.original_conds.update({name: convert_cond(found) for name, found in conds.items()})

    def set_cfg(self, cfg):
        self.cfg = cfg

    def __call__(self, x, timestep, model_options=None, seed=None):
        return self.predict_noise(x, timestep, model_options=model_options, seed=seed)

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        sigma = timestep
        uncond = None if self.cfg == 1.0 else self.conds["negative"]
        cond, null = calc_cond_batch(self.inner_model, [self.conds["positive"], uncond], x, sigma, model_options)
        result = null + (cond - null) * self.cfg
        for function in model_options.get("sampler_post_cfg_function", []):
            result = function({"denoised": result, "cond_denoised": cond, "uncond_denoised": null, "sigma": sigma,
                               "input": x, "model": self.inner_model, "model_options": model_options})  # fmt: skip
        return result

    def inner_sample(self, noise, latent, device, sampler, sigmas, mask, callback, disable_pbar, seed):
        self.conds = process_conds(self.inner_model, noise, self.conds, device, latent, mask, seed)

        def run(guider, sigmas, extra_args, callback, noise, latent, mask, disable_pbar):
            return sampler(guider, sigmas, extra_args, noise, latent, mask)

        for wrapper in self.model_patcher.wrappers.get("sampler_sample", []):
            run = partial(wrapper, run)
        extra_args = {"model_options": dict(self.model_options), "seed": seed}
        return run(self, sigmas, extra_args, callback, noise, latent, mask, disable_pbar)

    @torch.no_grad()
    def sample(self, noise, latent, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None):
        self.inner_model = self.model_patcher.model
        self.inner_model.__dict__["run"] = self.model_patcher.run
        self.conds = {name: [dict(condition) for condition in found] for name, found in self.original_conds.items()}
        with merged(self.inner_model, self.model_patcher.loras):
            return self.inner_sample(noise, latent, "cpu", sampler, sigmas, denoise_mask, callback, disable_pbar, seed)


def sampler_object(name):
    def sample(guider, sigmas, extra_args, noise, latent, mask):
        generator = torch.Generator().manual_seed(extra_args["seed"])
        x, blend = latent + sigmas[0] * noise, 1.0 if mask is None else mask
        for sigma, following in pairwise(sigmas):
            x = x * blend + (latent + sigma * noise) * (1 - blend)
            denoised = guider(x, sigma.repeat(len(x)), **extra_args) * blend + latent * (1 - blend)
            if name == "euler":
                x = x + (x - denoised) / sigma * (following - sigma)
            else:
                x = denoised + following * torch.randn(x.shape, generator=generator)
        return x

    return sample


def calculate_sigmas(schedule, scheduler, steps):
    shares = torch.linspace(0, 1, steps).tolist()
    return torch.tensor([float(schedule.sigmas[round((1 - share) * 999)]) for share in shares] + [0.0])


def install():
    """Makes ``import comfy`` and ``import folder_paths`` find the stand-ins."""
    folders = []
    contents = {
        "comfy": {},
        "comfy.hooks": {
            "HookGroup": HookGroup,
            "create_hook_lora": lambda lora, model, clip: HookGroup([(lora, model)]),
            "set_hooks_for_conditioning": set_hooks,
        },
        "comfy.lora": {"model_lora_keys_unet": key_map},
        "comfy.model_patcher": {"ModelPatcher": ModelPatcher},
        "comfy.patcher_extension": {"WrappersMP": types.SimpleNamespace(SAMPLER_SAMPLE="sampler_sample")},
        "comfy.sampler_helpers": {
            "convert_cond": convert_cond,
            "get_additional_models": lambda conds, dtype: ([], 0),
            "cleanup_additional_models": lambda models: [model.cleanup() for model in models],
        },
        "comfy.samplers": {
            "CFGGuider": CFGGuider,
            "process_conds": process_conds,
            "calc_cond_batch": calc_cond_batch,
            "get_area_and_mult": get_area_and_mult,
            "sampler_object": sampler_object,
            "calculate_sigmas": calculate_sigmas,
        },
        "folder_paths": {
            "add_model_folder_path": lambda kind, path: folders.append(Path(path)),
            "get_filename_list": lambda kind: [path.name for folder in folders for path in folder.iterdir()],
            "get_full_path": lambda kind, name: str(folders[0] / name),
            "get_full_path_or_raise": lambda kind, name: str(folders[0] / name),
        },
    }
    for name, values in contents.items():
        module = types.ModuleType(name)
        module.__dict__.update(values)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
