"""A1111, Forge and its descendants, live over HTTP, with random weights: pictures against some that need no guidance.

Two identities give every check its reference. At CFG 1 and λ 1 the guided prediction is the styled one, so the picture
is that of the LoRA in the prompt with the style words. With a LoRA without effect and λ = CFG it is the plain picture
of the style prompt. Both hold for every sampler, since they hold for every prediction.
"""

import json

import numpy as np
import pytest

SAMPLERS = ["Euler", "Euler a", "DPM++ 2M", "DPM++ SDE", "Heun", "DDIM", "UniPC"]
PROMPT, STYLED = "a photo of a cat", "a photo of a cat in ink style"
LORA = "<lora:style-a:1>"
WORDS = "in ink style"
LONG = ", ".join(["blurry", "bad", "noise", "text", "watermark"] * 20)  # more than one chunk of 75 tokens
ERROR = "Style guidance error"
ROUNDING = 1  # of 255: a sum of two products against a merged weight


def styled(**changes):
    return {"lora": "style-a", "words": WORDS, "scale": 1, "start": 0, "end": 1, **changes}


ZERO = styled(lora="style-zero", scale=5)


@pytest.fixture
def same(backend):
    """Function: both pictures are the same but for rounding, and not the plain one."""

    def check(guided, wanted, plain, tolerance=ROUNDING):
        assert ERROR not in guided.infotexts[0], guided.infotexts[0]
        distance, effect = guided.distance(wanted), guided.distance(plain)
        print(f"{backend.kind}: distance {distance}, effect {effect} of 255")
        assert distance <= tolerance < effect / 4

    return check


@pytest.fixture
def settings(backend):
    """What a mode needs beside its own numbers."""
    if backend.kind in ("forge", "forge_neo"):
        return {"hr_additional_modules": ["Use same choices"], "hr_cfg": 1}
    return {"hr_cfg": 1} if backend.kind == "reforge" else {}


def merged_pair(backend, style=None, mode="txt2img", **numbers):
    """(guided, LoRA in the prompt, plain) at CFG 1."""
    prompt, rest = numbers.pop("prompt", PROMPT), numbers.pop("styled_prompt", STYLED)
    guided = backend.pictures(mode, [True, *(style or [styled()])], prompt=prompt, **numbers)
    return (
        guided,
        backend.pictures(mode, prompt=f"{rest} {LORA}", **numbers),
        backend.pictures(mode, prompt=prompt, **numbers),
    )


def zero_pair(backend, style=None, mode="txt2img", **numbers):
    """(guided with a zero LoRA and λ = CFG, plain picture of the style prompt, plain) at CFG 5."""
    prompt, rest = numbers.pop("prompt", PROMPT), numbers.pop("styled_prompt", STYLED)
    numbers.setdefault("cfg_scale", 5)
    guided = backend.pictures(mode, [True, *(style or [ZERO])], prompt=prompt, **numbers)
    return guided, backend.pictures(mode, prompt=rest, **numbers), backend.pictures(mode, prompt=prompt, **numbers)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_at_cfg_1(backend, same, sampler):
    same(*merged_pair(backend, sampler_name=sampler))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_with_cfg(backend, same, sampler):
    same(*zero_pair(backend, sampler_name=sampler))


def test_cfg_plus_plus(backend, same):
    """Its noise comes from the null prediction, which must be the unshifted one; its CFG scale is a fraction."""
    if backend.kind != "a1111":
        pytest.skip("Forge and its descendants have other CFG++ samplers, which hook in after CFG themselves")
    same(*zero_pair(backend, sampler_name="DDIM CFG++", cfg_scale=15, style=[{**ZERO, "scale": 15}]))


