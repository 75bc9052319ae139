"""Every format into every other and back, in the layouts of all families: nothing is lost."""

from itertools import product

import pytest
import torch
from safetensors.torch import save_file

FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "flux")
FORMATS = ("kohya", "diffusers-lora", "peft", "pair", "a1111-diffusers")
ARGUMENTS = {
    "diffusers-lora": ("diffusers", "--syntax", "lora"),
    "a1111-diffusers": ("a1111", "--naming", "diffusers", "--no-card"),
    "a1111": ("a1111", "--no-card"),
}


@pytest.fixture
def convert(run, tmp_path):
    """Function: converts a file and returns the path of the result."""
    count = iter(range(1000))

    def call(source, name, *more, family=None):
        verb, *options = ARGUMENTS.get(name, (name,))
        ending = {"peft": "", "official": "", "pair": ".pair.safetensors"}.get(verb, ".safetensors")
        target = tmp_path / f"out{next(count)}{ending}"
        options += ["--family", family] if family else []
        status, _, errors = run(verb, source, "-o", target, "--verify", *options, *more)
        assert status == 0, errors
        return target

    return call


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_survives_every_format(family, lora, convert, helpers):
    """All names of a family, ranks and alphas mixed: there and back, each delta equal to 1e-6."""
    source = lora(family)
    for name in ("diffusers", "peft", "pair"):
        back = helpers.load(convert(convert(source, name), "kohya"))
        helpers.assert_same_deltas(helpers.load(source), back)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pair_of_formats(family, lora, convert, helpers):
    """kohya → X → Y → kohya for all X and Y; the family is given, as U-Net names alone cannot always tell it."""
    source = lora(family, keys=helpers.some_keys(family, every=80))
    original = helpers.load(source)
    firsts = {name: convert(source, name, family=family) for name in FORMATS}
    for first, second in product(FORMATS, FORMATS):
        back = convert(convert(firsts[first], second, family=family), "kohya", family=family)
        helpers.assert_same_deltas(original, helpers.load(back))


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_every_pair_of_formats_with_the_official_release(family, lora, convert, helpers):
    """The layers that a release can hold, through it and every other format, in both orders."""
    source = lora(family, keys=official_keys(family))
    tensors = helpers.load(source)
    for key in tensors:
        if key.endswith("linear1.lora_up.weight"):
            tensors[key][3 * helpers.HIDDEN :] = 0  # xflux has no place for the rows of the mlp
    save_file(tensors, source)
    names = ("official", *FORMATS)
    firsts = {name: convert(source, name, family=family) for name in names}
    for first, second in product(names, names):
        if "official" in (first, second):
            back = convert(convert(firsts[first], second, family=family), "kohya", family=family)
            helpers.assert_same_deltas(tensors, helpers.load(back))


def official_keys(family):
    """Layers of a release: SDXL's attention; whole blocks of FLUX, as xflux writes all layers of a block."""
    if family == "sdxl":
        parts = [f"{attention}_{part}" for attention in ("attn1", "attn2") for part in ("to_q", "to_v", "to_out_0")]
        blocks = ("input_blocks_4_1_transformer_blocks_1", "middle_block_1_transformer_blocks_9")
        return [f"lora_unet_{block}_{part}" for block in blocks for part in parts]
    streams = [f"{stream}_attn_{part}" for stream in ("img", "txt") for part in ("qkv", "proj")]
    double = [f"lora_unet_double_blocks_{number}_{part}" for number in (0, 18) for part in streams]
    return [*double, *(f"lora_unet_single_blocks_{number}_linear{part}" for number in (0, 37) for part in (1, 2))]


def test_the_comparison_can_fail(lora, helpers):
    tensors = helpers.load(lora("sd1", keys=helpers.some_keys("sd1")))
    changed = dict(tensors)
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    changed[key] = tensors[key] * (1 + 1e-4)
    with pytest.raises(AssertionError):
        helpers.assert_same_deltas(tensors, changed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["peft", "pair", "a1111", "diffusers"])
