"""What style guidance must survive: schedulers, callbacks, embeddings, offloading, precision, compilation, memory."""

import accelerate
import diffusers
import pytest
import torch

from pair_network.errors import PairError
from pair_network.sampling.pipelines import Style, style_guidance

SETTINGS = {"height": 16, "width": 16, "output_type": "latent", "guidance_scale": 4.0}


def run(pipe, prompt="a dog", steps=4, seed=0, **settings):
    settings = {"num_inference_steps": steps, "generator": torch.Generator().manual_seed(seed), **SETTINGS, **settings}
    if prompt is not None:
        settings["prompt"] = prompt
    return pipe(**settings).images


def style_on(tools, pipe, seed=1, words="in ink style", **numbers):
    return Style(tools.make_network(tools.denoiser_of(pipe), seed), words, **numbers)


def guided(pipe, style, **settings):
    with style_guidance(pipe, style):
        return run(pipe, **settings)


SCHEDULERS = {
    "DDIM": {"clip_sample": False}, "DDPM": {"clip_sample": False}, "PNDM": {"skip_prk_steps": True},
    "EulerDiscrete": {}, "EulerAncestralDiscrete": {}, "HeunDiscrete": {}, "KDPM2Discrete": {},
    "KDPM2AncestralDiscrete": {}, "DPMSolverMultistep": {}, "DPMSolverSinglestep": {}, "UniPCMultistep": {},
    "DEISMultistep": {}, "LCM": {},
}  # fmt: skip
CALLS_PER_STEP = {"HeunDiscrete": 2, "KDPM2Discrete": 2, "KDPM2AncestralDiscrete": 2}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler(tools, sd, name):
    """The first of five steps is plain, also where a step calls the model twice; the others follow eq. 10."""
    sd.scheduler = getattr(diffusers, f"{name}Scheduler")(**SCHEDULERS[name])
    style = style_on(tools, sd, scale=2.0, start=0.2)
    with tools.Steps(sd) as steps, style_guidance(sd, style):
        run(sd, steps=5)
    plain, per_step = [rows == 2 for rows in steps.inner_rows], CALLS_PER_STEP.get(name, 1)
    assert plain[:per_step] == [True] * per_step
    assert not any(plain[per_step:])
    steps.steps = steps.steps[:3]
    embeds = [tools.encode(sd, "a dog in ink style")]
    assert (
        tools.check_equation(steps, [style], [tools.merged_copy(sd.unet, style.file_or_network)], embeds, cfg=4.0) > 0
    )


def test_flow_matching_heun(tools):
    pipe = tools.make_sd3(diffusers.FlowMatchHeunDiscreteScheduler())
    with tools.Steps(pipe) as steps:
        guided(pipe, style_on(tools, pipe, start=0.25, end=0.75))
    assert steps.inner_rows == [2, 2, 3, 3, 3, 3, 2]


def test_interval_means_the_same_noise_in_image_to_image(tools, sd):
    """Strength 0.5 enters the schedule at its middle: a style from 0.75 on skips one step of these two."""
    pipe = tools.ready(diffusers.StableDiffusionImg2ImgPipeline(**sd.components))
    settings = {"image": torch.zeros(1, 3, 16, 16), "strength": 0.5, "num_inference_steps": 4, "output_type": "latent"}
    for start, rows in ((0.2, [3, 3]), (0.5, [3, 3]), (0.75, [2, 3])):
        with tools.Steps(pipe) as steps, style_guidance(pipe, style_on(tools, pipe, start=start)):
            pipe("a dog", **settings)
        assert steps.inner_rows == rows


def test_callback_that_turns_cfg_off(tools, sd):
    """diffusers' documented way: the callback halves the embeddings, and from then on there are no null rows."""

    def stop_cfg(pipe, step, timestep, tensors):
        if step == 1:
            pipe._guidance_scale = 0.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
        return tensors

    style = style_on(tools, sd, start=0.0)
    with tools.Steps(sd) as steps, style_guidance(sd, style):
        run(sd, callback_on_step_end=stop_cfg, callback_on_step_end_tensor_inputs=["prompt_embeds", "latents"])
    assert steps.inner_rows == [3, 3, 2, 2]
    steps.steps = steps.steps[2:]
    embeds = [tools.encode(sd, "a dog in ink style")]
    assert (
        tools.check_equation(steps, [style], [tools.merged_copy(sd.unet, style.file_or_network)], embeds, cfg=1.0) == 2
    )


