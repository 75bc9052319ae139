"""Tensors beside the LoRA: carried where there is a place, named, left out on request; never a reason to give up."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

KEY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
OTHER = "lora_unet_mid_block_attentions_0_proj_out"
EMBEDDINGS = {"bundle_emb.ink <1>.clip_l": torch.ones(2, 768), "bundle_emb.b.string_to_param.*": torch.ones(1, 768)}


def plain(key=KEY, seed=0, width=8, rank=2, alpha=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{key}.lora_down.weight": torch.randn(rank, width, generator=generator),
        f"{key}.lora_up.weight": torch.randn(width, rank, generator=generator),
        f"{key}.alpha": torch.tensor(alpha),
    }


@pytest.fixture
def source(tmp_path):
    def write(*parts, name="in.safetensors"):
        tensors = {key: value for part in (plain(), *parts) for key, value in part.items()}
        save_file(tensors, tmp_path / name, {"ss_base_model_version": "sd_v1"})
        return tmp_path / name

    return write


@pytest.mark.parametrize("arguments", [("kohya",), ("a1111", "--no-card")])
def test_bundled_embeddings_go_along_where_a1111_reads_them(arguments, source, run, tmp_path):
    verb, *rest = arguments
    status, _, errors = run(verb, source(EMBEDDINGS), "-o", tmp_path / "out.safetensors", "--verify", *rest)
    written = load_file(tmp_path / "out.safetensors")
    assert status == 0 and not errors
    assert all(torch.equal(written[key], value) for key, value in EMBEDDINGS.items()) and len(written) == 5


@pytest.mark.parametrize("arguments", [("diffusers",), ("a1111", "--ui", "comfyui"), ("peft",), ("pair",)])
def test_elsewhere_they_are_left_out_and_named(arguments, source, run, tmp_path):
    verb, *rest = arguments
    target = tmp_path / ("out" if verb == "peft" else "out.pair.safetensors")
    status, _, errors = run(verb, source(EMBEDDINGS), "-o", target, *rest)
    assert status == 0 and errors.startswith("note: ") and "2 bundled embeddings" in errors
    files = [target] if target.is_file() else list(target.rglob("*.safetensors"))
    assert files and not any("bundle_emb" in key for file in files for key in load_file(file))


def test_lycoris_differences_go_along_under_kohyas_names(source, run, tmp_path):
    extra = {
        "lora_unet_mid_block_resnets_0_norm1.w_norm": torch.randn(8),
        "lora_unet_mid_block_resnets_0_norm1.b_norm": torch.randn(8),
        f"{KEY}.diff_b": torch.randn(8),
    }
    path, target = source(extra), tmp_path / "out.safetensors"
    assert run("a1111", path, "-o", target, "--strength", "0.5", "--no-card")[0] == 0
    written = load_file(target)
    for key, value in extra.items():
        assert torch.allclose(written[key], 0.5 * value), "a difference is scaled as the layers are"
    status, _, errors = run("diffusers", path, "-o", tmp_path / "d.safetensors")
    assert status == 1 and "3 differences" in errors and "--skip-unknown" in errors
    status, _, errors = run("diffusers", path, "-o", tmp_path / "d.safetensors", "--skip-unknown")
    assert status == 0 and "2 norm differences" in errors and "1 full difference" in errors
    assert len(load_file(tmp_path / "d.safetensors")) == 2


STRANGERS = {
    "DoRA": {f"{OTHER}.dora_scale": torch.ones(8, 1), **plain(OTHER, 1)},
    "PEFT's DoRA": {f"{OTHER}.lora_magnitude_vector.default.weight": torch.ones(8), **plain(OTHER, 1)},
    "LoHa": {f"{OTHER}.hada_w{i}_{part}": torch.ones(2, 8) for i in (1, 2) for part in "ab"},
    "LoKr": {f"{OTHER}.lokr_w1": torch.ones(2, 2), f"{OTHER}.lokr_w2": torch.ones(4, 4)},
    "OFT": {f"{OTHER}.oft_blocks": torch.ones(2, 4, 4)},
    "GLoRA": {f"{OTHER}.a1.weight": torch.ones(2, 4)},
    "IA3": {f"{OTHER}.on_input": torch.ones(1)},
    "an unknown layer": plain("lora_unet_nowhere", 2),
    "an unknown tensor": {"something.else": torch.ones(3)},
    "PEFT's LoRA bias": {f"{KEY}.lora_B.bias": torch.ones(8)},
    "a full weight": {"unet.conv_in.set_weight": torch.ones(3)},
}


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("verb", ["a1111", "kohya", "diffusers", "peft", "pair", "merge"])
def test_what_is_no_plain_lora_is_left_out_on_request_and_only_then(kind, verb, source, run, tmp_path, helpers):
    path, target = source(STRANGERS[kind]), tmp_path / ("out" if verb == "peft" else "out.safetensors")
    arguments = [path, "-o", target]
    if verb == "merge":
        save_file(helpers.base_checkpoint("sd1"), tmp_path / "m.safetensors")
        arguments = [tmp_path / "m.safetensors", *arguments]
    if verb == "pair":
        target = arguments[-1] = tmp_path / "out.pair.safetensors"
    status, _, errors = run(verb, *arguments)
    assert status == 1 and "--skip-unknown" in errors and len(errors.splitlines()) == 1 and not target.exists()
    if verb == "merge":
        return  # the widths of the test's checkpoint are its own
    status, _, errors = run(verb, *arguments, "--skip-unknown")
    assert status == 0 and errors.startswith("note: ") and "in.safetensors: left out: " in errors
    files = [target] if target.is_file() else list(target.rglob("*.safetensors"))
    keys = [key for file in files for key in load_file(file) if not key.startswith("content.")]
    assert len(keys) == (3 if verb in ("a1111", "kohya", "pair") else 2), keys


def test_a_layer_that_another_method_changes_is_no_plain_layer(source, run, tmp_path):
    """DoRA's factors without its magnitudes are another change; they go with them."""
    run("kohya", source(STRANGERS["DoRA"]), "-o", tmp_path / "out.safetensors", "--skip-unknown")
    assert not any(key.startswith(OTHER) for key in load_file(tmp_path / "out.safetensors"))


