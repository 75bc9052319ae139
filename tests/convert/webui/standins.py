"""Stand-ins for A1111, Forge, Forge Neo and reForge: callbacks, conditionings and CFG in the order of their sampling.

Only what the adapters touch, on a small network with a real U-Net's module names. Written from the contracts: which
rows come when, what is read back, that exceptions of callbacks are printed and swallowed.
"""

from __future__ import annotations

import importlib.machinery
import re
import sys
import types
from pathlib import Path
from types import SimpleNamespace as Namespace

import torch
from torch import nn

WIDTH, CONTEXT = 8, 6
STEPS = 4


class TinyUnet(nn.Module):
    """x (rows, 4, 4, 4), sigma (rows,), context (rows, tokens, CONTEXT) -> x0 prediction, nonlinear in each."""

    def __init__(self, seed=0):
        super().__init__()
        self.input_blocks = nn.ModuleList(nn.ModuleList() for _ in range(2))
        self.input_blocks[0].append(nn.Conv2d(4, WIDTH, 3, padding=1))
        block = nn.Module()
        block.attn2 = nn.Module()
        block.attn2.to_q = nn.Linear(WIDTH, WIDTH, bias=False)
        block.attn2.to_v = nn.Linear(CONTEXT, WIDTH, bias=False)
        spatial = nn.Module()
        spatial.transformer_blocks = nn.ModuleList([block])
        self.input_blocks[1].extend([nn.Identity(), spatial])
        self.out = nn.Sequential(nn.Identity(), nn.SiLU(), nn.Conv2d(WIDTH, 4, 3, padding=1))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.double().parameters():
            parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    def forward(self, x, sigma, context):
        hidden = self.input_blocks[0][0](x) + sigma[:, None, None, None]
        attention = self.input_blocks[1][1].transformer_blocks[0].attn2
        query = attention.to_q(hidden.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(hidden.shape)
        value = attention.to_v(context).tanh().mean(1)[:, :, None, None]
        return self.out(torch.tanh(hidden + query * value) + value)


LORA_KEYS = {
    "lora_unet_conv_in": (WIDTH, 4, 3, 3),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q": (WIDTH, WIDTH),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v": (WIDTH, CONTEXT),
}


def lora_tensors(seed=1, strength=1.0):
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for key, (out, *rest) in LORA_KEYS.items():
        tensors[f"{key}.lora_down.weight"] = 0.5 * torch.randn(2, *rest, generator=generator, dtype=torch.float64)
        up = strength * torch.randn(out, 2, *(1,) * (len(rest) - 1), generator=generator, dtype=torch.float64)
        tensors[f"{key}.lora_up.weight"] = up
        tensors[f"{key}.alpha"] = torch.tensor(1.0)
    return tensors


def merge(unet, tensors):
    """Adds the LoRA to the weights, as a UI does with a LoRA of the prompt."""
    from lib_pair_network.layer_names import kohya_names

    modules = dict(unet.named_modules())
    names = kohya_names(modules)
    for key in LORA_KEYS:
        up, down = tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"]
        delta = tensors[f"{key}.alpha"] / down.shape[0] * up.flatten(1) @ down.flatten(1)
        weight = modules[names[key]].weight
        weight.data = weight.data + delta.reshape(weight.shape)


def embedding(text):
    """(tokens, CONTEXT): longer texts have more tokens, as with more chunks of 75."""
    seed = sum(ord(letter) * (place + 1) for place, letter in enumerate(text))
    tokens = 2 + 2 * (len(text) > 40)
    return torch.randn(tokens, CONTEXT, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Conds:
    """A batch's conditionings: per image its AND parts, as (text, weight)."""

    def __init__(self, texts):
        self.images = []
        for text in texts:
            parts = []
            for part in re.split(r"\bAND\b", text):
                found = re.fullmatch(r"(.*?)(?:\s*:\s*([\d.]+))?\s*", part, re.S)
                parts.append((found[1].strip(), float(found[2] or 1)))
            self.images.append(parts)


def with_old_scheduling(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    return Conds(prompts)


def without_old_scheduling(model, prompts, steps, hires_steps=None):
    return Conds(prompts)


def reconstruct_multicond_batch(conds, step):
    composition, rows = [], []
    for parts in conds.images:
        composition.append([(len(rows) + index, weight) for index, (_, weight) in enumerate(parts)])
        rows += [embedding(text) for text, _ in parts]
    tokens = max(len(row) for row in rows)
    return composition, torch.stack([torch.cat([row, row[-1:].expand(tokens - len(row), -1)]) for row in rows])


class Processing:
    """The fields of a txt2img processing object that are read."""

    def __init__(self, prompts, sd_model, **fields):
        self.prompts, self.sd_model = prompts, sd_model
        self.width = self.height = 32
        self.steps = self.firstpass_steps = STEPS
        self.extra_generation_params, self.comments = {}, {}
        self.is_hr_pass = False
        for name, value in fields.items():
            setattr(self, name, value)

    def comment(self, text):
        self.comments[text] = 1


class Callbacks:
    """Registered functions of one kind; their exceptions are kept, and swallowed as the UIs do."""

    def __init__(self):
        self.functions, self.swallowed = [], []

    def __call__(self, params):
        for function in self.functions:
            try:
                function(params)
            except Exception as cause:
                self.swallowed.append(cause)


def put(monkeypatch, name, module):
    """Into sys.modules, findable by ``find_spec`` as well."""
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__path__ = []
    monkeypatch.setitem(sys.modules, name, module)


def install(monkeypatch, folder):
    """Puts stand-ins for ``modules`` and ``backend`` into sys.modules; returns what they share."""
    callbacks = {name: Callbacks() for name in ("cfg_denoiser", "cfg_denoised", "cfg_after_cfg")}
    shared = types.ModuleType("modules.shared")
    shared.cmd_opts = Namespace(lora_dir=str(folder))
    shared.opts = Namespace(batch_cond_uncond=True, use_old_scheduling=False)
    shared.state = Namespace(job_timestamp="1", interrupted=False, skipped=False)
    shared.walk_files = lambda path, allowed_extensions: sorted(map(str, folder.rglob("*.safetensors")))
    parser = types.ModuleType("modules.prompt_parser")
    parser.SdConditioning = lambda texts, **size: list(texts)
    parser.get_multicond_learned_conditioning = with_old_scheduling
    parser.reconstruct_multicond_batch = reconstruct_multicond_batch
    script_callbacks = types.ModuleType("modules.script_callbacks")
    for name, kind in callbacks.items():
        setattr(script_callbacks, f"on_{name}", kind.functions.append)
    common = types.ModuleType("modules.sd_samplers_common")
    common.setup_img2img_steps = lambda p, steps=None: (p.steps, int(p.denoising_strength * p.steps))
    devices = types.ModuleType("modules.devices")
    devices.autocast = torch.no_grad
    parts = {"shared": shared, "prompt_parser": parser, "script_callbacks": script_callbacks,
             "sd_samplers_common": common, "devices": devices}  # fmt: skip
    denoiser = types.ModuleType("modules.sd_samplers_cfg_denoiser")
    parts["sd_samplers_cfg_denoiser"] = denoiser
    modules = types.ModuleType("modules")
    put(monkeypatch, "modules", modules)
    for name, part in parts.items():
        setattr(modules, name, part)
        put(monkeypatch, f"modules.{name}", part)
    return Namespace(shared=shared, callbacks=callbacks)


class A1111Model:
    """What A1111 keeps in ``shared.sd_model``."""

    def __init__(self, unet, key="crossattn"):
        self.model = Namespace(diffusion_model=unet, conditioning_key=key)
        self.sd_checkpoint_info = object()


class A1111Denoiser:
    """One call per model call: rows [conditional …, null …], sliced by length, then the callbacks, then CFG."""

    need_last_noise_uncond = False

    def __init__(self, ui, p, cond, uncond, scale, skips_null=False, mask=None):
        self.ui, self.p, self.scale, self.skips_null, self.mask = ui, p, scale, skips_null, mask
        self.sampler = Namespace(sampler_extra_args={"cond": cond, "uncond": uncond})
        self.step, self.total_steps = 0, STEPS
        self.last_noise_uncond = None

    def inner_model(self, x, sigma, cond):
        (context,) = cond["c_crossattn"]
        return self.ui.shared.sd_model.model.diffusion_model(x, sigma, context)

    def __call__(self, x, sigma):
        composition, context = reconstruct_multicond_batch(self.sampler.sampler_extra_args["cond"], self.step)
        null = reconstruct_multicond_batch(self.sampler.sampler_extra_args["uncond"], self.step)[1]
        images = [image for image, parts in enumerate(composition) for _ in parts]
        rows, sigmas = torch.cat([x[images], x]), torch.cat([sigma[images], sigma])
        params = Namespace(x=rows, image_cond=torch.zeros(len(rows), 1), sigma=sigmas, denoiser=self)
        self.ui.callbacks["cfg_denoiser"](params)
        make = lambda cond, picture: {"c_crossattn": [cond], "c_concat": [picture]}  # noqa: E731
        count = len(images)
        out = [self.inner_model(rows[:count], sigmas[:count], make(context, params.image_cond[:count]))]
        if self.skips_null:
            out.append(out[0][[parts[0][0] for parts in composition]])
        else:
            out.append(self.inner_model(rows[count:], sigmas[count:], make(null, params.image_cond[count:])))
        out = torch.cat(out)
        self.ui.callbacks["cfg_denoised"](Namespace(x=out, inner_model=self.inner_model))
        if self.need_last_noise_uncond:
            self.last_noise_uncond = out[count:].clone()
        result = out[count:].clone()
        for image, parts in enumerate(composition):
            for row, weight in parts:
                result[image] += (out[row] - out[count + image]) * weight * (1 if self.skips_null else self.scale)
        if self.mask is not None:
            result = result * self.mask
        self.ui.callbacks["cfg_after_cfg"](Namespace(x=result))
        self.step += 1
        return result


def install_forge(monkeypatch):
    """Stand-ins for Forge's back end, beside those of ``install``."""
    contents = {
        "backend": {},
        "backend.sampling": {},
        "backend.sampling.condition": {"compile_weighted_conditions": compile_weighted_conditions},
        "backend.sampling.sampling_function": {"calc_cond_uncond_batch": calc_cond_uncond_batch},
        "backend.patcher": {},
        "backend.patcher.base": {"ModelPatcher": ForgePatcher},
    }
    fill(monkeypatch, contents)


def install_forge_neo(monkeypatch, ui, folder):
    """Forge without old prompt editing, and with a second LoRA folder, whose files A1111's option does not name."""
    install_forge(monkeypatch)
    sys.modules["modules.prompt_parser"].get_multicond_learned_conditioning = without_old_scheduling
    del ui.shared.opts.use_old_scheduling
    first = folder.parent / "first-loras"
    first.mkdir()
    ui.shared.cmd_opts = Namespace(lora_dir=str(first), lora_dirs=[str(folder)])
    ui.shared.walk_files = lambda path, allowed_extensions: sorted(map(str, Path(path).rglob("*.safetensors")))


def install_reforge(monkeypatch):
    """reForge and Forge Classic keep an older back end under other names."""
    contents = {
        "ldm_patched": {},
        "ldm_patched.modules": {},
        "ldm_patched.modules.samplers": {"calc_cond_uncond_batch": calc_cond_uncond_batch},
        "ldm_patched.modules.model_patcher": {"ModelPatcher": ForgePatcher},
        "modules_forge": {},
        "modules_forge.forge_sampler": {"cond_from_a1111_to_patched_ldm_weighted": compile_weighted_conditions},
    }
    fill(monkeypatch, contents)
    monkeypatch.setattr(ForgeDenoiser, "has_null_zeros", False)


def fill(monkeypatch, contents):
    for name, values in contents.items():
        module = types.ModuleType(name)
        module.__dict__.update(values)
        put(monkeypatch, name, module)


def compile_weighted_conditions(context, composition):
    """One condition per AND part, over all images."""
    parts = list(map(list, zip(*composition, strict=True)))
    return [
        {"model_conds": {"c_crossattn": context[[row for row, _ in part]]}, "strength": part[-1][1]} for part in parts
    ]


def calc_cond_uncond_batch(model, cond, uncond, x, sigma, options):
    """Weighted means over the parts."""
    total = sum(part.get("strength", 1.0) for part in cond)
    predictions = [
        part.get("strength", 1.0) / total * model.diffusion_model(x, sigma, part["model_conds"]["c_crossattn"])
        for part in cond
    ]
    null = None if uncond is None else model.diffusion_model(x, sigma, uncond[0]["model_conds"]["c_crossattn"])
    return sum(predictions), torch.zeros_like(x) if null is None else null


class ForgePatcher:
    """A U-Net's patcher: clones share the model."""

    def __init__(self, model):
        self.model, self.before_cfg, self.after_cfg, self.preserved = model, [], [], 0

    def clone(self):
        new = ForgePatcher(self.model)
        new.before_cfg, new.after_cfg = list(self.before_cfg), list(self.after_cfg)
        return new

    def add_conditioning_modifier(self, function):
        self.before_cfg.append(function)

    def set_model_sampler_post_cfg_function(self, function):
        self.after_cfg.append(function)

    def add_extra_preserved_memory_during_sampling(self, size):
        self.preserved += size


class ForgeModel:
    def __init__(self, unet):
        self.forge_objects = Namespace(unet=ForgePatcher(Namespace(diffusion_model=unet)))


class ForgeDenoiser:
    """The step's callback, the modifiers, one prediction per kind, CFG, then the patcher's functions."""

    has_null_zeros = True  # where CFG is 1 and the null prediction is not asked for; reForge gives None

    def __init__(self, ui, p, cond, uncond, scale):
        self.ui, self.p, self.cond, self.uncond, self.scale = ui, p, cond, uncond, scale
        self.inner_model = Namespace(inner_model=p.sd_model)
        self.step, self.total_steps = 0, STEPS

    def __call__(self, x, sigma):
        self.ui.callbacks["cfg_denoiser"](Namespace(x=x, denoiser=self))
        patcher = self.inner_model.inner_model.forge_objects.unet
        composition, context = reconstruct_multicond_batch(self.cond, self.step)
        cond = compile_weighted_conditions(context, composition)
        null = compile_weighted_conditions(*reversed(reconstruct_multicond_batch(self.uncond, self.step)))
        model, scale, options = patcher.model, self.scale, {}
        for function in patcher.before_cfg:
            model, x, sigma, null, cond, scale, options, _ = function(model, x, sigma, null, cond, scale, options, 0)
        weight = sum(part["strength"] for part in cond)
        plain, empty = calc_cond_uncond_batch(model, cond, None if scale == 1 else null, x, sigma, options)
        if scale == 1 and not self.has_null_zeros:
            empty, result = None, plain
        else:
            result = empty + (plain - empty) * scale * weight
        for function in patcher.after_cfg:
            result = function({"denoised": result, "cond_denoised": plain, "uncond_denoised": empty, "cond": cond,
                               "uncond": null, "input": x, "sigma": sigma, "model": model,
                               "model_options": options})  # fmt: skip
        self.step += 1
        return result