def test_interrupted_run_is_followed_by_a_good_one(tools):
    """FLUX encodes the negative prompt in a second call; a run that ends between the two must not confuse the next."""
    pipe = tools.make_flux()
    style = style_on(tools, pipe)
    settings = {"true_cfg_scale": 2.0, "negative_prompt": "blurry"}
    expected = guided(pipe, style, **settings)
    with style_guidance(pipe, style):
        with pytest.raises(TypeError):
            run(pipe, negative_prompt=3, true_cfg_scale=2.0)
        assert torch.equal(run(pipe, **settings), expected)


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
def test_prompt_embeddings_instead_of_prompts(tools, family):
    pipe = getattr(tools, f"make_{family}")()
    network = tools.make_network(tools.denoiser_of(pipe), 1)
    images = 1 if family == "flux" else 2  # FluxPipeline does not repeat embeddings that it is given
    expected = guided(pipe, Style(network, "in ink style"), prompt=["a dog", "a cat"], num_images_per_prompt=images)
    given = dict(zip(("prompt_embeds", "pooled_prompt_embeds"), tools.encode(pipe, ["a dog", "a cat"]), strict=True))
    own = dict(zip(given, tools.encode(pipe, ["a dog in ink style", "a cat in ink style"]), strict=True))
    if family == "sd":
        del given["pooled_prompt_embeds"]
    settings = {"prompt": None, "num_images_per_prompt": images, **given}
    if family != "flux":
        nothing = dict(zip(given, tools.encode(pipe, ["", ""]), strict=False))
        if family == "sdxl":  # SDXL's empty negative prompt is zeros
            nothing = {key: torch.zeros_like(value) for key, value in nothing.items()}
        settings |= {f"negative_{key}": value for key, value in nothing.items()}
    image = guided(pipe, Style(network, scale=3.0, **own), **settings)
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-9)
    with pytest.raises(PairError, match="prompt_embeds"):
        guided(pipe, Style(network, "in ink style"), **settings)


def test_style_prompt_of_another_length_gets_a_call_of_its_own(tools, sd):
    network = tools.make_network(sd.unet, 1)
    text, _ = tools.encode(sd, "a dog in ink style")
    expected = guided(sd, Style(network, prompt_embeds=text[:, :50]))
    with tools.Steps(sd) as steps:
        image = guided(sd, Style(network, prompt_embeds=text[:, :50]))
    assert steps.inner_rows == [2, 2, 1, 2, 1, 2, 1]
    assert torch.equal(image, expected)
    assert not torch.equal(image, guided(sd, Style(network, prompt_embeds=text)))


def test_batch_is_split_when_memory_runs_out(tools, sd, caplog):
    network = tools.make_network(sd.unet, 1)
    expected = guided(sd, Style(network, "in ink style"))

    def small_memory(_, args):
        if args[0].shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")

    with tools.Steps(sd) as steps:
        handle = sd.unet.conv_in.register_forward_pre_hook(small_memory)
        image = guided(sd, Style(network, "in ink style"))
        handle.remove()
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-10)
    assert steps.inner_rows.count(3) == 1, "the joined batch is tried once, not at every step"
    assert "a call of its own" in caplog.text


@pytest.mark.parametrize("text", ["MPS backend out of memory (MPS allocated: 9 GB)", "can't allocate memory: 9 bytes"])
def test_batch_is_split_where_memory_has_no_exception_of_its_own(tools, sd, text):
    style = style_on(tools, sd)
    expected = guided(sd, style)

    def small_memory(_, args):
        if args[0].shape[0] > 2:
            raise RuntimeError(text)

    handle = sd.unet.conv_in.register_forward_pre_hook(small_memory)
    torch.testing.assert_close(guided(sd, style), expected, rtol=0, atol=1e-10)
    handle.remove()

    def other_failure(_, args):
        raise RuntimeError("shapes differ")

    handle = sd.unet.conv_in.register_forward_pre_hook(other_failure)
    with pytest.raises(RuntimeError, match="shapes differ"):
        guided(sd, style)
    handle.remove()


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_fused_attention_is_refused_because_the_style_would_be_lost(tools, family):
    pipe = getattr(tools, f"make_{family}")()
    style = style_on(tools, pipe)
    expected, model = guided(pipe, style), tools.denoiser_of(pipe)
    model.fuse_qkv_projections()
    with pytest.raises(PairError, match="unfuse_qkv_projections"):
        guided(pipe, style)
    model.unfuse_qkv_projections()
    torch.testing.assert_close(guided(pipe, style), expected, rtol=0, atol=1e-10)


