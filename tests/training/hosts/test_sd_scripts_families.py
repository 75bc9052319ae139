"""Every family that sd-scripts trains, as a tiny model of its own classes."""

import json
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.sd_scripts

CACHED = ["--cache_latents", "--cache_text_encoder_outputs"]
# HunyuanImage's text outputs only come back from the disk: kohya cannot stack its cached mask from RAM.
OPTIONS = {
    "sd": ["--cache_latents"],
    "sdxl": ["--cache_latents"],
    "sd3": CACHED,
    "flux": CACHED,
    "lumina": CACHED,
    "hunyuan_image": ["--cache_latents", "--cache_text_encoder_outputs_to_disk"],
    "anima": CACHED,
}
TRAINERS = {"anima": "anima_train_network.py", "hunyuan_image": "hunyuan_image_train_network.py"}
FLOW = ["sd3", "flux", "lumina", "hunyuan_image", "anima"]


def skip_without(sd_scripts, model_type):
    if not sd_scripts.has(TRAINERS.get(model_type, "train_network.py")):
        pytest.skip(f"this sd-scripts has no {model_type}")


def ups(path):
    return {key: value for key, value in load_file(path).items() if "lora_up" in key}


def keys(sd_scripts, task, model_type, *rest):
    log = sd_scripts.python(
        sd_scripts.tests / "sd_scripts_keys.py", sd_scripts.checkout, sd_scripts.project, task, model_type, *rest
    )
    return json.loads(re.search(r"RESULT (.*)", log)[1])


@pytest.mark.parametrize("model_type", OPTIONS)
def test_the_layers_and_their_keys_are_kohyas(sd_scripts, model_type):
    """targets=full+text_encoder+t5 is exactly what kohya's own network takes; attention is a part of it."""
    skip_without(sd_scripts, model_type)
    result = keys(sd_scripts, "layers", model_type)
    assert result["only_ours"] == result["only_kohya"] == result["attention_outside"] == []
    assert 0 < result["attention"] < result["layers"]


@pytest.mark.parametrize("model_type", OPTIONS)
def test_trains_four_steps_and_kohyas_own_network_loads_the_style_file(sd_scripts, model_type):
    skip_without(sd_scripts, model_type)
    log = sd_scripts.train("--gradient_checkpointing", *OPTIONS[model_type], model_type=model_type)
    style = ups(sd_scripts.out / "style.safetensors")
    assert style and all(value.abs().max() > 0 for value in style.values()), log[-1500:]
    loaded = keys(sd_scripts, "load", model_type, sd_scripts.out / "style.safetensors")
    assert loaded == {"missing": [], "unexpected": [], "layers": len(style)}


@pytest.mark.parametrize("model_type", FLOW)
def test_trains_without_caches_and_with_every_layer(sd_scripts, model_type):
    skip_without(sd_scripts, model_type)
    if model_type == "hunyuan_image":
        pytest.skip("its text encoders are replaced here by embeddings that must be cached")
    sd_scripts.train("--network_args", "targets=full", "--max_train_steps", "3", model_type=model_type)
    assert all(torch.isfinite(value).all() for value in ups(sd_scripts.out / "style.safetensors").values())


@pytest.mark.parametrize("model_type", ["sd3", "flux", "lumina", "hunyuan_image"])
def test_split_qkv_gives_the_parts_of_fused_layers_factors_of_their_own(sd_scripts, model_type):
    """The file holds one factor of rank 3 · 4 (linear1: 4 · 4), zero outside the diagonal blocks, as kohya's does."""
    skip_without(sd_scripts, model_type)
    sd_scripts.train("--network_args", "split_qkv=True", *OPTIONS[model_type], model_type=model_type)
    fused = {k: v for k, v in ups(sd_scripts.out / "style.safetensors").items() if "qkv" in k or "linear1" in k}
    assert {value.shape[1] for key, value in fused.items() if "qkv" in key} == {12}
    for value in fused.values():
        assert value[-1, :4].abs().max() == 0 and value[0, -4:].abs().max() == 0
    # SD3's last text block uses no query: its rows stay at zero.
    assert any(value[0, :4].abs().max() > 0 for value in fused.values())
    assert keys(sd_scripts, "load", model_type, sd_scripts.out / "style.safetensors")["missing"] == []
    weights = ["--network_weights", sd_scripts.out / "style.pair.safetensors", "--dim_from_weights"]
    sd_scripts.train(
        "--learning_rate", "1e-6", "--output_name", "more", *weights, *OPTIONS[model_type], model_type=model_type
    )
    before, after = (ups(sd_scripts.out / f"{name}.safetensors") for name in ("style", "more"))
    assert all(torch.allclose(before[key], after[key], atol=1e-4) for key in before)


@pytest.mark.parametrize("model_type", ["sd3", "flux", "lumina", "anima"])
def test_text_encoders_train_on_request(sd_scripts, model_type):
    skip_without(sd_scripts, model_type)
    kinds = "attention+text_encoder" + ("+t5" if model_type in ("sd3", "flux") else "")
    sd_scripts.train("--network_args", f"targets={kinds}", "--gradient_checkpointing", model_type=model_type)
    prefixes = {"sd3": {"lora_te1", "lora_te2", "lora_te3"}, "flux": {"lora_te1", "lora_te3"}}
    found = {key.split("_")[0] + "_" + key.split("_")[1] for key in ups(sd_scripts.out / "style.safetensors")}
    assert found - {"lora_unet"} == prefixes.get(model_type, {"lora_te"})
    style = ups(sd_scripts.out / "style.safetensors")
    for prefix in found:
        assert any(value.abs().max() > 0 for key, value in style.items() if key.startswith(prefix)), prefix


