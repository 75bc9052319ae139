"""Checkpoints as people have them: half precisions, inpainting models, caches of links, variants; and fp8 LoRAs."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

KEYS = [
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
]
WEIGHT = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture
def extracted(run, tmp_path):
    """Function: extracts, and returns status, layers' keys and what was said."""

    def call(base, tuned, *arguments):
        for name, tensors in (("base", base), ("tuned", tuned)):
            save_file(tensors, tmp_path / f"{name}.safetensors")
        target = tmp_path / "x.safetensors"
        status, out, errors = run(
            "extract", tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", "-o", target, "--rank", 2,
            "--overwrite", "--verify", *arguments,
        )  # fmt: skip
        keys = {key.partition(".")[0] for key in load_file(target)} if status == 0 else set()
        return status, keys, out + errors

    return call


PLACES = {
    "base: the denoiser alone": ("", "model.diffusion_model."),
    "tuned: the denoiser alone, as ComfyUI saves it": ("model.diffusion_model.", "diffusion_model."),
}


@pytest.mark.parametrize("where", PLACES)
def test_models_under_different_prefixes_are_compared_layer_by_layer(where, extracted, helpers):
    """A whole checkpoint beside a file of the denoiser alone is what people have of FLUX and of many finetunes."""
    here, there = PLACES[where]
    base = helpers.base_checkpoint("sd1")
    tuned = {key: value.clone() for key, value in base.items()}
    tuned[WEIGHT] += torch.randn(tuned[WEIGHT].shape, generator=torch.Generator().manual_seed(1))
    status, keys, said = extracted(
        {key.replace("model.diffusion_model.", here): value for key, value in base.items()},
        {key.replace("model.diffusion_model.", there): value for key, value in tuned.items()},
    )
    assert status == 0 and keys == {KEYS[0]}, said


WAYS = {
    "saved in bf16": (lambda x: x, lambda x: x.bfloat16()),
    "saved in fp16": (lambda x: x, lambda x: x.half()),
    "base in fp16, tuned in fp32": (lambda x: x.half(), lambda x: x),
    "base in bf16, tuned in fp16": (lambda x: x.bfloat16(), lambda x: x.bfloat16().half()),
    "trained in fp16, saved in fp32": (lambda x: x, lambda x: x.half().float()),
    "trained in fp16, saved in bf16": (lambda x: x, lambda x: x.half().bfloat16()),
}


@pytest.mark.parametrize("way", WAYS)
def test_layers_that_differ_by_rounding_alone_are_not_extracted(way, extracted, helpers):
    before, after = WAYS[way]
    base = helpers.base_checkpoint("sd1", encoders=True)
    tuned = {key: value.clone() for key, value in base.items()}
    tuned[WEIGHT] += torch.randn(tuned[WEIGHT].shape, generator=torch.Generator().manual_seed(1))
    status, keys, said = extracted(
        {key: before(value) for key, value in base.items()}, {key: after(value) for key, value in tuned.items()}
    )
    assert status == 0 and keys == {KEYS[0]}, said


def test_a_model_that_was_only_rounded_is_no_finetune(extracted, helpers):
    base = helpers.base_checkpoint("sd1")
    status, _, said = extracted(base, {key: value.bfloat16() for key, value in base.items()})
    assert status == 1 and "by rounding at most" in said


def test_small_real_changes_are_kept(extracted, helpers):
    """And so the rule can fail: one number of a layer beyond its rounding is a change."""
    base = helpers.base_checkpoint("sd1")
    tuned = {key: value.bfloat16() for key, value in base.items()}
    tuned[WEIGHT][0, 0] += 2 * abs(tuned[WEIGHT][0, 0])
    assert extracted(base, tuned)[1] == {KEYS[0]}


