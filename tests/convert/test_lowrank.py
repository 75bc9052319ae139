"""Blend, resize, merge and extract against dense arithmetic."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from convert.verbs.lowrank import dense_factors, factored, rank_for_energy, ranks_for_size, truncated


def layer(out=12, width=9, rank=5, scale=0.5, seed=0):
    from convert.files.lazy import from_tensor
    from convert.formats.layers import Layer

    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator)
    return Layer(("unet.x",), from_tensor(down), from_tensor(up), scale * rank)


def dense(value):
    return value.scale * value.up.load().double() @ value.down.load().double()


def test_truncation_is_the_best_approximation():
    """Eckart–Young: the error is that of the dense SVD, and no other matrix of the rank does better."""
    full = layer()
    singular = torch.linalg.svdvals(dense(full))
    for rank in (1, 3, 5, 9):
        short = truncated(full, rank, torch.float64)
        error = (dense(short) - dense(full)).norm()
        assert error == pytest.approx(float(singular[rank:].norm()), abs=1e-6) and short.rank == min(rank, 5)
        gram = short.down.load() @ short.down.load().T
        assert torch.allclose(gram, torch.eye(short.rank, dtype=torch.float64), atol=1e-9)


@settings(max_examples=50)
@given(seed=st.integers(0, 1000), energy=st.floats(0.01, 1.0))
def test_energy_is_kept_and_no_rank_is_wasted(seed, energy):
    values = factored(layer(seed=seed)).values
    rank = rank_for_energy(values, energy)
    share = values.square().cumsum(0) / values.square().sum()
    assert share[rank - 1] >= energy - 1e-9 and (rank == 1 or share[rank - 2] < energy)


@settings(max_examples=50)
@given(seed=st.integers(0, 1000), budget=st.integers(60, 400))
def test_size_is_kept_and_the_best_ranks_are_chosen(seed, budget):
    generator = torch.Generator().manual_seed(seed)
    spectra = [torch.rand(6, generator=generator).sort(descending=True).values for _ in range(3)]
    widths = [10, 20, 30]
    ranks = ranks_for_size(spectra, widths, budget)
    spent = sum(rank * width for rank, width in zip(ranks, widths, strict=True))
    assert spent <= budget and min(ranks) >= 1
    # No affordable rank is left over.
    assert all(rank == 6 or spent + width > budget for rank, width in zip(ranks, widths, strict=True))


def test_randomised_factors_equal_the_dense_ones():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(200, 6, generator=generator) @ torch.randn(6, 150, generator=generator)
    parts = dense_factors(matrix, 8, generator)
    assert torch.allclose(parts.left * parts.values @ parts.right, matrix, atol=1e-3)
    assert torch.allclose(parts.values[:6], torch.linalg.svdvals(matrix)[:6], rtol=1e-4)


@pytest.fixture
def two(lora, helpers):
    keys = helpers.some_keys("sd1", every=40)
    return lora("sd1", "a.safetensors", keys=keys, seed=1), lora("sd1", "b.safetensors", keys=keys[3:], seed=2)


def test_blend_is_the_weighted_sum(two, run, helpers, tmp_path):
    """Layers that only one file has count with that file's weight alone."""
    target = tmp_path / "blend.safetensors"
    assert run("blend", *two, "--weights", 0.7, -0.4, "-o", target)[0] == 0
    first, second = (helpers.deltas(load_file(path)) for path in two)
    found = helpers.deltas(load_file(target))
    for key, delta in first.items():
        wanted = 0.7 * delta - 0.4 * second.get(key, torch.zeros_like(delta))
        assert (found[key] - wanted).norm() <= 1e-6 * wanted.norm()