def test_a_lora_of_another_model_is_not_cut_to_the_few_names_that_fit(source, run, tmp_path):
    strange = {k: v for n in range(9) for k, v in plain(f"lora_unet_blocks_{n}_cross_attn_k").items()}
    status, _, errors = run("kohya", source(strange), "-o", tmp_path / "out.safetensors", "--skip-unknown")
    assert status == 1 and "for another model" in errors and not (tmp_path / "out.safetensors").exists()


def test_a_file_of_another_method_alone_stays_refused(run, tmp_path):
    save_file(STRANGERS["LoKr"], tmp_path / "lokr.safetensors")
    for arguments in ((), ("--skip-unknown",)):
        errors = run("kohya", tmp_path / "lokr.safetensors", *arguments)[2]
        assert "LoKr" in errors and len(errors.splitlines()) == 1


def test_info_names_what_stands_beside_the_layers(source, run):
    path = source(EMBEDDINGS, STRANGERS["LoHa"], {"odd.thing": torch.ones(1)})
    out = run("info", path)[1]
    assert "bundled embedding (2)" in out and "LoHa (4)" in out and "odd.thing" in out
    report = json.loads(run("info", path, "--json")[1])[0]
    assert report["beside"] == {"bundled embedding": 2, "LoHa": 4} and report["unknown"]["tensors"] == 1


def test_errors_of_info_go_to_stderr(source, run, tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "bad.safetensors")
    status, out, errors = run("info", tmp_path / "bad.safetensors", source())
    assert status == 1 and errors.startswith("error: ") and "bad.safetensors" in errors and "error:" not in out
    reports = json.loads(run("info", tmp_path / "bad.safetensors", "--json")[1])
    assert "holds no LoRA layers" in reports[0]["error"]


def test_a_batch_keeps_what_was_left_out_in_its_log(source, run, tmp_path):
    (tmp_path / "many").mkdir()
    for name in ("a", "b"):
        source(EMBEDDINGS, name=f"many/{name}.safetensors")
    status, out, _ = run("batch", "diffusers", tmp_path / "many", "-o", tmp_path / "out", "--jobs", "1")
    records = json.loads((tmp_path / "out" / "convert-batch.json").read_text())
    assert status == 0 and all("2 bundled embeddings" in record["notes"][0] for record in records)
    assert "2 with notes" in out


CP_KEY = "lora_unet_mid_block_resnets_0_conv1"


def cp_layer(dtype=torch.float32, rank=3):
    generator = torch.Generator().manual_seed(4)
    return {
        f"{CP_KEY}.lora_down.weight": torch.randn(rank, 5, 1, 1, generator=generator).to(dtype),
        f"{CP_KEY}.lora_mid.weight": torch.randn(rank, rank, 3, 3, generator=generator).to(dtype),
        f"{CP_KEY}.lora_up.weight": torch.randn(7, rank, 1, 1, generator=generator).to(dtype),
        f"{CP_KEY}.alpha": torch.tensor(1.5),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_cp_decomposed_convolution_is_folded_exactly(dtype, run, tmp_path):
    """Three convolutions in a row, as LyCORIS runs them, against the one pair that is written."""
    tensors = cp_layer(dtype)
    save_file(tensors, tmp_path / "cp.safetensors", {"ss_base_model_version": "sd_v1"})
    assert run("kohya", tmp_path / "cp.safetensors", "-o", tmp_path / "out.safetensors", "--verify")[0] == 0
    written = load_file(tmp_path / "out.safetensors")
    down, up = (written[f"{CP_KEY}.lora_{part}.weight"].double() for part in ("down", "up"))
    assert down.shape == (3, 5, 3, 3)
    picture = torch.randn(2, 5, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    convolve = torch.nn.functional.conv2d
    first, middle, last = (tensors[f"{CP_KEY}.lora_{part}.weight"].double() for part in ("down", "mid", "up"))
    wanted = convolve(convolve(convolve(picture, first), middle, padding=1), last) * 1.5 / 3
    found = convolve(convolve(picture, down, padding=1), up) * float(written[f"{CP_KEY}.alpha"]) / 3
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6


def test_decomposed_kernels_that_do_not_fit_are_refused(run, tmp_path):
    save_file({**cp_layer(), f"{CP_KEY}.lora_mid.weight": torch.ones(2, 3, 3, 3)}, tmp_path / "cp.safetensors")
    assert "CP-decomposed" in run("kohya", tmp_path / "cp.safetensors", "--family", "sd1")[2]