@pytest.mark.parametrize("channels", [5, 8, 9])
def test_inpainting_depth_and_editing_models_give_their_other_layers(channels, extracted, helpers):
    base = helpers.base_checkpoint("sd1")
    tuned = {key: value.clone() for key, value in base.items()}
    tuned[WEIGHT] += 1
    wide = torch.zeros(tuned[FIRST].shape[0], channels + helpers.HIDDEN, 3, 3)
    wide[:, : tuned[FIRST].shape[1]] = tuned[FIRST]
    tuned[FIRST] = wide
    status, keys, said = extracted(base, tuned)
    assert status == 0 and keys == {KEYS[0]} and "note: " in said and "input_blocks.0.0" in said


def test_shapes_are_compared_only_for_the_chosen_targets(extracted, helpers):
    base = helpers.base_checkpoint("sd1")
    tuned = {key: value.clone() for key, value in base.items()}
    tuned[WEIGHT] += 1
    other = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    tuned[other] = torch.zeros(3, *tuned[other].shape[1:])
    assert "has shape" in extracted(base, tuned)[2]
    assert extracted(base, tuned, "--targets", "attention")[1] == {KEYS[0]}


def test_loras_in_place_of_checkpoints_name_the_right_verb(lora, run, helpers, tmp_path):
    save_file(helpers.base_checkpoint("sd1"), tmp_path / "model.safetensors")
    style, model = lora("sd1", keys=KEYS), tmp_path / "model.safetensors"
    status, _, errors = run("merge", style, model, "-o", tmp_path / "m.safetensors")
    assert status == 1 and f"merge {model} {style}" in errors and not (tmp_path / "m.safetensors").exists()
    second = lora("sd1", "b.safetensors", keys=KEYS)
    assert "blend" in run("merge", style, second, "-o", tmp_path / "m.safetensors")[2]
    assert "blend --weights 1 -1" in run("extract", style, second, "-o", tmp_path / "m.safetensors")[2]
    for verb in ("a1111", "info", "resize"):
        arguments = ("--rank", 1) if verb == "resize" else ()
        assert "merge" in run(verb, model, *arguments)[2] and "extract" in run(verb, model, *arguments)[2]


@pytest.fixture
def model_folder(tmp_path, unet):
    """A diffusers folder with a U-Net and a LoRA for it."""
    unet.save_pretrained(tmp_path / "model" / "unet")
    (tmp_path / "model" / "model_index.json").write_text("{}")
    weights = load_file(tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    name = next(key for key in weights if key.endswith("attn1.to_q.weight")).removesuffix(".weight")
    out, width = weights[f"{name}.weight"].shape
    tensors = {f"unet.{name}.lora_A.weight": torch.ones(1, width), f"unet.{name}.lora_B.weight": torch.ones(out, 1)}
    save_file(tensors, tmp_path / "lora.safetensors")
    return tmp_path / "model", f"{name}.weight"


def as_cache(folder, hub):
    """The folder as ``from_pretrained`` keeps it: links into the blobs of the same model."""
    snapshot = hub / "models--a--b" / "snapshots" / "0123"
    blobs = hub / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(path for path in folder.rglob("*") if path.is_file()):
        (blobs / f"{number:08x}").write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / f"{number:08x}", link.parent))
    return snapshot


@pytest.mark.skipif(os.name == "nt", reason="making links needs a privilege on Windows")
def test_folders_of_a_hugging_face_cache(model_folder, run, tmp_path):
    """merge, extract and batch take their links, and no other that leads out."""
    folder, weight = model_folder
    snapshot = as_cache(folder, tmp_path / "hub")
    status, _, errors = run("merge", snapshot, tmp_path / "lora.safetensors", "-o", tmp_path / "merged", "--verify")
    assert status == 0, errors
    merged = load_file(tmp_path / "merged" / "unet" / "diffusion_pytorch_model.safetensors")
    before = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.allclose(merged[weight], before[weight] + 1)
    assert not any(path.is_symlink() for path in (tmp_path / "merged").rglob("*"))
    status, _, errors = run("extract", snapshot, tmp_path / "merged", "-o", tmp_path / "x.safetensors", "--rank", 1)
    assert status == 0, errors
    save_file(load_file(tmp_path / "lora.safetensors"), folder / "style.safetensors")
    snapshot = as_cache(folder, tmp_path / "hub2")
    status, out, _ = run(
        "batch", "kohya", snapshot / "style.safetensors", snapshot, "-o", tmp_path / "o", "--family", "sd1"
    )
    assert "1 done" in out and "follow-links" not in out
    (snapshot / "secret.json").symlink_to(tmp_path / "lora.safetensors")
    assert "link out of the folder" in run("merge", snapshot, tmp_path / "lora.safetensors", "-o", tmp_path / "m")[2]


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
def test_folders_with_one_variant_alone(variant, model_folder, run, tmp_path):
    folder, _ = model_folder
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    assert run("merge", folder, tmp_path / "lora.safetensors", "-o", tmp_path / "merged", "--verify")[0] == 0
    assert (tmp_path / "merged" / "unet" / f"diffusion_pytorch_model.{variant}.safetensors").is_file()