def test_block_inside_a_block_is_refused(tools, sd):
    first, second = style_on(tools, sd, seed=1), style_on(tools, sd, seed=2, words="in chalk")
    repaint = diffusers.StableDiffusionImg2ImgPipeline(**sd.components, requires_safety_checker=False)
    base, expected = run(sd), guided(sd, first)
    with style_guidance(sd, first):
        for pipe in (sd, repaint):
            with pytest.raises(PairError, match="as a list"), style_guidance(pipe, second):
                pass
        assert torch.equal(run(sd), expected)
    assert torch.equal(run(sd), base)


def test_offloading_hooks_that_are_renewed_after_each_run(tools, sd):
    """enable_model_cpu_offload takes accelerate's hook off the U-Net after each run and puts a new one on."""
    style = style_on(tools, sd)
    base, expected = run(sd), guided(sd, style)

    def offload():
        accelerate.hooks.remove_hook_from_module(sd.unet, recurse=True)
        accelerate.cpu_offload_with_hook(sd.unet, "cpu")

    offload()
    with style_guidance(sd, style):
        for _ in range(2):
            assert torch.equal(run(sd), expected)
            offload()
    assert torch.equal(run(sd), base)
    accelerate.hooks.remove_hook_from_module(sd.unet, recurse=True)
    with style_guidance(sd, style):
        offload()
        assert torch.equal(run(sd), expected)
        offload()
    assert torch.equal(run(sd), base)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(tools, sd, dtype):
    style = style_on(tools, sd, scale=30.0)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = guided(sd, style, latents=noise.double())
    sd.to(dtype)
    style.file_or_network.to(dtype)
    base = run(sd, latents=noise.to(dtype))
    assert base.dtype == dtype

    def error(image):
        return (image.double() - expected).norm() / expected.norm()

    assert error(guided(sd, style, latents=noise.to(dtype))) < error(base) / 4, (
        "the style must matter more than rounding"
    )
    zero = Style(style.file_or_network, "in ink style", scale=0)
    assert torch.equal(guided(sd, zero, latents=noise.to(dtype)), base)


@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_model(tools, in_place):
    """Compiled code does not notice hooks that come and go: two rows plain, with a style, and plain again."""
    pipe = tools.make_flux()
    network = tools.make_network(pipe.transformer, 1, part="single_transformer_blocks.0.attn.to_q")
    style, two = Style(network, "in ink style", start=0.0), {"num_images_per_prompt": 2, "steps": 1}
    base, expected = run(pipe, **two), guided(pipe, style, steps=1)
    torch.compiler.reset()
    if in_place:
        pipe.transformer.compile(backend="eager")
    else:
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    torch.testing.assert_close(run(pipe, **two), base, rtol=0, atol=1e-10)
    torch.testing.assert_close(guided(pipe, style, steps=1), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(run(pipe, **two), base, rtol=0, atol=1e-10)
    torch.compiler.reset()


def test_batch_layouts_that_are_not_known_are_refused(tools, sd):
    pag = tools.ready(diffusers.StableDiffusionPAGPipeline(**sd.components, pag_applied_layers=["mid"]))
    with pytest.raises(PairError, match="3 rows for 1 images"):
        guided(pag, style_on(tools, pag), pag_scale=1.0)


def test_pipelines_that_are_not_known_are_refused(tools, sd):
    class Pipeline:
        unet, scheduler, _execution_device = sd.unet, sd.scheduler, torch.device("cpu")

        def encode_prompt(self, prompt, prompt_embeds=None, prompt_attention_mask=None):
            raise AssertionError

    with pytest.raises(PairError, match="Stable Diffusion 1, 2, XL, 3 and FLUX"), style_guidance(Pipeline(), []):
        pass
    with pytest.raises(PairError, match="encode_prompt"), style_guidance(object(), []):
        pass


def test_network_of_another_model_is_refused(tools, sd):
    other = tools.make_network(tools.make_sd().unet, 1)
    with pytest.raises(PairError, match="another model"), style_guidance(sd, Style(other, "in ink style")):
        pass


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"start": 0.5, "end": 0.4}, "start=0.5"), ({"end": 1.5}, "end=1.5"), ({"scale": float("nan")}, "scale is nan")],
)
def test_numbers_out_of_range(tools, sd, numbers, message):
    with pytest.raises(PairError, match=message):
        style_on(tools, sd, **numbers)
