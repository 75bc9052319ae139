"""Drives the nodes through ComfyUI's sampling and prints, as JSON, how far each result is from what it must equal.

    python tests/convert/comfyui_checks.py [COMFYUI_DIR]

Without a folder the stand-ins of comfyui_standin.py take ComfyUI's place. The models are tiny and random, on the CPU in
fp32. Every wanted latent is computed without the nodes, and a merged LoRA without ComfyUI's LoRA code. Names say what
is compared; a number is the largest absolute difference, relative to the wanted latent's largest value.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import comfyui_node_checks  # noqa: F401 (registers its checks)
import torch
from comfyui_registry import CHECKS, check, distance, raises
from comfyui_scene import MECHANISMS, CFGGuider, Guider, Patch, Run, backend, lora_of, make_model, prompt, random, style


def equals_merged(how, family="sd1", **changes):
    """CFG 1, λ 1: cond + (style − cond) is the merged model under the style's prompt."""
    run = Run(family=family, cfg=1.0, **changes)
    model = make_model(family)
    tensors, deltas = lora_of(model, 3)
    words = prompt(30, family=family)
    return run.guided(model, style(tensors, words), how), run.plain(make_model(family, deltas), words)


def equals_style_prompt(how, **changes):
    """A zero LoRA with λ = CFG: the prompt's own part cancels, which leaves the plain picture of the style's prompt."""
    run = Run(**changes)
    model = make_model(run.family)
    tensors = {key: value * (0 if "up" in key else 1) for key, value in lora_of(model, 3)[0].items()}
    words = prompt(30, family=run.family)
    return run.guided(model, style(tensors, words, run.cfg), how), run.plain(model, words)


def both(how, **changes):
    yield equals_merged(how, **changes)
    yield equals_style_prompt(how, **changes)


def register(name, **changes):
    for how in MECHANISMS:
        CHECKS[f"{name}[{how}]"] = lambda how=how: max(distance(*pair) for pair in both(how, **changes))


for name in backend.SAMPLERS:
    register(f"sampler {name}", sampler=name)
for name in backend.CHANNELS:
    register(f"family {name}", family=name)
register("batch 2", batch=2)
register("image to image", latent=random(1, 4, 8, 8, seed=9), denoise=0.6)
register("inpainting", latent=random(1, 4, 8, 8, seed=9), mask=(random(1, 1, 8, 8, seed=11) > 0).float())
register("combined prompts", positive=prompt(10) + prompt(40))
register("long negative", negative=prompt(20, 154))
register("long style prompt", positive=prompt(10, 154))


@check
def another_lora(how):
    """A LoRA that the model already has acts on all three predictions."""
    run, words = Run(cfg=1.0), prompt(30)
    model = make_model()
    other, other_deltas = lora_of(model, 8)
    tensors, deltas = lora_of(model, 3)
    both_deltas = {key: 0.5 * other_deltas[key] + delta for key, delta in deltas.items()}
    styles = style(tensors, words)
    yield (
        run.guided(backend.with_lora(model, other, 0.5), styles, how),
        run.plain(make_model("sd1", both_deltas), words),
    )


@check
def two_styles(how):
    """Halves of one style, by strength too, make the whole; so do two patches, one on the other."""
    run, words, model = Run(cfg=1.0), prompt(30), make_model()
    tensors, deltas = lora_of(model, 3)
    halved = {key: value * (0.5 if key.endswith("alpha") else 1) for key, value in tensors.items()}
    wanted = run.plain(make_model("sd1", deltas), words)
    half = style(tensors, words, 0.5)
    yield run.guided(model, style(halved, words, 0.5, styles=half, strength=2.0), how), wanted
    if how == "patch":
        yield run.guided(Patch.patch(model, half)[0], half, how), wanted


