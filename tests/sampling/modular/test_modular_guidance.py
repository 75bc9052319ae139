"""StyleGuidance in diffusers' modular pipelines, against eq. 10 evaluated row by row."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import ClassifierFreeGuidance

from pair_network.errors import PairError
from pair_network.pipelines import Style, StyleGuidance
from pair_network.sampling.pipelines.networks import network_from_file

OPTIONS = {
    "sdxl": {}, "sd3": {}, "qwen_image": {"max_sequence_length": 1024}, "z_image": {"max_sequence_length": 32},
    "flux2_klein": {"max_sequence_length": 32, "text_encoder_out_layers": (1,)},
}  # fmt: skip
# Rotary embeddings, and Z-Image's whole loop, compute in float32.
ATOL = {"z_image": 1e-5, "qwen_image": 1e-6, "flux2_klein": 1e-6}


def run(pipe, family, prompt="a dog", steps=3, **settings):
    settings = {"height": 16, "width": 16, "num_inference_steps": steps, **OPTIONS[family], **settings}
    prompt = prompt if isinstance(prompt, str) else list(prompt)  # Z-Image's encoder writes into the list
    return pipe(prompt=prompt, generator=torch.Generator().manual_seed(0), output="latents", **settings)


def file_for(tools, pipe, path, seed=1):
    network = tools.make_network(tools.denoiser_of(pipe), seed)
    network.save_weights(str(path), None, {"modelspec.trigger_phrase": "in ink style"})
    return path


def merged(tools, pipe, style):
    model = tools.denoiser_of(pipe)
    return tools.merged_copy(model, network_from_file(str(style.file_or_network), [], model), style.multiplier)


def text_of(tools, pipe, family, prompt, **settings):
    """The model call of a plain run with a prompt, whose text inputs are what a style's must be."""
    with tools.Watched(pipe) as watched:
        run(pipe, family, prompt, steps=1, **settings)
    return watched.steps[0][0][0]


@pytest.mark.parametrize("family", OPTIONS)
def test_equation_10_of_every_family(tools, tmp_path, family):
    """Two prompts, two images of each, two styles with intervals of their own; CFG ends at 3/4 of the schedule."""
    pipe = tools.make_modular(family)
    styles = [
        Style(file_for(tools, pipe, tmp_path / "ink.safetensors"), scale=2.0, start=0.25),
        Style(file_for(tools, pipe, tmp_path / "oil.safetensors", 2), "as oil", scale=-1.0, start=0.0, end=0.5),
    ]
    prompts, settings = ["a dog", "a cat on a mat"], {"num_images_per_prompt": 2, "steps": 4}
    negative = {} if family == "flux2_klein" else {"negative_prompt": ["blurry", "grey"]}
    texts = [
        text_of(tools, pipe, family, [f"{p} {one.prompt_words}" for p in prompts], num_images_per_prompt=2, **negative)
        for one in styles
    ]
    plain = run(pipe, family, prompts, **settings, **negative)
    StyleGuidance(styles, guidance_scale=4.0, cfg_end=0.75).add_to(pipe)
    with tools.Watched(pipe) as watched:
        guided = run(pipe, family, prompts, **settings, **negative)
    assert guided.shape == plain.shape and (guided - plain).abs().max() > 1e-2
    assert watched.calls == [3, 4, 3, 2], "cond, null until 0.75, the first style from 0.25, the second until 0.5"
    models = [merged(tools, pipe, style) for style in styles]
    terms = tools.check_equation(
        watched, styles, models, texts, 4.0, 0.75, tools.FINISH.get(family), atol=ATOL.get(family, 1e-8)
    )
    assert terms == 5


@pytest.mark.parametrize("family", OPTIONS)
def test_zero_scale_is_plain_cfg_bit_for_bit(tools, tmp_path, family):
    pipe = tools.make_modular(family)
    style = Style(file_for(tools, pipe, tmp_path / "ink.safetensors"), scale=0.0)
    pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=3.0))
    plain = run(pipe, family)
    StyleGuidance(style, guidance_scale=3.0).add_to(pipe)
    with tools.Watched(pipe) as watched:
        assert torch.equal(run(pipe, family), plain)
    assert watched.calls == [2, 2, 2]
    pipe.update_components(guider=pipe.guider.new(styles=Style(style.file_or_network, scale=1e-3)))
    assert not torch.equal(run(pipe, family), plain)
    pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=3.0))
    assert torch.equal(run(pipe, family), plain), "another guider in its place: nothing is left behind"


def test_guidance_rescale_is_diffusers(tools, tmp_path):
    pipe = tools.make_modular("sdxl")
    style = Style(file_for(tools, pipe, tmp_path / "ink.safetensors"), start=0.0)
    text = text_of(tools, pipe, "sdxl", "a dog in ink style")
    StyleGuidance(style, guidance_scale=4.0, guidance_rescale=0.7).add_to(pipe)
    with tools.Watched(pipe) as watched:
        run(pipe, "sdxl")

    def rescaled(guided, cond, _):
        axes = list(range(1, guided.dim()))
        spread = cond.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
        return 0.7 * guided * spread + 0.3 * guided

    assert tools.check_equation(watched, [style], [merged(tools, pipe, style)], [text], 4.0, finish=rescaled) == 3