def test_of_several_forms_of_the_weights_one_is_merged_and_no_other_is_kept(model_folder, run, tmp_path):
    """An fp16 variant without the LoRA, in a folder that is called merged, would be used by whoever asks for it."""
    folder, _ = model_folder
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.safetensors"):
        file.with_name(name).write_bytes(file.read_bytes())
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    status, _, errors = run("merge", folder, tmp_path / "lora.safetensors", "-o", tmp_path / "merged")
    assert status == 0 and errors.count("another form of weights that are merged") == 3
    assert sorted(path.name for path in (tmp_path / "merged" / "unet").iterdir()) == ["config.json", file.name]


FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FP8)
@pytest.mark.parametrize("other", [torch.float16, torch.bfloat16, torch.float32, *FP8])
def test_fp8_with_any_other_dtype_in_one_blend(dtype, other, lora, run, helpers, tmp_path):
    keys = helpers.some_keys("flux", every=200)
    for name, kind, seed in (("a", dtype, 0), ("b", other, 1)):
        lora("flux", f"{name}.safetensors", keys=keys, dtype=kind, seed=seed)
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    status, _, errors = run("blend", *files, "--weights", 1, -0.5, "-o", tmp_path / "c.safetensors", "--family", "flux")
    assert status == 0, errors
    first, second, blend = (helpers.deltas(load_file(file)) for file in (*files, tmp_path / "c.safetensors"))
    for key, found in blend.items():
        wanted = first[key] - 0.5 * second[key]
        assert (found - wanted).norm() <= 1e-6 * wanted.norm() + 1e-6, key


@pytest.mark.parametrize("dtype", FP8)
@pytest.mark.parametrize("verb", ["kohya", "a1111", "diffusers", "peft", "pair", "official", "resize"])
def test_every_verb_takes_fp8(dtype, verb, lora, run, tmp_path):
    keys = [f"lora_unet_double_blocks_0_{part}" for part in ("img_attn_qkv", "txt_attn_proj")]
    source = lora("flux", keys=keys, dtype=dtype)
    target = tmp_path / ("out" if verb in ("peft", "official") else "out.safetensors")
    arguments = {"resize": ["--rank", 1], "pair": []}.get(verb, ["--verify"])
    status, _, errors = run(verb, source, "-o", target, "--family", "flux", *arguments)
    assert status == 0, errors


@pytest.mark.parametrize("channels, words", [(9, "an inpainting model"), (8, "more than a prompt"), (5, "more than")])
def test_models_that_read_more_than_latents_are_not_trained(channels, words, tmp_path):
    """Whatever the number of latents is; the project's own model has another than Stable Diffusion."""
    import json
    import shutil
    from pathlib import Path

    from pair_network.errors import PairError
    from pair_network.training.hosts.embedded.model_files import check_model_folder

    own = Path(__file__).parents[2] / "demo" / "model"
    if not own.is_dir():
        pytest.skip("the project's model is not part of this copy (demo/model)")
    check_model_folder(own)
    shutil.copytree(own, tmp_path / "model")
    for part, key, count in (("vae", "latent_channels", 4), ("unet", "in_channels", channels)):
        file = tmp_path / "model" / part / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), key: count}))
    with pytest.raises(PairError, match=words):
        check_model_folder(tmp_path / "model")