@check
def only_some_layers(how):
    run, words, model = Run(cfg=1.0), prompt(30), make_model()
    tensors, deltas = lora_of(model, 3, pick=lambda path: "attn2" in path or "1" in path)
    assert len(deltas) < len(lora_of(model, 3)[1])
    yield run.guided(model, style(tensors, words), how), run.plain(make_model("sd1", deltas), words)


@check
def interval(how):
    """Outside start … end the steps are plain ones: three samplings in a row are one with the interval."""
    model, words = make_model(), prompt(30)
    tensors, deltas = lora_of(model, 3)
    merged = make_model("sd1", deltas)
    # The "normal" scheduler's six steps begin at 0, 0.2, 0.4, … of the schedule.
    found = Run(cfg=1.0).guided(model, style(tensors, words, 1.0, 0.3, 0.7), how)
    wanted = Run(cfg=1.0).joined([(model, None), (merged, words), (model, None)], (0, 2, 4, 6))
    yield found, wanted


@check
def two_passes(how):
    """Upscaled latents, sampled again from the middle of the schedule."""
    model, words = make_model(), prompt(30)
    tensors, deltas = lora_of(model, 3)
    merged, styles = make_model("sd1", deltas), style(tensors, words)

    def second(latent):
        return Run(cfg=1.0, denoise=0.5, size=16, latent=torch.nn.functional.interpolate(latent, scale_factor=2))

    first = Run(cfg=1.0)
    found = second(first.guided(model, styles, how)).guided(model, styles, how)
    yield found, second(first.plain(merged, words)).plain(merged, words)


@check
def what_the_prompt_carries(how):
    """A style with the prompt's own words and no LoRA changes nothing, whatever the prompt carries beside its words."""
    model = make_model()
    zero = {key: value * (0 if "up" in key else 1) for key, value in lora_of(model, 3)[0].items()}
    for options in (
        {"area": (4, 8, 4, 0), "strength": 0.8},
        {"area": ("percentage", 0.5, 0.5, 0.25, 0.25)},
        {"mask": (random(1, 8, 8, seed=2) > 0).float()},
        {"control": backend.make_control(), "control_apply_to_uncond": True},
        {"start_percent": 0.0, "end_percent": 0.5},
    ):
        run = Run(positive=prompt(10, **options))
        yield run.guided(model, style(zero, prompt(10), 3.0), how), run.plain(model)


@check
def style_in_a_region(how):
    """A mask on the style's conditioning keeps one step's change within it; the base picture is not evaluated anew."""
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1.0
    model = make_model()
    tensors, deltas = lora_of(model, 3)
    run = Run(cfg=1.0, steps=1)
    whole, plain = run.plain(make_model("sd1", deltas), prompt(30)), run.plain(model)
    yield run.guided(model, style(tensors, prompt(30, mask=mask)), how), torch.where(mask > 0, whole, plain)


@check
def nothing_is_left(how):
    """The plain picture is the same bit for bit after a guided one, and after one that failed in the style's call."""
    model, run = make_model(), Run()
    tensors, _ = lora_of(model, 3)
    before, weights = run.plain(model), {k: v.clone() for k, v in model.model.state_dict().items()}
    styled = run.guided(model, style(tensors, prompt(30), 3.0), how)
    assert distance(styled, before) > 1e-3
    assert torch.equal(run.plain(model), before)
    broken = style(tensors, prompt(30, tokens=76), 3.0)
    broken[0].conditioning[0][0] = random(1, 77, 5, seed=1)  # a text of the wrong width: the model itself fails on it
    raises("shape", lambda: run.guided(model, broken, how))
    assert not any(module._forward_hooks for module in model.model.modules())
    assert all(torch.equal(weights[key], value) for key, value in model.model.state_dict().items())
    assert torch.equal(run.plain(model), before)
    yield run.guided(model, style(tensors, prompt(30), 0.0), how), before


