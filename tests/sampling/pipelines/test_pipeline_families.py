"""Every diffusers pipeline under style guidance, step by step, against eq. 10 and 11 written from the paper."""

import inspect

import numpy as np
import pytest
import torch
from PIL import Image

from pair_network.sampling.pipelines import Style, style_guidance

WORDS = ["in ink style", "as oil painting", "in chalk"]


def picture(seed=0, size=16):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def mask(size=16):
    array = np.zeros((size, size), dtype=np.uint8)
    array[:, size // 2 :] = 255
    return Image.fromarray(array)


def three_styles(networks):
    """Different scales, one of them negative, and intervals that start, end and overlap."""
    numbers = [(3.0, 0.2, 1.0), (1.5, 0.0, 0.5), (-2.0, 0.5, 0.75)]
    return [Style(n, w, scale=s, start=a, end=b) for n, w, (s, a, b) in zip(networks, WORDS, numbers, strict=False)]


def check(tools, pipe, prompt, styles, cfg=4.0, rescale=0.0, images=1, joined=True, cfg_end=1.0, **settings):
    """Runs the pipeline with style guidance and compares every step; returns the Steps."""
    model = tools.denoiser_of(pipe)
    settings = {"num_inference_steps": 4, "output_type": "latent", "guidance_scale": cfg, **settings}
    if "prompt_embeds" not in settings:
        settings["prompt"] = prompt
    with tools.Steps(pipe) as steps, style_guidance(pipe, styles, joined=joined, cfg_end=cfg_end):
        pipe(num_images_per_prompt=images, generator=torch.Generator().manual_seed(0), **settings)
    prompts = [prompt] if isinstance(prompt, str) else prompt
    embeds = [tools.encode(pipe, [f"{one} {style.prompt_words}" for one in prompts], images) for style in styles]
    models = [tools.merged_copy(model, style.file_or_network, style.multiplier) for style in styles]
    true_cfg = settings.get("true_cfg_scale", 1.0) if "Flux" in type(pipe).__name__ else cfg
    assert len(steps.steps) == len(pipe.scheduler.timesteps) or "strength" in settings
    assert tools.check_equation(steps, styles, models, embeds, true_cfg, rescale, cfg_end) > 0
    return steps


def one_style(tools, pipe, **numbers):
    return [Style(tools.make_network(tools.denoiser_of(pipe), seed=1), WORDS[0], **numbers)]


def sizes(pipe):
    return {} if "Img2Img" in type(pipe).__name__ else {"height": 16, "width": 16}


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_text_to_image(tools, family, cfg):
    pipe = getattr(tools, f"make_{family}")()
    extra = {"true_cfg_scale": cfg, "negative_prompt": "blurry"} if family == "flux" else {}
    steps = check(tools, pipe, "a dog", one_style(tools, pipe), cfg=cfg, height=16, width=16, **extra)
    base = 1 if cfg == 1 or family == "flux" else 2
    calls = [base + 1, 1] if cfg > 1 and family == "flux" else [base + 1]
    assert steps.inner_rows == [base] * len(calls) + calls * 3, (
        "the style rows join the prompt's call, after the first step"
    )


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_three_styles_on_a_batch(tools, family):
    pipe = getattr(tools, f"make_{family}")()
    networks = [tools.make_network(tools.denoiser_of(pipe), seed) for seed in (1, 2, 3)]
    extra = {"true_cfg_scale": 3.0} if family == "flux" else {}
    check(
        tools, pipe, ["a dog", "a cat"], three_styles(networks), images=2, negative_prompt=["blurry", "bad, red"],
        height=16, width=16, **extra,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize("joined", [True, False])
def test_the_contents_cfg_ends(tools, family, joined):
    """Style from the second step on, CFG in the first two of four: null rows are computed there alone."""
    pipe = getattr(tools, f"make_{family}")()
    extra = {"true_cfg_scale": 3.0} if family == "flux" else {}
    steps = check(
        tools, pipe, ["a dog", "a cat"], one_style(tools, pipe), joined=joined, cfg_end=0.5,
        negative_prompt=["blurry", "bad, red"], height=16, width=16, **extra,
    )  # fmt: skip
    if family == "flux":  # the prompt's call and the negative prompt's
        expected = [2, 2, 4, 2, 4, 4] if joined else [2, 2, 2, 2, 2, 2, 2, 2, 2]
    else:
        expected = [4, 6, 4, 4] if joined else [4, 4, 2, 2, 2, 2, 2]
    assert steps.inner_rows == expected


@pytest.mark.parametrize("cfg_end", [0.0, 0.25, 0.75])
def test_any_end_of_the_contents_cfg_with_several_styles(tools, cfg_end):
    pipe = tools.make_sd()
    networks = [tools.make_network(pipe.unet, seed) for seed in (1, 2, 3)]
    check(tools, pipe, ["a dog", "a cat"], three_styles(networks), images=2, cfg_end=cfg_end, height=16, width=16)


def test_calls_of_their_own_equal_the_joined_batch(tools):
    pipe = tools.make_sdxl()
    networks = [tools.make_network(pipe.unet, seed) for seed in (1, 2, 3)]
    steps = check(tools, pipe, ["a dog", "a cat"], three_styles(networks), joined=False, height=16, width=16)
    assert steps.inner_rows == [4, 2, 4, 2, 2, 4, 2, 2, 4, 2]


def test_velocity_prediction(tools):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing="trailing",
        steps_offset=1,
    )  # fmt: skip
    pipe = tools.make_sd(scheduler)
    check(tools, pipe, "a dog", one_style(tools, pipe), height=16, width=16)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_guidance_rescale_measures_the_unshifted_prompt(tools, family):
    pipe = getattr(tools, f"make_{family}")()
    check(
        tools, pipe, ["a dog", "a cat"], one_style(tools, pipe), rescale=0.7, guidance_rescale=0.7, height=16, width=16
    )
    with pytest.raises(AssertionError):
        check(tools, pipe, "a dog", one_style(tools, pipe), rescale=0.6, guidance_rescale=0.7, height=16, width=16)
    check(
        tools, pipe, "a dog", one_style(tools, pipe), rescale=0.7, guidance_rescale=0.7, cfg_end=0.5,
        height=16, width=16,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["StableDiffusion", "StableDiffusionXL", "StableDiffusion3", "Flux"])
def test_image_to_image(tools, family):
    import diffusers

    short = {"StableDiffusion": "sd", "StableDiffusionXL": "sdxl", "StableDiffusion3": "sd3", "Flux": "flux"}[family]
    base = getattr(tools, f"make_{short}")()
    pipe = tools.ready(getattr(diffusers, f"{family}Img2ImgPipeline")(**base.components))
    extra = {"height": 16, "width": 16} if short in ("sd3", "flux") else {}
    check(tools, pipe, "a dog", one_style(tools, pipe), image=picture(), strength=0.75, images=2, **extra)
    check(tools, pipe, "a dog", one_style(tools, pipe), image=picture(), strength=0.75, cfg_end=0.5, **extra)


@pytest.mark.parametrize("family", ["StableDiffusion", "StableDiffusionXL", "StableDiffusion3", "Flux"])
def test_inpainting(tools, family):
    import diffusers

    short = {"StableDiffusion": "sd", "StableDiffusionXL": "sdxl", "StableDiffusion3": "sd3", "Flux": "flux"}[family]
    base = getattr(tools, f"make_{short}")()
    pipe = tools.ready(getattr(diffusers, f"{family}InpaintPipeline")(**base.components))
    check(
        tools,
        pipe,
        "a dog",
        one_style(tools, pipe),
        image=picture(),
        mask_image=mask(),
        strength=1.0,
        height=16,
        width=16,
    )


def test_inpainting_model_with_nine_channels(tools):
    from diffusers import StableDiffusionInpaintPipeline

    pipe = tools.ready(StableDiffusionInpaintPipeline(**tools.make_sd(in_channels=9).components))
    steps = check(tools, pipe, "a dog", one_style(tools, pipe), image=picture(), mask_image=mask(), height=16, width=16)
    assert steps.steps[0][1][0]["sample"].shape[1] == 9


@pytest.mark.parametrize("family", ["StableDiffusion", "StableDiffusionXL"])
@pytest.mark.parametrize("guess_mode", [False, True])
@pytest.mark.parametrize("cfg_end", [0.5, 1.0])
def test_controlnet(tools, family, guess_mode, cfg_end):
    import diffusers

    base = tools.make_sd() if family == "StableDiffusion" else tools.make_sdxl()
    pipe = tools.ready(
        getattr(diffusers, f"{family}ControlNetPipeline")(
            controlnet=tools.make_controlnet(base.unet), **base.components
        )
    )
    steps = check(
        tools, pipe, ["a dog", "a cat"], one_style(tools, pipe), image=[picture(1), picture(2)], guess_mode=guess_mode,
        controlnet_conditioning_scale=0.8, height=16, width=16, cfg_end=cfg_end,
    )  # fmt: skip
    residual = steps.steps[0][1][0]["mid_block_additional_residual"]
    assert residual.abs().max() > 0, "a ControlNet that adds nothing proves nothing"


def test_distilled_flux_adds_the_style_to_the_only_prediction(tools):
    pipe = tools.make_flux(guidance_embeds=True)
    steps = check(tools, pipe, ["a dog", "a cat"], one_style(tools, pipe), cfg=3.5, height=16, width=16)
    assert steps.inner_rows == [2, 4, 4, 4]


def test_skipped_layers_of_sd3_cancel_out_of_the_shift(tools):
    """noise += s (cond − skipped): both move by δ, so that what the style adds stays δ."""
    pipe = tools.make_sd3()
    settings = {
        "num_inference_steps": 3, "output_type": "latent", "height": 16, "width": 16, "skip_guidance_layers": [1],
        "skip_layer_guidance_start": -0.1, "skip_layer_guidance_stop": 1.0, "guidance_scale": 4.0,
    }  # fmt: skip
    style = one_style(tools, pipe, start=0.0)[0]
    with tools.Steps(pipe) as plain:
        pipe("a dog", generator=torch.Generator().manual_seed(0), **settings)
    with tools.Steps(pipe) as guided, style_guidance(pipe, style):
        pipe("a dog", generator=torch.Generator().manual_seed(0), **settings)
    both = guided.steps[0][1][0]
    null, call = ({k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in both.items()}
                  for rows in (slice(0, 1), slice(1, 2)))  # fmt: skip
    text, pooled = tools.encode(pipe, f"a dog {WORDS[0]}")
    with torch.no_grad():
        cond, cond_null = (pipe.transformer(**rows)[0] for rows in (call, null))
        model = tools.merged_copy(pipe.transformer, style.file_or_network)
        styled = model(**{**call, "encoder_hidden_states": text, "pooled_projections": pooled})[0]
    shift = guided.steps[0][2] - plain.steps[0][2]
    torch.testing.assert_close(shift, 3.0 * (styled - cond), rtol=0, atol=1e-8)
    assert len(guided.steps[0][1]) == 2, "the skipped-layers call must have been made"
    with tools.Steps(pipe) as ended, style_guidance(pipe, style, cfg_end=0.0):
        pipe("a dog", generator=torch.Generator().manual_seed(0), **settings)
    skipped = plain.steps[0][2] - 4.0 * (cond - cond_null) - cond_null  # what the skipped layers add, without CFG
    torch.testing.assert_close(ended.steps[0][2], cond + skipped + shift, rtol=0, atol=1e-8)


def transformer_controlnet(base, mask_channels=0):
    """A random ControlNet for the tiny FLUX or SD3 pipeline."""
    import diffusers

    torch.manual_seed(3)
    if "Flux" in type(base).__name__:
        shape = dict(base.transformer.config) | {"guidance_embeds": False}
        net = diffusers.FluxControlNetModel.from_config(shape)
    else:
        net = diffusers.SD3ControlNetModel.from_transformer(
            base.transformer, num_layers=1, num_extra_conditioning_channels=mask_channels,
            load_weights_from_transformer=False,
        )  # fmt: skip
    with torch.no_grad():
        for parameter in net.double().parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_controlnet_of_the_transformers(tools, family):
    import diffusers

    base = getattr(tools, f"make_{family}")()
    net = transformer_controlnet(base)
    kind = "FluxControlNetPipeline" if family == "flux" else "StableDiffusion3ControlNetPipeline"
    pipe = tools.ready(getattr(diffusers, kind)(controlnet=net, **base.components))
    extra = {"true_cfg_scale": 3.0, "negative_prompt": "blurry"} if family == "flux" else {}
    steps = check(
        tools, pipe, ["a dog", "a cat"], one_style(tools, pipe), control_image=picture(), height=16, width=16, **extra
    )
    residuals = next(value for key, value in steps.steps[0][1][0].items() if "block" in key and value is not None)
    assert residuals[0].abs().max() > 0


@pytest.mark.parametrize(
    ("prediction", "count", "images", "cfg"),
    [("epsilon", 3, 4, 4.0), ("epsilon", 1, 1, 1.0), ("v_prediction", 3, 1, 4.0), ("sample", 1, 1, 4.0)],
)
def test_embedded_model(tools, prediction, count, images, cfg):
    """The bundled model's trained weights; two steps at half its size, since float64 is slow."""
    from diffusers import DDIMScheduler

    pipe = tools.make_embedded(DDIMScheduler(prediction_type=prediction, clip_sample=False))
    networks = [tools.make_network(pipe.unet, seed) for seed in range(1, count + 1)]
    settings = {"num_inference_steps": 2, "height": 32, "width": 32}
    check(tools, pipe, "a photo of a cat", three_styles(networks), cfg=cfg, images=images, **settings)


# diffusers' plain inpainting takes U-Nets of 4 or 9 channels alone; the embedded model's has 8.
@pytest.mark.parametrize("kind", ["Img2Img", "ControlNet", "ControlNetImg2Img", "ControlNetInpaint"])
def test_embedded_model_on_pictures(tools, kind):
    import diffusers

    base = tools.make_embedded()
    parts, size = dict(base.components), 32
    settings = {"num_inference_steps": 2, **({} if kind == "Img2Img" else {"height": size, "width": size})}
    if "ControlNet" in kind:
        parts["controlnet"] = tools.make_controlnet(base.unet, widths=(8, 16, 32))
        settings["image" if kind == "ControlNet" else "control_image"] = picture(1, size)
    if kind != "ControlNet":
        settings |= {"image": picture(2, size), "strength": 1.0}
    if "Inpaint" in kind:
        settings["mask_image"] = mask(size)
    pipe = tools.ready(getattr(diffusers, f"StableDiffusion{kind}Pipeline")(**parts, requires_safety_checker=False))
    networks = [tools.make_network(pipe.unet, seed) for seed in (1, 2, 3)]
    check(tools, pipe, "a photo of a cat", three_styles(networks), **settings)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("StableDiffusionXL", "ControlNetImg2Img"),
        ("StableDiffusionXL", "ControlNetInpaint"),
        ("Flux", "ControlNetImg2Img"),
        ("Flux", "ControlNetInpaint"),
        ("StableDiffusion3", "ControlNetInpainting"),
    ],
)
def test_controlnet_on_pictures(tools, family, kind):
    import diffusers

    short = {"StableDiffusionXL": "sdxl", "StableDiffusion3": "sd3", "Flux": "flux"}[family]
    base = getattr(tools, f"make_{short}")()
    net = tools.make_controlnet(base.unet) if short == "sdxl" else transformer_controlnet(base, mask_channels=1)
    cls = getattr(diffusers, f"{family}{kind}Pipeline")
    parts = {name: part for name, part in base.components.items() if name in inspect.signature(cls).parameters}
    pipe = tools.ready(cls(controlnet=net, **parts))
    settings = {"control_image": picture(1), "height": 16, "width": 16}
    if short != "sd3":
        settings |= {"image": picture(), "strength": 0.75}
    if "Inpaint" in kind:
        settings |= {"control_mask" if short == "sd3" else "mask_image": mask()}
    check(tools, pipe, "a dog", one_style(tools, pipe), images=2, **settings)
