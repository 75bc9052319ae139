"""style_guidance in the pipelines of FLUX.2, Qwen-Image and Z-Image, against eq. 10 and 11."""

import importlib.util
from pathlib import Path

import diffusers
import pytest
import torch

from pair_network.errors import PairError
from pair_network.families import FAMILIES
from pair_network.network import checkpoint
from pair_network.sampling.pipelines import Style, style_guidance
from pair_network.sampling.pipelines.networks import network_from_file


def _by_path(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


transformers, watching = _by_path("tiny_transformers"), _by_path("watching")
SHORT = {"max_sequence_length": 32}
OPTIONS = {
    "flux2": {**SHORT, "text_encoder_out_layers": (1,)},
    "flux2_klein": {**SHORT, "text_encoder_out_layers": (1,), "guidance_scale": 4.0},
    "qwen_image": {"true_cfg_scale": 4.0, "negative_prompt": "blurry"},
    "z_image": {**SHORT, "guidance_scale": 3.0, "negative_prompt": "blurry"},
}
SCALE = {"flux2": 1.0, "flux2_klein": 4.0, "qwen_image": 4.0, "z_image": 4.0}  # Z-Image counts from cond: s − 1
ATOL = {"z_image": 1e-5}  # its pipeline computes in float32; all their rotary embeddings do


def make(family):
    return getattr(transformers, f"make_{family}")()


def run(pipe, family, prompt="a dog", steps=4, **settings):
    settings = {"height": 16, "width": 16, "num_inference_steps": steps, **OPTIONS[family], **settings}
    if isinstance(prompt, list):
        prompt = list(prompt)  # Z-Image's pipeline writes into the list
        if isinstance(settings.get("negative_prompt"), str):
            settings["negative_prompt"] = [settings["negative_prompt"]] * len(prompt)
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt=prompt, generator=generator, output_type="latent", **settings).images


def cond_and_null(calls, images):
    """A step's inputs for the prompt and, with CFG, for the negative prompt."""
    first = calls[0]
    if "x" not in first or len(first["x"]) == images:
        return first, calls[1] if len(calls) > 1 else None
    rows = [{**first, **{name: first[name][part] for name in ("x", "t", "cap_feats")}}
            for part in (slice(0, images), slice(images, None))]  # fmt: skip
    return rows[0], rows[1]


@torch.no_grad()
def check_equation(family, watched, styles, models, texts, cfg_end):
    """Every step against uncond + s (cond − uncond) + Σ λ_i (style_i − cond); returns the number of style terms."""
    terms, scale = 0, SCALE[family]
    for number, (calls, prediction) in enumerate(watched.steps):
        progress = number / len(watched.steps)
        inputs, negative = cond_and_null(calls, prediction.shape[0])
        cond = watching.predicted(watched.model, inputs)
        styled = cond
        for style, model, text in zip(styles, models, texts, strict=True):
            if style.start <= progress < style.end:
                own = watching.with_text_of(inputs, text)
                styled = styled + style.scale * (watching.predicted(model, own) - cond)
                terms += 1
        expected = styled
        if negative is not None and progress < cfg_end:
            null = watching.predicted(watched.model, negative)
            expected = null + scale * (cond - null) + (styled - cond)
            if family == "qwen_image":
                expected = expected * styled.norm(dim=-1, keepdim=True) / expected.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(
            prediction, expected.to(prediction.dtype), rtol=0, atol=ATOL.get(family, 1e-6)
        )  # fmt: skip
    return terms


