"""Tiny modular pipelines in float64, and eq. 10 evaluated slowly beside them."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


def _by_path(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "pipelines" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny, transformers, watching = _by_path("tiny_pipelines"), _by_path("tiny_transformers"), _by_path("watching")
BLOCKS = {
    "sdxl": "StableDiffusionXLAutoBlocks", "sd3": "StableDiffusion3AutoBlocks", "qwen_image": "QwenImageAutoBlocks",
    "z_image": "ZImageAutoBlocks", "flux2_klein": "Flux2KleinBaseAutoBlocks", "flux2": "Flux2AutoBlocks",
}  # fmt: skip


def make_modular(family):
    """The modular pipeline of a family, on the models of its classic one; it gives the state with its latents."""
    import diffusers

    classic = getattr(tiny if hasattr(tiny, f"make_{family}") else transformers, f"make_{family}")()
    pipe = getattr(diffusers, BLOCKS[family])().init_pipeline()
    pipe.update_components(**{name: part for name, part in classic.components.items() if name in pipe.component_names})
    pipe._blocks.sub_blocks.pop("decode")
    return pipe


def _to_norm(guided, cond, styled):
    """Qwen-Image's loop takes back what CFG adds to the norm; the style's part of it stays."""
    return guided * styled.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)


FINISH = {"qwen_image": _to_norm}


@torch.no_grad()
def check_equation(watched, styles, models, texts, scale, cfg_end=1.0, finish=None, atol=1e-9):
    """Every step's prediction against uncond + s (cond − uncond) + Σ λ_i (style_i − cond).

    Args:
        watched: A finished ``Watched``.
        styles: Each with scale, start and end.
        models: For each style a copy of the model with the LoRA merged into its weights.
        texts: For each style a model call of a plain run with its prompt.
        scale: guidance_scale.
        cfg_end: Progress from which on CFG is off.
        finish: What the loop makes of the guided prediction where CFG is on, from it, cond and cond + Σ λ_i (…).

    Returns:
        Number of style terms that were evaluated.
    """
    terms, model = 0, watched.model
    for number, (calls, prediction) in enumerate(watched.steps):
        progress = number / len(watched.steps)
        has_cfg = scale != 1 and progress < cfg_end
        cond = watching.predicted(model, calls[0])
        active = [i for i, style in enumerate(styles) if style.scale and style.start <= progress < style.end]
        styled = cond
        for i in active:
            styled = styled + styles[i].scale * (
                watching.predicted(models[i], watching.with_text_of(calls[0], texts[i])) - cond
            )
        expected = styled
        if has_cfg:
            uncond = watching.predicted(model, calls[1])
            expected = uncond + scale * (cond - uncond) + (styled - cond)
            expected = finish(expected, cond, styled) if finish else expected
        assert len(calls) == 1 + has_cfg + len(active)
        torch.testing.assert_close(prediction, expected.to(prediction.dtype), rtol=0, atol=atol)
        terms += len(active)
    return terms


@pytest.fixture
def tools():
    """The builders of tiny_pipelines.py and the reference of this file, for the tests."""
    return SimpleNamespace(
        make_modular=make_modular, Watched=watching.Watched, check_equation=check_equation, FINISH=FINISH,
        denoiser_of=tiny.denoiser_of, make_network=tiny.make_network, merged_copy=tiny.merged_copy,
    )  # fmt: skip
