"""The paper's eq. 10 and 11 evaluated slowly beside tiny pipelines."""

import copy
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

# pytest imports test files by path here, so a module beside them is loaded by path too.
_spec = importlib.util.spec_from_file_location("tiny_pipelines", Path(__file__).with_name("tiny_pipelines.py"))
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

ROWLESS = ("img_ids", "txt_ids")


def row_of(value, row, rows):
    """One row of every batched tensor in a model's inputs."""
    if isinstance(value, torch.Tensor):
        return value[row : row + 1] if value.dim() and value.shape[0] == rows else value
    if isinstance(value, dict):
        return {key: entry if key in ROWLESS else row_of(entry, row, rows) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(row_of(entry, row, rows) for entry in value)
    return value


class Steps:
    """What a pipeline asks of its model in every step, and the combined prediction that it then gives the scheduler."""

    def __init__(self, pipe):
        self.pipe, self.model = pipe, tiny.denoiser_of(pipe)
        self.steps = []  # (progress, the step's model inputs, prediction)
        self.calls = []
        self.inner_rows = []  # batch rows that really pass through the model

    def __enter__(self):
        def note(_, args, kwargs):
            inputs = dict(zip(("sample", "timestep"), args, strict=False)) | kwargs
            inputs["return_dict"] = False
            self.calls.append({key: copy.copy(value) for key, value in inputs.items()})

        first_layer = next(m for m in self.model.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d)))
        self.hooks = [
            self.model.register_forward_pre_hook(note, with_kwargs=True),
            first_layer.register_forward_pre_hook(lambda _, args: self.inner_rows.append(args[0].shape[0])),
        ]
        self.scheduler_step = self.pipe.scheduler.step
        self.pipe.scheduler.step = self._step
        return self

    def _step(self, prediction, timestep, *args, **kwargs):
        schedule = self.pipe.scheduler.timesteps.tolist()
        place = getattr(self.pipe.scheduler, "step_index", None)
        if place is None:
            schedule = list(dict.fromkeys(schedule))
            place = schedule.index(float(timestep))
        self.steps.append((place / len(schedule), self.calls, prediction.clone()))
        self.calls = []
        return self.scheduler_step(prediction, timestep, *args, **kwargs)

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()
        del self.pipe.scheduler.step


@torch.no_grad()
def check_equation(steps, styles, models, embeds, cfg, rescale=0.0, cfg_end=1.0, tolerance=1e-8):
    """Every step's prediction against uncond + cfg (cond − uncond) + Σ λ_i (style_i − cond), row by row.

    Args:
        steps: A ``Steps`` that watched the run.
        styles: Each with scale, start and end.
        models: For each style a copy of the model with the LoRA merged into its weights.
        embeds: For each style its prompt's (embeds, pooled or None) with one row per image.
        cfg: guidance_scale; 1 for none.
        rescale: guidance_rescale, measured on the unshifted cond.
        cfg_end: Progress from which on cfg is 1.

    Returns:
        Number of style terms that were evaluated.
    """
    terms = 0
    for number, (progress, calls, prediction) in enumerate(steps.steps):
        images = prediction.shape[0]
        for image in range(images) if images < 3 else [number % images]:  # of many images one in each step, in turn
            inputs, negative = _image_inputs(calls, image, prediction.shape[0], cfg)
            cond = steps.model(**inputs)[0]
            null = cond if negative is None else steps.model(**negative)[0]
            noise = null + cfg * (cond - null) if progress < cfg_end else cond
            for style, model, (text, pooled) in zip(styles, models, embeds, strict=True):
                if style.scale and style.start <= progress < style.end:
                    styled = _with_prompt(
                        inputs, text[image : image + 1], None if pooled is None else pooled[image : image + 1]
                    )
                    noise = noise + style.scale * (model(**styled)[0] - cond)
                    terms += 1
            if rescale and progress < cfg_end:
                axes = list(range(1, noise.dim()))
                matched = noise * cond.std(dim=axes, keepdim=True) / noise.std(dim=axes, keepdim=True)
                noise = rescale * matched + (1 - rescale) * noise
            torch.testing.assert_close(prediction[image : image + 1], noise, rtol=0, atol=tolerance)
    return terms


def _image_inputs(calls, image, images, cfg):
    """Model inputs of one image for the prompt and, with CFG, for the negative prompt."""
    rows = calls[0].get("sample", calls[0].get("hidden_states")).shape[0]
    if cfg <= 1:
        return row_of(calls[0], image, rows), None
    if rows == images:  # two calls: the prompt's, then the negative prompt's
        return row_of(calls[0], image, rows), row_of(calls[1], image, rows)
    return row_of(calls[0], images + image, rows), row_of(calls[0], image, rows)


def _with_prompt(inputs, text, pooled):
    styled = {**inputs, "encoder_hidden_states": text}
    if "pooled_projections" in inputs:
        styled["pooled_projections"] = pooled
    if "text_embeds" in (inputs.get("added_cond_kwargs") or {}):
        styled["added_cond_kwargs"] = {**inputs["added_cond_kwargs"], "text_embeds": pooled}
    return styled


def encode(pipe, prompt, images=1):
    """(embeds, pooled or None) of prompts, by the pipeline's own encoder, ``images`` rows for each prompt."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    kind = type(pipe).__name__
    with torch.no_grad():
        if "Flux" in kind:
            return type(pipe).encode_prompt(pipe, prompts, num_images_per_prompt=images)[:2]
        if "StableDiffusion3" in kind:
            embeds, _, pooled, _ = type(pipe).encode_prompt(
                pipe, prompts, None, None, num_images_per_prompt=images, do_classifier_free_guidance=False
            )
            return embeds, pooled
        result = type(pipe).encode_prompt(
            pipe, prompts, device="cpu", num_images_per_prompt=images, do_classifier_free_guidance=False
        )
        return (result[0], result[2]) if "XL" in kind else (result[0], None)


@pytest.fixture
def tools():
    """The builders of tiny_pipelines.py and the reference of this file, for the tests."""
    return SimpleNamespace(
        make_sd=tiny.make_sd, make_sdxl=tiny.make_sdxl, make_sd3=tiny.make_sd3, make_flux=tiny.make_flux,
        make_embedded=tiny.make_embedded,
        make_controlnet=tiny.make_controlnet, make_network=tiny.make_network, merged_copy=tiny.merged_copy,
        denoiser_of=tiny.denoiser_of, Steps=Steps, check_equation=check_equation, encode=encode, ready=tiny.ready,
    )  # fmt: skip


@pytest.fixture
def sd():
    return tiny.make_sd()