def test_reduced_blend_reports_its_error(two, run, helpers, tmp_path):
    target = tmp_path / "blend.safetensors"
    _, out, _ = run("blend", *two, "--rank", 2, "-o", target)
    first, second = (helpers.deltas(load_file(path)) for path in two)
    found = helpers.deltas(load_file(target))
    wanted = {key: delta + second.get(key, torch.zeros_like(delta)) for key, delta in first.items()}
    error = sum(float((found[k] - w).square().sum()) for k, w in wanted.items()) ** 0.5
    total = sum(float(w.square().sum()) for w in wanted.values()) ** 0.5
    assert float(out.split()[-1]) == pytest.approx(error / total, abs=1e-4) and error > 0


@pytest.mark.parametrize("how", [("--rank", 1), ("--energy", 0.5), ("--size", 0.09)])
def test_resize_reports_its_error_and_keeps_to_the_limit(how, lora, run, helpers, tmp_path):
    source, target = lora("sd1", keys=helpers.some_keys("sd1", every=40)), tmp_path / "small.safetensors"
    status, out, errors = run("resize", source, *how, "-o", target)
    assert status == 0, errors
    wanted, found = helpers.deltas(load_file(source)), helpers.deltas(load_file(target))
    error = sum(float((found[k] - w).square().sum()) for k, w in wanted.items()) ** 0.5
    total = sum(float(w.square().sum()) for w in wanted.values()) ** 0.5
    assert float(out.splitlines()[0].split()[-1]) == pytest.approx(error / total, abs=1e-4)
    if how[0] == "--size":
        assert target.stat().st_size <= 0.09e6
    if how[0] == "--energy":
        assert error / total <= 0.5**0.5


def test_impossible_sizes_are_refused(lora, run, helpers):
    source = lora("sd1", keys=helpers.some_keys("sd1", every=40))
    for how in (("--size", 0.001), ("--rank", 0), ("--energy", 2)):
        status, _, errors = run("resize", source, *how)
        assert status == 1 and how[0] in errors


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3", "flux"])
def test_merge_adds_the_dense_deltas(family, lora, run, helpers, tmp_path):
    """By the original names themselves: kohya's key is the checkpoint's with underscores, where it is native."""
    tensors = helpers.base_checkpoint(family)
    save_file(tensors, tmp_path / "base.safetensors", {"title": "base"})
    keys = [key for key in helpers.some_keys(family, every=30) if key.startswith("lora_unet")]
    source = lora(family, keys=keys)
    target = tmp_path / "merged.safetensors"
    status, _, errors = run("merge", tmp_path / "base.safetensors", source, "--weights", 0.6, "-o", target,
                         "--verify")  # fmt: skip
    assert status == 0, errors
    from convert.formats.families import FAMILIES
    from convert.formats.names import names_of

    names = names_of(FAMILIES[family])
    deltas = {names[key].modules: delta for key, delta in helpers.deltas(load_file(source)).items()}
    merged, touched = load_file(target), 0
    for key, weight in tensors.items():
        path = "lora_unet_" + key.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_")
        delta = deltas.get(names[path].modules) if key.endswith(".weight") and path in names else None
        if delta is None:
            assert torch.equal(merged[key], weight), key
        else:
            wanted = weight.double() + 0.6 * delta.reshape(weight.shape)
            assert (merged[key] - wanted).abs().max() < 1e-5, key
            touched += 1
    assert touched == len(keys)


def test_merge_of_text_encoders_with_joint_projections(lora, run, helpers, tmp_path):
    """SDXL's second text encoder keeps q, k and v in one in_proj_weight."""
    save_file(helpers.base_checkpoint("sdxl", encoders=True), tmp_path / "base.safetensors")
    keys = [f"lora_te2_text_model_encoder_layers_3_self_attn_{p}_proj" for p in ("q", "v")]
    source = lora("sdxl", keys=keys)
    assert run("merge", tmp_path / "base.safetensors", source, "-o", tmp_path / "m.safetensors")[0] == 0
    key = "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight"
    change = load_file(tmp_path / "m.safetensors")[key] - load_file(tmp_path / "base.safetensors")[key]
    q, v = helpers.deltas(load_file(source)).values()
    assert torch.allclose(change.double(), torch.cat([q, torch.zeros_like(q), v]), atol=1e-5)