class Rows:
    """Batch rows that pass through the model's blocks, call by call."""

    def __init__(self, pipe):
        model = pipe.transformer
        self.block = (model.layers if hasattr(model, "layers") else model.transformer_blocks)[0]
        self.counted = []

    def __enter__(self):
        def note(_, args, kwargs):
            self.counted.append((args[0] if args else kwargs["hidden_states"]).shape[0])

        self.hook = self.block.register_forward_pre_hook(note, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self.hook.remove()


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("family", OPTIONS)
def test_equation_10_and_11(tools, family, joined):
    """Two prompts, two images of each, two styles with intervals of their own; CFG ends in the middle."""
    pipe = make(family)
    networks = [tools.make_network(pipe.transformer, seed) for seed in (1, 2)]
    styles = [
        Style(networks[0], "in ink style", scale=2.0, start=0.25),
        Style(networks[1], "as oil", scale=-1.0, start=0.0, end=0.5),
    ]
    prompts = ["a dog", "a cat on a mat"]
    texts = []
    for style in styles:
        with watching.Watched(pipe) as plain:
            run(pipe, family, [f"{p} {style.prompt_words}" for p in prompts], steps=1, num_images_per_prompt=2)
        texts.append(cond_and_null(plain.steps[0][0], 4)[0])
    with watching.Watched(pipe) as watched, style_guidance(pipe, styles, joined=joined, cfg_end=0.5):
        run(pipe, family, prompts, num_images_per_prompt=2)
    models = [tools.merged_copy(pipe.transformer, network) for network in networks]
    assert check_equation(family, watched, styles, models, texts, 0.5) == 5


@pytest.mark.parametrize("family", OPTIONS)
def test_zero_scale_is_the_base_bit_for_bit(tools, family):
    pipe = make(family)
    network = tools.make_network(pipe.transformer, 1)
    base = run(pipe, family)
    with style_guidance(pipe, Style(network, "in ink style", scale=0.0)):
        assert torch.equal(run(pipe, family), base)
    with style_guidance(pipe, Style(network, "in ink style", scale=0.5)):
        guided = run(pipe, family)
        assert not torch.equal(guided, base)
        assert torch.equal(run(pipe, family), guided), "a second run in the block"
    assert torch.equal(run(pipe, family), base)


@pytest.mark.parametrize(
    "family, expected",
    [
        ("flux2", [1, 2, 2, 2]),
        ("flux2_klein", [1, 1, 2, 1, 2, 2]),
        # Its prompts are as long as their words, so a style's is a call of its own.
        ("qwen_image", [1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("z_image", [2, 3, 2, 2]),
    ],
)
def test_null_rows_are_not_computed_after_cfg_end(tools, family, expected):
    pipe = make(family)
    style = Style(tools.make_network(pipe.transformer, 1), "in ink style", start=0.25)
    with style_guidance(pipe, style, cfg_end=0.5), Rows(pipe) as rows:
        run(pipe, family)
    assert rows.counted == expected


def test_distilled_klein_has_no_null_row(tools):
    pipe = transformers.make_flux2_klein(is_distilled=True)
    style = Style(tools.make_network(pipe.transformer, 1), "in ink style", start=0.5)
    with style_guidance(pipe, style), Rows(pipe) as rows:
        run(pipe, "flux2_klein")
    assert rows.counted == [1, 1, 2, 2]


def test_z_image_truncates_cfg(tools):
    """cfg_truncation drops the null rows from the batch in the middle of the run."""
    pipe = make("z_image")
    style = Style(tools.make_network(pipe.transformer, 1), "in ink style", start=0.0)
    with style_guidance(pipe, style), Rows(pipe) as rows:
        run(pipe, "z_image", cfg_truncation=0.3)
    assert rows.counted[0] == 3 and rows.counted[-1] == 2


def test_pipelines_that_are_not_known_are_refused(tools):
    pipe = make("qwen_image")
    style = Style(tools.make_network(pipe.transformer, 1), "in ink style")
    other = diffusers.QwenImageImg2ImgPipeline(**pipe.components)
    refused = pytest.raises(PairError, match="QwenImageImg2ImgPipeline: style guidance knows the pipelines of")
    with refused, style_guidance(other, style):
        pass
    pipe = make("z_image")
    style = Style(tools.make_network(pipe.transformer, 1), "in ink style")
    other = diffusers.ZImageImg2ImgPipeline(**pipe.components)
    refused = pytest.raises(PairError, match="ZImageImg2ImgPipeline: style guidance knows the pipelines of")
    with refused, style_guidance(other, style):
        pass
    embeds = pipe.encode_prompt("a dog", do_classifier_free_guidance=False, max_sequence_length=32)[0]
    with style_guidance(pipe, style), pytest.raises(PairError, match="without encode_prompt; give it the prompt"):
        run(pipe, "z_image", prompt_embeds=embeds, negative_prompt_embeds=embeds, negative_prompt=None, prompt=None)


@pytest.mark.parametrize(
    "family, kohya", [("flux2", "flux2_dev"), ("qwen_image", "qwen_image"), ("z_image", "z_image")]
)
def test_original_names_are_split_for_diffusers(family, kohya, tmp_path):
    """A file with the original model's fused layers lands on diffusers' layers, each with its own rows of the up."""
    model = make(family).transformer
    modules = dict(model.named_modules())
    tensors, deltas = {}, {}
    generator = torch.Generator().manual_seed(0)
    for entry in FAMILIES[kohya].entries:
        if any(path not in modules for path in entry.modules):
            continue
        out = sum(modules[path].out_features for path in entry.modules)
        down = torch.randn(2, modules[entry.modules[0]].in_features, generator=generator)
        up = torch.randn(out, 2, generator=generator)
        key = "lora_unet_" + entry.native.replace(".", "_")
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.0)}
        if not entry.swaps:
            parts = (0.5 * up @ down).split([modules[path].out_features for path in entry.modules])
            deltas |= dict(zip(entry.modules, parts, strict=True))
    assert any("to_q" in path for path in deltas)
    checkpoint.write_together({tmp_path / "style.safetensors": (tensors, {})})
    network = network_from_file(str(tmp_path / "style.safetensors"), [], model)
    paths = {id(module): path for path, module in modules.items()}
    found = {paths[id(layer.base)]: layer.delta() for layer in network.coupled_layers()}
    assert set(deltas) <= set(found)
    for path, delta in deltas.items():
        torch.testing.assert_close(found[path], delta.to(found[path].dtype), rtol=1e-5, atol=1e-5)