def test_without_cfg_no_null_row_is_computed(tools, tmp_path):
    pipe = tools.make_modular("z_image")
    StyleGuidance(Style(file_for(tools, pipe, tmp_path / "ink.safetensors")), guidance_scale=1.0).add_to(pipe)
    with tools.Watched(pipe) as watched:
        run(pipe, "z_image", steps=5)
    assert watched.calls == [1, 2, 2, 2, 2]
    pipe.guider.disable()
    with tools.Watched(pipe) as watched:
        run(pipe, "z_image", steps=2)
    assert watched.calls == [1, 1]


def test_saved_and_loaded(tools, tmp_path):
    """guider_config.json holds the numbers, words and paths; the loaded guider makes the same picture."""
    pipe = tools.make_modular("sdxl")
    style = Style(file_for(tools, pipe, tmp_path / "ink.safetensors"), scale=2.0, end=0.8, multiplier=0.5)
    guider = StyleGuidance(style, guidance_scale=4.0, guidance_rescale=0.5, cfg_end=0.6)
    expected = run(guider.add_to(pipe), "sdxl")
    guider.save_pretrained(tmp_path / "guider")
    saved = json.loads((tmp_path / "guider" / "guider_config.json").read_text(encoding="utf-8"))
    assert saved["styles"] == [
        {"file_or_network": str(tmp_path / "ink.safetensors"), "prompt_words": "in ink style", "scale": 2.0,
         "start": 0.2, "end": 0.8, "multiplier": 0.5}
    ]  # fmt: skip
    assert (saved["guidance_scale"], saved["guidance_rescale"], saved["cfg_end"]) == (4.0, 0.5, 0.6)
    loaded = StyleGuidance.from_pretrained(tmp_path / "guider")
    pipe.update_components(guider=ClassifierFreeGuidance())
    pipe.update_components(guider=loaded)
    assert torch.equal(run(pipe, "sdxl"), expected)


def test_a_failed_call_leaves_the_base_model(tools, tmp_path):
    pipe = tools.make_modular("sdxl")
    layer = pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
    plain = run(pipe, "sdxl")
    StyleGuidance(Style(file_for(tools, pipe, tmp_path / "ink.safetensors"), start=0.0)).add_to(pipe)

    def fail_where_the_style_is_on(*_):
        if layer._forward_hooks:
            raise RuntimeError("stop")

    handle = pipe.unet.conv_out.register_forward_pre_hook(fail_where_the_style_is_on)
    with pytest.raises(RuntimeError, match="stop"):
        run(pipe, "sdxl")
    handle.remove()
    assert not layer._forward_hooks
    pipe.update_components(guider=ClassifierFreeGuidance())
    assert torch.equal(run(pipe, "sdxl"), plain)


def test_what_does_not_fit_is_said_in_one_line(tools, tmp_path):
    pipe = tools.make_modular("sdxl")
    file = file_for(tools, pipe, tmp_path / "ink.safetensors")
    guider = StyleGuidance(Style(file))
    pipe.update_components(guider=guider)
    with pytest.raises(PairError, match=r"StyleGuidance: .*call \.add_to\(pipe\) once"):
        run(pipe, "sdxl")
    with pytest.raises(PairError, match="Flux2ModularPipeline: its blocks have no guider; use style_guidance"):
        guider.add_to(tools.make_modular("flux2"))
    with pytest.raises(PairError, match="StyleGuidance is for modular pipelines"):
        guider.add_to(torch.nn.Linear(1, 1))
    other = tools.make_modular("sd3")
    guider.add_to(other)
    with pytest.raises(PairError, match=r"ink\.safetensors: .* another model family"):
        run(other, "sd3")
    with pytest.raises(PairError, match="StyleGuidance takes a file and words"):
        StyleGuidance(Style(tools.make_network(pipe.unet, 1), "in ink style"))
    with pytest.raises(PairError, match="a style has the fields file, scale; a file_or_network is needed"):
        StyleGuidance({"file": str(file), "scale": 2.0})
    for name, value in (("cfg_end", 1.5), ("guidance_rescale", -1), ("guidance_scale", float("nan"))):
        with pytest.raises(PairError, match=f"{name}={value}: "):
            StyleGuidance(Style(file), **{name: value})


def test_the_pages_example(tools, tmp_path, monkeypatch):
    """docs/diffusers.md, from the style on, with the page's file names, on a tiny pipeline."""
    page = (Path(__file__).parents[3] / "docs" / "diffusers.md").read_text(encoding="utf-8")
    example = next(part.split("```")[0] for part in page.split("```python") if "StyleGuidance(" in part.split("```")[0])
    lines = example[example.index("style = ") : example.index("image = ")]
    pipe = tools.make_modular("sdxl")
    file_for(tools, pipe, tmp_path / "ink.safetensors")
    plain = run(pipe, "sdxl")
    monkeypatch.chdir(tmp_path)
    exec(lines, {"pipe": pipe, "Style": Style, "StyleGuidance": StyleGuidance})
    guided = run(pipe, "sdxl")
    assert not torch.equal(guided, plain)
    pipe.guider.save_pretrained("ink-guider")
    other = tools.make_modular("sdxl")
    StyleGuidance.from_pretrained("ink-guider").add_to(other)
    assert torch.equal(run(other, "sdxl"), guided)