def refusal(name, change, *words):
    """Registers a check that the node refuses a changed LoRA, with these words in the message: 0, else 1."""

    def refuses(how):
        model = make_model()
        tensors = lora_of(model, 3)[0]
        try:
            Run().guided(model, style(change(tensors), prompt(30)), how)
        except ValueError as error:
            return 0.0 if all(word in str(error) for word in (".safetensors", *words)) else f"other words: {error}"
        return "was not refused"

    for how in MECHANISMS:
        CHECKS[f"refuses {name}[{how}]"] = lambda how=how: refuses(how)


def renamed(old, new):
    return lambda tensors: {key.replace(old, new): value for key, value in tensors.items()}


def widened(tensors):
    return {k: torch.cat([v, v], 1) if "attn2_to_k.lora_down" in k else v for k, v in tensors.items()}


refusal(
    "text-encoder layers", lambda t: {**t, "lora_te_x.lora_down.weight": torch.zeros(1)}, "1 of its", "text encoder"
)
refusal("a file without a known layer", renamed("lora_unet_", "lora_unet_x"), "not in this model")
refusal("a file with one unknown layer", renamed("time_embed_0", "time_embed_9"), "1 of its", "time_embed_9")
refusal("another model's sizes", widened, "another size")
refusal("a coupled checkpoint", lambda t: {f"style.{key}": value for key, value in t.items()}, "coupled checkpoint")
refusal("what is no LoRA", lambda t: {**t, "x.hada_w1_a": torch.zeros(1)}, "no part of a plain LoRA")


@check
def a_wrong_scale_is_far_off(how):
    """The other checks can fail: λ 1.05 in the place of 1 is a thousand times their tolerance away."""
    run, model, words = Run(cfg=1.0), make_model(), prompt(30)
    tensors, deltas = lora_of(model, 3)
    wanted = run.plain(make_model("sd1", deltas), words)
    assert distance(run.guided(model, style(tensors, words, 1.05), how), wanted) > 5e-3
    yield wanted, wanted


@check
def compiled(how):
    """A compiled model that has made a picture already does not see new hooks, only new weights; both must be right."""
    run, model, words = Run(cfg=1.0, steps=2), make_model(), prompt(30)
    tensors, deltas = lora_of(model, 3)
    wanted, plain = run.plain(make_model("sd1", deltas), words), run.plain(model)
    fast = backend.compiled(model)
    yield run.plain(fast), plain
    yield run.guided(fast, style(tensors, words), how), wanted
    yield run.plain(fast), plain


@check
def what_would_be_unguided_is_an_error(how):
    """No step with the style, cfg without a negative prompt, a model or a sampler that goes around the style."""
    model, words = make_model(), prompt(30)
    tensors, _ = lora_of(model, 3)
    styles = style(tensors, words)
    raises("not after start", lambda: style(tensors, words, 1.0, 0.6, 0.6))
    raises("negative prompt", lambda: Guider.guide(model, words, styles, 5.0))
    forward = model.model.diffusion_model.forward
    elsewhere = make_model()  # as a compiled copy would be: the hooked layers exist but do not run
    model.model.diffusion_model.forward = elsewhere.model.diffusion_model.forward
    if how == "patch":  # the guider's weights are those that such a model would read
        raises("ran without", lambda: Run().guided(model, styles, how))
    model.model.diffusion_model.forward = forward
    run = Run()
    run.sampler = None  # one that returns the noise
    raises("never asked for a step", lambda: run.guided(model, styles, how))
    if how == "patch":
        guider = CFGGuider(Patch.patch(model, styles)[0])
        guider.inner_set_conds(dict.fromkeys(("positive", "middle", "negative"), words))
        raises("DualCFGGuider", lambda: Run().sample(model, guider))
    yield run.positive[0][0], run.positive[0][0]


def main():
    results = {}
    for name, function in CHECKS.items():
        try:
            results[name] = function()
        except Exception as cause:  # every other check still runs; the message is this one's result
            traceback.print_exc()
            results[name] = f"{type(cause).__name__}: {cause}"
        print(name, results[name], file=sys.stderr, flush=True)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