def test_hires_fix(backend, same, settings):
    upscaler = "None" if backend.kind == "forge_neo" else "Latent"  # Neo has no other that needs no model
    numbers = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": upscaler, "denoising_strength": 0.7, **settings}
    same(*merged_pair(backend, **numbers))
    same(*zero_pair(backend, **{**numbers, "hr_cfg": 5}))


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M"])
def test_content_cfg_ends(backend, same, sampler):
    """From the first step on, at CFG 5 and λ 1, it is the picture of CFG 1 under the style's prompt."""
    numbers = {"sampler_name": sampler, "cfg_scale": 5}
    early, plain = {"cfg_end": 0}, backend.pictures(prompt=PROMPT, **numbers)
    for style, prompt in ((styled(), f"{STYLED} {LORA}"), (styled(lora="style-zero"), STYLED)):
        guided = backend.pictures(style=[True, style, early], prompt=PROMPT, **numbers)
        same(guided, backend.pictures(prompt=prompt, **{**numbers, "cfg_scale": 1}), plain)
        assert "Style guidance content CFG until: 0" in guided.infotexts[0]
    half = backend.pictures(style=[True, ZERO, {"cfg_end": 0.5}], prompt=PROMPT, **numbers)
    whole = backend.pictures(style=[True, ZERO], prompt=PROMPT, **numbers)
    assert half.distance(whole) > 0
    never = backend.pictures(style=[True, ZERO, {"cfg_end": 1}], prompt=PROMPT, **numbers)
    assert never.distance(whole) == 0 and "content CFG" not in never.infotexts[0]


def picture():
    return (np.indices((64, 64)).sum(0)[..., None] * np.array([2, 1, 1.5])) % 256


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_image_to_image(backend, same, sampler):
    numbers = {
        "init_images": [backend.as_png(picture())],
        "denoising_strength": 0.6,
        "steps": 6,
        "sampler_name": sampler,
    }
    same(*merged_pair(backend, mode="img2img", **numbers))


def test_inpaint(backend, same):
    mask = np.zeros((64, 64, 3))
    mask[16:48, 16:48] = 255
    numbers = {"init_images": [backend.as_png(picture())], "mask": backend.as_png(mask), "denoising_strength": 0.9}
    numbers |= {"steps": 6, "inpainting_fill": 1, "mask_blur": 0}
    # Forge draws the masked noise from the unseeded global generator: its plain picture differs from itself.
    once, again = (backend.pictures("img2img", prompt=f"{STYLED} {LORA}", **numbers) for _ in range(2))
    same(*merged_pair(backend, mode="img2img", **numbers), tolerance=max(ROUNDING, 2 * once.distance(again)))


def test_batches(backend, same):
    numbers = {"batch_size": 2, "n_iter": 2}
    same(*merged_pair(backend, **numbers))
    same(*zero_pair(backend, **numbers))


def test_and_prompts(backend, same):
    both, styles = "a cat AND a dog", "a cat in ink style AND a dog in ink style"
    same(*zero_pair(backend, prompt=both, styled_prompt=styles))
    same(*zero_pair(backend, prompt=f"{both} :0.4", styled_prompt=f"{styles} :0.4", batch_size=2))
    # The null row of the reference has the LoRA too: it cancels where the weights add up to 1.
    halves = {
        "prompt": "a cat :0.5 AND a dog :0.5",
        "styled_prompt": "a cat in ink style :0.5 AND a dog in ink style :0.5",
    }
    same(*merged_pair(backend, **halves))


def test_long_negative(backend, same):
    same(*merged_pair(backend, negative_prompt=LONG))
    same(*zero_pair(backend, negative_prompt=LONG))


def test_long_style_words(backend, same):
    style = styled(words=LONG, lora="style-zero", scale=5)
    same(*zero_pair(backend, style=[style], styled_prompt=f"{PROMPT} {LONG}"))


def test_prompt_loras_stay(backend, same):
    other = "<lora:prompt-lora:0.5>"
    same(*merged_pair(backend, prompt=f"{PROMPT} {other}", styled_prompt=f"{STYLED} {other}"))


def test_two_styles_add(backend, same):
    same(*merged_pair(backend, style=[styled(scale=0.25), styled(scale=0.75)]))
    same(*zero_pair(backend, style=[{**ZERO, "scale": 2}, {**ZERO, "scale": 3}]))
    both = backend.pictures(style=[True, styled(scale=0.5), styled(lora="style-b", scale=0.5)])
    assert both.distance(backend.pictures(style=[True, styled(scale=0.5)])) > 5


