"""musubi-tuner's own trainers on tiny models of its own classes, in a subprocess of its environment."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).parents[3]
NEEDED = ("MUSUBI_DIR", "MUSUBI_PYTHON")
pytestmark = [
    pytest.mark.musubi,
    pytest.mark.skipif(
        not all(os.environ.get(name) for name in NEEDED),
        reason=f"needs a checkout of musubi-tuner: set {', '.join(NEEDED)}",
    ),
]
LAYERS = {"flux2_klein_4b": 24, "qwen_image": 32, "z_image": 16, "krea2": 20, "ideogram4": 8}
SIZES = {"flux2_klein_9b": 24, "flux2_dev": 24}
FLUX2 = {
    "in_channels": 16, "num_layers": 4, "num_single_layers": 4, "attention_head_dim": 32, "num_attention_heads": 2,
    "joint_attention_dim": 32, "mlp_ratio": 3.0, "axes_dims_rope": (8, 8, 8, 8),
}  # fmt: skip
# diffusers' pipeline of a model, and its transformer in the size of musubi_tiny's.
IN_DIFFUSERS = {
    "flux2_klein_4b": ("Flux2KleinPipeline", "Flux2Transformer2DModel", FLUX2 | {"guidance_embeds": False}),
    "flux2_klein_9b": ("Flux2KleinPipeline", "Flux2Transformer2DModel", FLUX2 | {"guidance_embeds": False}),
    "flux2_dev": ("Flux2Pipeline", "Flux2Transformer2DModel", FLUX2),
    "qwen_image": ("QwenImagePipeline", "QwenImageTransformer2DModel", {
        "num_layers": 4, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32,
        "axes_dims_rope": (4, 6, 6),
    }),
    "z_image": ("ZImagePipeline", "ZImageTransformer2DModel", {
        "dim": 64, "n_layers": 4, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32,
        "axes_dims": [8, 12, 12],
    }),
    "krea2": ("Krea2Pipeline", "Krea2Transformer2DModel", {
        "num_layers": 4, "attention_head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 1,
        "intermediate_size": 256, "text_hidden_dim": 32, "num_text_layers": 2, "text_num_attention_heads": 2,
        "text_num_key_value_heads": 2, "text_intermediate_size": 64, "num_layerwise_text_blocks": 2,
        "num_refiner_text_blocks": 2, "axes_dims_rope": (4, 6, 6),
    }),
}  # fmt: skip


def ups(path, branch=""):
    return {key: value for key, value in load_file(path).items() if key.startswith(branch) and "lora_up" in key}


def moved(values):
    return sum(bool(value.abs().max() > 0) for value in values.values())


def norm_in_diffusers(file, family):
    """Norm of all deltas together, as diffusers' own loader puts them into its transformer; how many are left over."""
    import diffusers
    from peft.tuners.lora.layer import LoraLayer

    pipeline, transformer, shape = IN_DIFFUSERS[family]
    model = getattr(diffusers, transformer)(**shape)
    weights = getattr(diffusers, pipeline).lora_state_dict(str(file))
    getattr(diffusers, pipeline).load_lora_into_transformer(weights, model)
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    left = len({key.rsplit(".lora_", 1)[0] for key in weights if "lora_" in key}) - len(layers)
    with torch.no_grad():
        return sum(float(layer.get_delta_weight("default_0").square().sum()) for layer in layers) ** 0.5, left


def norm_in_file(file):
    """The same of the file as it was trained: its alpha is its rank."""
    tensors = load_file(file)
    downs = {key: value for key, value in tensors.items() if "lora_down" in key}
    deltas = [tensors[key.replace("lora_down", "lora_up")] @ down for key, down in downs.items()]
    return sum(float(delta.square().sum()) for delta in deltas) ** 0.5


def run(folder, family):
    command = [
        os.environ["MUSUBI_PYTHON"],
        "tests/training/hosts/musubi_run.py",
        os.environ["MUSUBI_DIR"],
        str(ROOT),
        str(folder),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, family], env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600
    )
    assert done.returncode == 0, done.stdout[-6000:]
    facts = [json.loads(line) for line in re.findall(r"RESULT (.*)", done.stdout)]
    return {fact["name"]: fact for fact in facts}, done.stdout


@pytest.mark.parametrize("family", LAYERS | SIZES)
def test_a_family_trains_saves_continues_and_loads(tmp_path, make_picture, family):
    for number, size in enumerate([(128, 128), (128, 128), (192, 96)]):
        for side in ("content", "style"):
            make_picture(tmp_path / side / f"{number}.png", (40 * number, 200, 90), size)
    results, log = run(tmp_path, family)
    layers = (LAYERS | SIZES)[family]
    out = tmp_path / "out"

    error = results["uncached"]["error"]
    assert error.startswith("6 images are not cached") and "_cache_latents.py --dataset_config" in error
    assert "_cache_text_encoder_outputs.py" in error and "\n" not in error

    trained = results["trained"]
    assert trained["steps"] == 4 and trained["misaligned"] == 0
    alone = {**trained["losses"]["content"], **trained["losses"]["style"]}
    assert trained["losses"]["joint"] == pytest.approx(alone, abs=1e-4), "rows of a joined batch see each other"

    style, coupled = out / "style.safetensors", out / "style.pair.safetensors"
    # The last block's text stream is not read any more in some families: its ups stay at zero.
    assert len(ups(style)) == layers and moved(ups(style)) >= layers - 6, log[-3000:]
    content = ups(coupled, "content.")
    assert {value.shape[0] for value in content.values()} == {3} and moved(content) >= layers - 6
    with safe_open(style, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "pair_network" and metadata["pair_network_num_pairs"] == "3"
    assert metadata["modelspec.trigger_phrase"] == "in ink style"

    low = ups(out / "low.safetensors")
    assert len(low) > layers and all(torch.isfinite(value).all() for value in low.values()) and moved(low)
    before, more = ups(style), ups(out / "more.safetensors")
    assert all(torch.allclose(before[key], more[key], atol=1e-4) for key in before)
    assert json.loads((out / "more-state/pair_state.json").read_text(encoding="utf-8")) == {"pair_step": 4}
    assert {"merged.safetensors", "more-step00000002.safetensors"} <= set(results["all"]["files"])
    if family in IN_DIFFUSERS:
        check_conversions(style, family)


def check_conversions(style, family):
    """Every layer arrives in diffusers, with the whole weight, and ComfyUI's names are those that it reads."""
    for verb, *options in (["diffusers"], ["a1111", "--ui", "comfyui"]):
        target = style.with_name(f"{verb}.safetensors")
        command = [sys.executable, "-m", "convert", verb, str(style), "-o", str(target), *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    norm, left_over = norm_in_diffusers(style.with_name("diffusers.safetensors"), family)
    assert left_over == 0 and norm == pytest.approx(norm_in_file(style), rel=1e-4) and norm > 0
    assert norm_in_file(style.with_name("a1111.safetensors")) == pytest.approx(norm, rel=1e-4)
    info = [sys.executable, "-m", "convert", "info", str(style.with_name("a1111.safetensors"))]
    shown = subprocess.run(info, cwd=ROOT, capture_output=True, text=True).stdout
    assert re.search(r"ComfyUI +(\d+) of \1 tensors", shown), shown