@pytest.mark.parametrize("model_type", ["sd3", "flux"])
def test_fp8_base_in_bf16(sd_scripts, model_type):
    sd_scripts.train("--fp8_base", "--mixed_precision", "bf16", *OPTIONS[model_type], model_type=model_type)
    assert all(torch.isfinite(value).all() for value in ups(sd_scripts.out / "style.safetensors").values())


def test_hunyuan_image_text_encoders_are_refused(sd_scripts):
    skip_without(sd_scripts, "hunyuan_image")
    options = ["--network_args", "targets=attention+text_encoder"]
    log = sd_scripts.train(*options, model_type="hunyuan_image", fails=True)
    assert "HunyuanImage's text encoders are not trained" in log


# --- previews ---

TILE, GAP, HEAD = 256, 8, 56


def columns(path):
    """The three pictures of a sheet."""
    with Image.open(path) as sheet:
        assert len(sheet.getcolors(1 << 20) or []) > 50, "blank pictures: the sampler met NaN"
        lefts = [GAP + number * (TILE + GAP) for number in range(3)]
        return [sheet.crop((x, HEAD, x + TILE, HEAD + TILE)).copy() for x in lefts]


def difference(first, second):
    pairs = zip(first.tobytes(), second.tobytes(), strict=True)
    return max(abs(a - b) for a, b in pairs)


def sampled(sd_scripts, model_type, scale, start, prompt):
    prompts = sd_scripts.folder / "prompts.txt"
    prompts.write_text(prompt, encoding="utf-8")
    options = ["--sample_every_n_steps", "2", "--sample_prompts", prompts, "--sample_sampler", "euler_a"]
    options += ["--sample_style_scale", scale, "--sample_style_start", start]
    options += ["--style_start_step", "0", "--max_train_steps", "2", "--learning_rate", "0.05"]
    sd_scripts.train(*options, *OPTIONS[model_type], model_type=model_type)
    return columns(next((sd_scripts.out / "sample").glob("style_000002_00_3.png")))


@pytest.mark.parametrize("model_type", ["sd", "sdxl", "sd3", "flux"])
def test_previews_show_base_style_lora_and_style_guidance(sd_scripts, model_type):
    """Without CFG, guidance of scale 1 from the first step is the style's own prediction: the second picture."""
    prompt = "a photo of a sbu house --w 128 --h 128 --s 3 --l 1 --d 3"
    base, lora, guided = sampled(sd_scripts, model_type, 1, 0, prompt)
    assert difference(base, lora) > 4, "the style LoRA changes nothing: this test would prove nothing"
    assert difference(lora, guided) <= 2
    with_cfg = prompt.replace("--l 1", "--l 4")
    base, lora, guided = sampled(sd_scripts, model_type, 0, 0, with_cfg)
    assert difference(base, guided) == 0, "guidance of scale 0 is plain CFG"
    assert difference(base, lora) > 4
    base, lora, guided = sampled(sd_scripts, model_type, 12, 0.3, with_cfg)
    # Random weights paint nearly flat pictures; without guidance the difference to the base is exactly 0 (above).
    assert difference(base, guided) > 0, "guidance that starts late still shows"
    assert difference(lora, guided) > 0, "and is not the LoRA's own picture"


@pytest.mark.parametrize("model_type", ["lumina", "anima"])
def test_other_families_sample_plainly(sd_scripts, model_type):
    skip_without(sd_scripts, model_type)
    prompts = sd_scripts.folder / "prompts.txt"
    prompts.write_text("a photo of a sbu house --w 64 --h 64 --s 2 --d 3", encoding="utf-8")
    options = ["--sample_every_n_steps", "2", "--sample_prompts", prompts, "--max_train_steps", "2"]
    sd_scripts.train(*options, *OPTIONS[model_type], model_type=model_type)
    assert len(list((sd_scripts.out / "sample").glob("*.png"))) == 1


# --- kohya's stock script ---


@pytest.mark.parametrize("model_type", ["sd", "sdxl", "flux"])
def test_the_stock_script_trains_a_plain_lora_and_says_so(sd_scripts, model_type, make_picture):
    make_picture(sd_scripts.folder / "train/2_ink style/a.png", (20, 60, 160))
    options = ["--train_data_dir", sd_scripts.folder / "train", "--network_module", "pair_network"]
    log = sd_scripts.train(*options, *OPTIONS[model_type], model_type=model_type, PAIR_STOCK="1")
    assert "no pairs in this script" in log
    style = ups(sd_scripts.out / "style.safetensors")
    assert style and all(value.abs().max() > 0 for value in style.values())
    assert not list(sd_scripts.out.glob("*.pair.safetensors"))
    assert keys(sd_scripts, "load", model_type, sd_scripts.out / "style.safetensors")["missing"] == []


def test_the_stock_script_is_refused_pairs(sd_scripts, make_picture):
    make_picture(sd_scripts.folder / "style/a.png", (20, 60, 160))
    make_picture(sd_scripts.folder / "content/a.png", (20, 60, 160))
    folder = sd_scripts.folder.as_posix()
    dataset = sd_scripts.dataset(
        f'[[datasets]]\nresolution = 128\n[[datasets.subsets]]\nimage_dir = "{folder}/style"\nclass_tokens = "a"\n'
        f'custom_attributes = {{ content_dir = "{folder}/content" }}\n'
    )
    options = ["--dataset_config", dataset, "--network_module", "pair_network"]
    assert "start train_pair_network.py --sd_scripts DIR" in sd_scripts.train(*options, fails=True, PAIR_STOCK="1")