def test_no_bit_changes_where_no_arithmetic_is_needed(family, dtype, name, lora, convert, helpers):
    """With alpha = rank nothing has to be computed; peft, pair and a1111 keep alpha itself, whatever it is."""
    plain = {"rank": 4, "alpha": 4} if name == "diffusers" else {}
    source = lora(family, keys=helpers.some_keys(family, every=80), dtype=dtype, **plain)
    original, back = helpers.load(source), helpers.load(convert(convert(source, name), "kohya"))
    assert original.keys() == back.keys()
    for key, tensor in original.items():
        assert torch.equal(back[key], tensor) and back[key].dtype == tensor.dtype, key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_folding_alpha_into_halves_loses_nothing(dtype, lora, convert, helpers):
    """alpha / rank = 1/3 has no short binary form: the up must become float32, or the 1e-6 would not hold."""
    source = lora("sd1", keys=helpers.some_keys("sd1"), dtype=dtype, rank=3, alpha=1)
    converted = helpers.load(convert(source, "diffusers"))
    assert {t.dtype for key, t in converted.items() if "lora_B" in key} == {torch.float32}
    assert {t.dtype for key, t in converted.items() if "lora_A" in key} == {dtype}


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_official_release_and_back(family, lora, convert, helpers):
    """The release's attention layers: exported, read again by file, and equal."""
    ends = ("to_q", "to_k", "to_v", "to_out_0") if family == "sdxl" else ("attn_qkv", "attn_proj", "linear2")
    keys = [key for key in helpers.some_keys(family, every=20) if "lora_unet" in key and key.endswith(ends)]
    source = lora(family, keys=keys, rank=4)
    folder = convert(source, "official")
    name = "style_weights/pytorch_lora_weights.safetensors" if family == "sdxl" else "style_lora.safetensors"
    exported = helpers.load(folder / name)
    if family == "sdxl":
        assert all(key.startswith("unet.") and ".lora." in key for key in exported)
    back = helpers.load(convert(folder / name, "kohya"))
    wanted, found = helpers.deltas(helpers.load(source)), helpers.deltas(back)
    for key, delta in found.items():
        # xflux loads whole blocks, so layers that the source lacks are there, as zeros.
        expected = wanted.get(key, torch.zeros_like(delta))
        assert (delta - expected).norm() <= 1e-6 * max(float(expected.norm()), 1e-9), key
    assert wanted.keys() <= found.keys()


def test_official_flux_pads_mixed_ranks(lora, convert, helpers):
    """The release reads one rank from the first tensor and builds every layer with it."""
    keys = [f"lora_unet_double_blocks_0_{s}_attn_{p}" for s in ("img", "txt") for p in ("qkv", "proj")]
    folder = convert(lora("flux", keys=keys), "official")
    exported = helpers.load(folder / "style_lora.safetensors")
    assert {t.shape[0] for key, t in exported.items() if key.endswith("down.weight")} == {4}


def test_xflux_single_blocks_leave_the_mlp_alone(tmp_path, convert, helpers):
    """xflux's qkv of a single block is the first three quarters of attention in linear1; its mlp rows stay zero."""
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 8, generator=generator), torch.randn(24, 2, generator=generator)
    name = "single_blocks.0.processor.qkv_lora"
    save_file({f"{name}.down.weight": down, f"{name}.up.weight": up}, tmp_path / "x.safetensors")
    found = helpers.load(convert(tmp_path / "x.safetensors", "kohya"))
    key = "lora_unet_single_blocks_0_linear1"
    assert torch.equal(found[f"{key}.lora_up.weight"][:24], up) and not found[f"{key}.lora_up.weight"][24:].any()
    assert torch.equal(found[f"{key}.lora_down.weight"], down) and found[f"{key}.lora_up.weight"].shape == (56, 2)


