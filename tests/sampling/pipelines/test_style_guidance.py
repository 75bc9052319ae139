"""Style guidance in StableDiffusionPipeline against the paper's eq. 10 written out, and what it leaves behind."""

import copy
import subprocess
import sys

import pytest
import torch

from pair_network.errors import PairError
from pair_network.sampling.pipelines import Style, style_guidance


def latents(rows, seed=0, channels=4):
    return torch.randn(rows, channels, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(pipe, prompt, rows=1, **settings):
    settings = {"num_inference_steps": 5, "guidance_scale": 4.0, "height": 16, "width": 16, **settings}
    return pipe(prompt, latents=latents(rows), output_type="latent", **settings).images


def encode(pipe, prompt):
    tokens = pipe.tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    return pipe.text_encoder(tokens.input_ids)[0]


@torch.no_grad()
def reference(pipe, prompt, styles, models, x, steps=5, cfg=4.0, negative=""):
    """Eq. 10 and 11, one image and one prediction at a time, the LoRA merged into a copy of the model.

    ``styles``: (words, λ, start, end) for each of ``models``.
    """
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps)
    null, cond = encode(pipe, negative), encode(pipe, prompt)
    for i, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(x, t)
        base = pipe.unet(seen, t, cond).sample
        noise = base
        if cfg > 1:
            empty = pipe.unet(seen, t, null).sample
            noise = empty + cfg * (base - empty)
        for (words, scale, start, end), model in zip(styles, models, strict=True):
            if start <= i / steps < end:
                noise = noise + scale * (model(seen, t, encode(pipe, f"{prompt} {words}")).sample - base)
        x = scheduler.step(noise, t, x).prev_sample
    return x


def test_one_style_is_equation_10(sd, tools):
    network = tools.make_network(sd.unet, seed=1)
    with style_guidance(sd, [Style(network, "in ink style", scale=3.0, start=0.2)]):
        image = run(sd, "a dog")
    merged = tools.merged_copy(sd.unet, network)
    expected = reference(sd, "a dog", [("in ink style", 3.0, 0.2, 1.0)], [merged], latents(1))
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-8)
    assert (image - run(sd, "a dog")).abs().max() > 1e-2, "the style must change the image, or the test proves nothing"


def test_zero_scale_is_the_base_bit_for_bit(sd, tools):
    network = tools.make_network(sd.unet, seed=1)
    base = run(sd, "a dog")
    with style_guidance(sd, [Style(network, "in ink style", scale=0.0)]):
        assert torch.equal(run(sd, "a dog"), base)
    with style_guidance(sd, [Style(network, "in ink style", scale=1e-6)]):
        assert not torch.equal(run(sd, "a dog"), base)


def test_without_a_style_plain_cfg_ends(sd):
    """λ = 0 and no style at all are the base picture with CFG in an interval."""
    with style_guidance(sd, [], cfg_end=1.0):
        assert torch.equal(run(sd, "a dog"), run(sd, "a dog"))
    with style_guidance(sd, [], cfg_end=0.0):
        none = run(sd, "a dog")
    torch.testing.assert_close(none, run(sd, "a dog", guidance_scale=1.0), rtol=0, atol=1e-8)
    with style_guidance(sd, [], cfg_end=0.4):
        some = run(sd, "a dog")
    assert (some - none).abs().max() > 1e-3 and (some - run(sd, "a dog")).abs().max() > 1e-3


@pytest.mark.parametrize("cfg_end", [-0.1, 1.5, float("nan")])
def test_an_end_outside_the_schedule_is_refused(sd, cfg_end):
    with pytest.raises(PairError, match=f"cfg_end={cfg_end}: a part"), style_guidance(sd, [], cfg_end=cfg_end):
        pass


def test_nothing_is_left_behind_after_an_exception(sd, tools):
    network = tools.make_network(sd.unet, seed=1)
    network.train()
    before = (dict(sd.__dict__), dict(sd.unet.__dict__))
    base = run(sd, "a dog")

    def fail(*_):
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"), style_guidance(sd, [Style(network, "in ink style")]):
        run(sd, "a dog", callback_on_step_end=fail)
    assert network.training
    assert network.routing.rows is None
    assert all(not module._forward_hooks for module in sd.unet.modules())
    assert set(sd.unet.__dict__) == set(before[1])
    assert "encode_prompt" not in sd.__dict__
    assert "check_inputs" not in sd.__dict__
    assert torch.equal(run(sd, "a dog"), base)


def test_network_that_is_attached_stays_attached(sd, tools):
    network = tools.make_network(sd.unet, seed=1)
    network.apply_to(None, sd.unet)
    lora = run(sd, "a dog")
    with style_guidance(sd, [Style(network, "in ink style")]):
        guided = run(sd, "a dog")
    assert torch.equal(run(sd, "a dog"), lora)
    network.restore()
    with style_guidance(sd, [Style(network, "in ink style")]):
        assert torch.equal(run(sd, "a dog"), guided)


def test_style_without_words_is_refused(sd, tools):
    with pytest.raises(PairError, match="prompt_words"):
        Style(tools.make_network(sd.unet, seed=1))


def test_no_import_of_diffusers():
    """The training previews and the UIs import this package where diffusers may be missing."""
    code = (
        "import sys, pair_network.pipelines, pair_network.__main__; print([m for m in sys.modules if 'diffusers' in m])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