@pytest.mark.parametrize("start, end", [(0.25, 1), (0, 0.25)])
def test_interval(backend, same, start, end):
    """8 steps: prompt editing that switches after the second is the same picture."""
    before, after = (PROMPT, STYLED) if start else (STYLED, PROMPT)
    style = {**ZERO, "scale": 15, "start": start, "end": end}
    numbers = {"styled_prompt": f"[{before}:{after}:1]", "steps": 8, "cfg_scale": 15}
    same(*zero_pair(backend, style=[style], **numbers))


def test_scale_0_and_off_are_the_plain_picture(backend):
    plain = backend.pictures(cfg_scale=5)
    for style in ([True, styled(scale=0)], [False, styled()], None):
        found = backend.pictures(style=style, cfg_scale=5)
        assert found.distance(plain) == 0 and ERROR not in found.infotexts[0]


@pytest.mark.parametrize(
    "style, words",
    [
        (styled(lora="te-style"), ["te-style.safetensors", "text-encoder"]),
        (styled(lora="wrong-style"), ["wrong-style.safetensors", "another model"]),
        (styled(lora="style-x"), ["style-x", "no such file"]),
        (styled(scale="much"), ["scale", "is not a number"]),
        (styled(strat=0), ["strat", "did you mean start"]),
        (styled(start=0.999, end=0.9999), ["no step was guided"]),
    ],
)
def test_failures_stand_in_the_infotext(backend, style, words):
    found, plain = backend.pictures(style=[True, style]), backend.pictures()
    assert ERROR in found.infotexts[0] and all(word in found.infotexts[0] for word in words), found.infotexts[0]
    assert found.distance(plain) == 0


def test_infotext_can_be_read_back(backend):
    found = backend.pictures(style=[True, "style-a", 'ink: "wet", dark', 1.25, 0.25, 0.75])
    read = backend.request("/sdapi/v1/png-info", {"image": "data:image/png;base64," + found.encoded[0]})["parameters"]
    assert read["Style guidance LoRA 1"] == "style-a" and read["Style guidance words 1"] == 'ink: "wet", dark'
    numbers = [float(read[f"Style guidance {name} 1"]) for name in ("scale", "start", "end")]
    assert numbers == [1.25, 0.25, 0.75] and "Style guidance LoRA 2" not in read


def test_plot_axes(backend):
    """The X/Y/Z plot varies λ: its cells are the pictures of those λ."""
    info = backend.request("/sdapi/v1/script-info")
    plot = next(script for script in info if script["name"] == "x/y/z plot" and not script["is_img2img"])
    choices = next(arg["choices"] for arg in plot["args"] if arg["label"] == "X type")
    axis = choices.index("[Style guidance] scale 1")
    args = [arg["value"] for arg in plot["args"]]
    args[:3] = [axis, "0, 1", []]
    args[3:9] = [0, "", [], 0, "", []]
    labels = {arg["label"]: index for index, arg in enumerate(plot["args"])}
    args[labels["Draw legend"]] = False
    args[labels["Include Sub Images"]] = True
    found = backend.pictures(style=[True, styled()], script_name="x/y/z plot", script_args=args)
    cells = found.pixels[-2:]
    for cell, style in zip(cells, (None, [True, styled()]), strict=True):
        assert np.abs(cell - backend.pictures(style=style).pixels[0]).max() == 0
    assert json.dumps(found.infotexts).count("Style guidance scale 1: 1") >= 1


def test_nothing_is_left_behind(backend):
    """Plain pictures after all of the above, and after a failure, are the plain picture."""
    before = backend.pictures(cfg_scale=5)
    for style in (styled(), styled(lora="wrong-style")):
        backend.pictures(style=[True, style], cfg_scale=5)
        assert backend.pictures(cfg_scale=5).distance(before) == 0
