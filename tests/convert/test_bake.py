"""Baked guidance: exact where guidance and a plain LoRA are the same thing, and never worse than rescaling."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from convert.formats.layers import by_module
from convert.formats.read import read_adapter
from convert.verbs import distill
from convert.verbs.distill import Attached, Setting


@pytest.fixture
def scene(unet, perturb, tmp_path):
    """A tiny pipeline (random text embeddings by prompt, DDIM) with a LoRA attached to its U-Net."""
    from diffusers import DDIMScheduler

    from pair_network import create_network

    network = perturb(create_network(1.0, 4, 4.0, None, None, unet, targets="attention+conv"), scale=0.3)
    network.save_weights(str(tmp_path / "lora.safetensors"), None, {"modelspec.trigger_phrase": "in ink style"})
    branch = by_module(read_adapter(tmp_path / "lora.safetensors").style, "lora")

    def encode(prompt, *_):
        return (torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(len(prompt))),)

    pipeline = SimpleNamespace(unet=unet, scheduler=DDIMScheduler(clip_sample=False), encode_prompt=encode)
    return pipeline, Attached(unet, branch), branch, network


def test_attached_layers_are_the_merged_model(scene, run_unet):
    pipeline, lora, _, network = scene
    with lora.at(0.7), torch.no_grad():
        hooked = run_unet(pipeline.unet)
    with lora.at(0.0), torch.no_grad():
        network.set_multiplier(0.7)
        network.merge_to(None, pipeline.unet)
        assert torch.allclose(run_unet(pipeline.unet), hooked, atol=1e-5)


def test_without_cfg_the_best_strength_is_lambda_and_exact(scene):
    """CFG 1, λ 1, no pause: ε̂ = c₀ + (s − c₀) = s is the plain LoRA itself."""
    pipeline, lora, _, _ = scene
    setting = Setting(1.0, 1.0, 4, 0.0)
    states, finals = distill.guided_states(pipeline, lora, [("a", "a in ink")], [0], setting)
    with lora.at(1.0):
        assert distill.relative_error(pipeline.unet, states, 1.0) < 1e-8
        assert torch.allclose(distill.sample_plain(pipeline, lora, "a in ink", 0, setting), finals[0], atol=1e-4)
    strength, error = distill.best_strength(lora, pipeline.unet, states, setting)
    assert strength == pytest.approx(1.0, abs=0.05) and error < 0.01
    with lora.at(0.0):
        assert distill.relative_error(pipeline.unet, states, 1.0) > 0.1


def test_the_pause_at_the_start_is_plain_cfg(scene):
    pipeline, lora, _, _ = scene
    states, _ = distill.guided_states(pipeline, lora, [("a", "a in ink")], [0], Setting(3.0, 2.0, 4, 0.5))
    changed = [not torch.equal(state.wanted, state.unstyled) for state in states]
    assert changed == [False, False, True, True]


def test_the_teachers_cfg_ends(scene):
    """CFG in two steps of four: from there on the teacher is cond + λ (style − cond), the same at any CFG scale."""
    pipeline, lora, _, _ = scene
    ended = [
        distill.guided_states(pipeline, lora, [("a", "a in ink")], [0], Setting(2.0, cfg, 4, 0.0, 0.0))[0]
        for cfg in (1.0, 5.0)
    ]
    assert all(torch.allclose(a.wanted, b.wanted, atol=1e-5) for a, b in zip(*ended, strict=True))
    half, full = (
        distill.guided_states(pipeline, lora, [("a", "a in ink")], [0], Setting(2.0, 5.0, 4, 0.0, end))[0]
        for end in (0.5, 1.0)
    )
    same = [torch.equal(a.wanted, b.wanted) for a, b in zip(half, full, strict=True)]
    assert same == [True, True, False, False]
    assert torch.equal(half[2].unstyled, full[2].unstyled), "doing nothing is the UI's own CFG"


def test_fitting_the_ups_beats_rescaling_and_is_what_is_written(scene):
    pipeline, lora, branch, _ = scene
    setting = Setting(3.0, 2.0, 4, 0.0)
    states, _ = distill.guided_states(pipeline, lora, [("a", "a in ink")], [0, 1], setting)
    strength, rescaled = distill.best_strength(lora, pipeline.unet, states, setting)
    with torch.no_grad():
        for up in lora.ups:
            up.mul_(strength)
    distill.fit_ups(lora, pipeline.unet, states, setting, steps=40, rate=3e-3)
    assert distill.relative_error(pipeline.unet, states, 2.0) < 0.9 * rescaled
    written = lora.layers(branch, 1.0)
    number = 3
    assert torch.equal(written[lora.keys[number]].up.load(), lora.ups[number].detach())
    assert written[lora.keys[number]].scale == 1.0


def test_without_a_model_nothing_is_baked(lora, run, helpers, tmp_path):
    """A mere rescaling is measurably worse than the LoRA as it is; the verb that rescales is named, and does it."""
    source, target = lora("sd1", keys=["lora_unet_mid_block_attentions_0_proj_in"]), tmp_path / "baked.safetensors"
    status, _, errors = run("bake", source, "-o", target, "--lambda", 3, "--cfg", 4)
    assert status == 1 and "a1111 --strength 0.75" in errors and not target.exists()
    assert run("a1111", source, "-o", target, "--strength", 0.75, "--no-card")[0] == 0
    wanted, found = helpers.deltas(load_file(source)), helpers.deltas(load_file(target))
    assert all(torch.allclose(found[key], 0.75 * wanted[key]) for key in wanted)
    assert "--cfg must be above 0" in run("bake", source, "--cfg", 0)[2]
    assert "--cfg-end 2.0: a share" in run("bake", source, "--cfg-end", 2)[2]
    assert "no diffusers folder" in run("bake", source, "--model", tmp_path, "--prompts", "a", "b")[2]