def test_merge_says_what_is_missing(lora, run, helpers, tmp_path):
    save_file(helpers.base_checkpoint("sd1"), tmp_path / "base.safetensors")
    keys = helpers.some_keys("sd1", every=60)
    source, target = lora("sd1", keys=keys), tmp_path / "m.safetensors"
    status, _, errors = run("merge", tmp_path / "base.safetensors", source, "-o", target)
    assert status == 1 and "--skip-missing" in errors and not target.exists()
    assert run("merge", tmp_path / "base.safetensors", source, "-o", target, "--skip-missing")[0] == 0
    other = lora("sdxl", "xl.safetensors", keys=["lora_unet_middle_block_1_transformer_blocks_9_ff_net_2"])
    assert "is for SDXL" in run("merge", tmp_path / "base.safetensors", other, "-o", target, "--overwrite")[2]


def test_merge_into_a_diffusers_folder(unet, run, tmp_path, perturb, text_encoder):
    """The merged folder's U-Net equals the trainer's own merge; other files are copied."""
    from diffusers import UNet2DConditionModel

    from pair_network import create_network

    network = perturb(create_network(1.0, 4, 2.0, None, None, unet, targets="attention+ff+conv"))
    network.save_weights(str(tmp_path / "lora.safetensors"), None, {"ss_base_model_version": "sd_v1"})
    unet.save_pretrained(tmp_path / "model" / "unet")
    (tmp_path / "model" / "model_index.json").write_text("{}")
    status, _, errors = run("merge", tmp_path / "model", tmp_path / "lora.safetensors", "-o", tmp_path / "merged")
    assert status == 0, errors
    network.merge_to(None, unet)
    merged = UNet2DConditionModel.from_pretrained(tmp_path / "merged" / "unet").state_dict()
    assert all(torch.allclose(merged[key], weight, atol=1e-6) for key, weight in unet.state_dict().items())
    assert (tmp_path / "merged" / "model_index.json").read_text() == "{}"
    (tmp_path / "model" / "link.json").symlink_to(tmp_path / "lora.safetensors")
    assert (
        "link out of the folder"
        in run("merge", tmp_path / "model", tmp_path / "lora.safetensors", "-o", tmp_path / "m2")[2]
    )
    assert not (tmp_path / "m2").exists()


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_extract_finds_what_was_merged(family, lora, run, helpers, tmp_path):
    """A checkpoint with a LoRA merged in gives that LoRA's deltas back, in layers of its own rank."""
    save_file(helpers.base_checkpoint(family), tmp_path / "base.safetensors")
    keys = [key for key in helpers.some_keys(family, every=60) if key.startswith("lora_unet")]
    source = lora(family, keys=keys)
    assert run("merge", tmp_path / "base.safetensors", source, "-o", tmp_path / "m.safetensors")[0] == 0
    status, out, errors = run("extract", tmp_path / "base.safetensors", tmp_path / "m.safetensors", "--rank", 4,
                              "--energy", 0.999999, "--dtype", "fp32", "-o", tmp_path / "x.safetensors",
                              "--verify")  # fmt: skip
    assert status == 0, errors
    helpers.assert_same_deltas(load_file(source), load_file(tmp_path / "x.safetensors"), 2e-3)
    metadata = json.loads(run("info", tmp_path / "x.safetensors", "--json", "--family", family)[1])[0]
    assert metadata["family"] == family and float(out.split()[-1]) < 2e-3


def test_extract_of_equal_models_is_refused(helpers, run, tmp_path):
    for name in ("a", "b"):
        save_file(helpers.base_checkpoint("sd1"), tmp_path / f"{name}.safetensors")
    errors = run("extract", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-o", tmp_path / "x.safetensors")[2]
    assert "differs" in errors and not (tmp_path / "x.safetensors").exists()