def test_separate_projections_are_joined_exactly(tmp_path, convert, helpers):
    """q, k and v with downs of their own become one layer of three times the rank, block by block."""
    generator = torch.Generator().manual_seed(0)
    tensors, deltas = {}, []
    for part in ("to_q", "to_k", "to_v"):
        down, up = torch.randn(2, 8, generator=generator), torch.randn(8, 2, generator=generator)
        name = f"transformer.transformer_blocks.3.attn.{part}"
        tensors.update({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up})
        deltas.append(up.double() @ down.double())
    save_file(tensors, tmp_path / "x.safetensors")
    for family, key in (("flux", "double_blocks_3_img_attn_qkv"), ("sd3", "joint_blocks_3_x_block_attn_qkv")):
        found = helpers.load(convert(tmp_path / "x.safetensors", "kohya", family=family))
        assert found[f"lora_unet_{key}.lora_down.weight"].shape == (6, 8)
        assert torch.equal(helpers.deltas(found)[f"lora_unet_{key}"], torch.cat(deltas))


def test_the_last_blocks_modulation_swaps_its_halves(lora, convert, helpers):
    """SD3's last context block and both final layers: (shift, scale) there is (scale, shift) in diffusers."""
    source = lora("flux", keys=["lora_unet_final_layer_adaLN_modulation_1"], rank=2, alpha=2)
    up = helpers.load(source)["lora_unet_final_layer_adaLN_modulation_1.lora_up.weight"]
    found = helpers.load(convert(source, "diffusers"))["transformer.norm_out.linear.lora_B.weight"]
    assert torch.equal(found, torch.cat([up[8:], up[:8]]))


def test_branches_of_a_coupled_checkpoint(lora, convert, helpers, tmp_path):
    """style, content and both: the deltas are the branches' own, and their sum."""
    keys = helpers.some_keys("sd1")
    style, content = lora("sd1", keys=keys), [lora("sd1", f"c{i}.safetensors", keys=keys, seed=i) for i in (1, 2)]
    pair = convert(style, "pair", "--content", content[0], "--content", content[1])
    first, second = (helpers.deltas(helpers.load(path)) for path in content)
    for index, wanted in enumerate((first, second)):
        found = helpers.deltas(helpers.load(convert(pair, "kohya", "--branch", "content", "--pair", index)))
        assert all(torch.allclose(found[key], wanted[key], rtol=0, atol=1e-5) for key in wanted)
    both = helpers.deltas(helpers.load(convert(pair, "kohya", "--branch", "both")))
    alone = helpers.deltas(helpers.load(style))
    assert all(torch.allclose(both[key], alone[key] + first[key], rtol=0, atol=1e-5) for key in alone)


def test_lora_adapter_metadata_gives_the_scale(tmp_path, helpers):
    """diffusers keeps alpha in one metadata entry; ignoring it would change every delta."""
    import json

    from convert.formats.read import read_adapter

    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1."
    tensors = {f"{name}{part}.lora_{ab}.weight": torch.ones(2, 2) for part in ("to_q", "to_k") for ab in "AB"}
    settings = {"unet.r": 2, "unet.lora_alpha": 8, "unet.alpha_pattern": {name[5:] + "to_k": 1}}
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    style = read_adapter(tmp_path / "x.safetensors").style
    assert {layer.modules[0].rpartition(".")[2]: layer.scale for layer in style.values()} == {"to_q": 4.0, "to_k": 0.5}


def test_verification_notices_a_changed_layer(lora, convert, helpers, tmp_path):
    from convert import verify
    from convert.options import OfBranch
    from pair_network.errors import PairError

    source = lora("sd1", keys=helpers.some_keys("sd1"))
    target = convert(source, "kohya")
    tensors = helpers.load(target)
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    save_file({**tensors, key: tensors[key] * 1.001}, target)
    with pytest.raises(PairError, match="verification failed"):
        verify.same(source, target, OfBranch(family="sd1"))
