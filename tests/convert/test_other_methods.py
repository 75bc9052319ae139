"""Adapters whose change is not scale · B · A: named by their tensors, and never cut to two of their factors."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
ONE = torch.ones(4, 4)


def factors(name, ends=("lora_A.weight", "lora_B.weight"), dtype=torch.float32):
    return {f"{name}.{ends[0]}": torch.full((2, 768), 0.5).to(dtype), f"{name}.{ends[1]}": torch.ones(320, 2).to(dtype)}


def kohya(name, dtype=torch.float32):
    return factors(name, ("lora_down.weight", "lora_up.weight"), dtype)


ALONE = {
    "LoHa, Tucker": ({f"{KEY}.hada_t1": torch.ones(2, 2, 3, 3), f"{KEY}.hada_w1_a": ONE}, "LoHa"),
    "LoKr of full rank": ({f"{KEY}.lokr_w1": ONE, f"{KEY}.lokr_w2": ONE, f"{KEY}.alpha": torch.tensor(9999.0)}, "LoKr"),
    "LyCORIS' OFT": ({f"{KEY}.oft_diag": ONE, f"{KEY}.alpha": torch.tensor(1.0)}, "OFT"),
    "LyCORIS' BOFT": ({f"{KEY}.oft_blocks": ONE, f"{KEY}.rescale": torch.ones(320, 1)}, "OFT"),
    "OneTrainer's OFT": ({f"{LAYER}.oft_R.weight": ONE, f"{LAYER}.oft_R.scaled_oft": torch.ones(1)}, "OFT"),
    "PEFT's BOFT": ({f"{LAYER}.boft_R": ONE, f"{LAYER}.boft_s": torch.ones(320, 1)}, "OFT"),
    "VeRA": ({f"{LAYER}.vera_lambda_b": torch.ones(320), "vera_A": ONE}, "another method of PEFT"),
    "HRA": ({f"{LAYER}.hra_u": ONE}, "another method of PEFT"),
    "FourierFT": ({f"{LAYER}.fourierft_spectrum": torch.ones(9)}, "another method of PEFT"),
    "RandLoRA": ({f"{LAYER}.randlora_lambda.default": ONE}, "another method of PEFT"),
    "C3A": ({f"{LAYER}.c3a_kernel": ONE}, "another method of PEFT"),
    "MiSS": ({f"{LAYER}.miss_block": ONE}, "another method of PEFT"),
    "SHiRA": ({f"{LAYER}.shira_weight": ONE}, "another method of PEFT"),
    "GraLoRA": ({f"{LAYER}.gralora_A": ONE, f"{LAYER}.gralora_B": ONE}, "another method of PEFT"),
    "GLoRA": ({f"{KEY}.{part}.weight": ONE for part in ("a1", "a2", "b1", "b2")}, "GLoRA"),
    "sd-scripts' DoRA": ({**kohya(KEY), f"{KEY}.dora_scale": torch.ones(320, 1)}, "DoRA"),
    "DoRA of PEFT under kohya's prefix": (
        {**kohya(f"{KEY[:-5]}.to_k"), f"{KEY[:-5]}.to_k.lora_magnitude_vector": torch.ones(320)}, "DoRA",
    ),
    "rescaled LyCORIS": ({**kohya(KEY), f"{KEY}.scalar": torch.tensor(0.5)}, "a LyCORIS variant"),
    "AdaLoRA": (
        {**factors(LAYER), f"{LAYER}.lora_E": torch.ones(2, 1), f"{LAYER}.ranknum": torch.ones(1)}, "further factors",
    ),
    "LoRA-XS": ({**factors(LAYER), f"{LAYER}.lora_R.default.weight": torch.ones(2, 2)}, "further factors"),
}  # fmt: skip


@pytest.mark.parametrize("method", ALONE)
@pytest.mark.parametrize("verb", ["info", "a1111", "diffusers"])
def test_it_is_named_with_the_way_on_and_never_cut(method, verb, run, tmp_path):
    tensors, words = ALONE[method]
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "other.safetensors")
    for options in ((), ("--skip-unknown",)):
        target = () if verb == "info" else ("-o", tmp_path / "out.safetensors")
        status, _, errors = run(verb, tmp_path / "other.safetensors", *target, *options)
        assert status == 1 and words in errors and "use extract on the two models" in errors, errors
        assert len(errors.splitlines()) == 1 and "is it a checkpoint" not in errors
    assert [each.name for each in tmp_path.iterdir()] == ["other.safetensors"]


BESIDE = {
    "AdaLoRA's E": {f"{LAYER}.lora_E": torch.ones(2, 1)},
    "a core of LoRA-XS": {f"{LAYER}.lora_R.weight": torch.ones(2, 2)},
    "PEFT's diagonal": {f"{LAYER}.lora_diag.default": torch.ones(2)},
    "magnitudes": {f"{LAYER}.lora_magnitude_vector.my_style.weight": torch.ones(320)},
}


@pytest.mark.parametrize("what", BESIDE)
def test_a_layer_with_further_factors_is_left_out_as_a_whole(what, run, tmp_path):
    """B · A without the factor between them is another change, of any size."""
    other = LAYER.replace("to_k", "to_v")
    save_file({**factors(LAYER), **factors(other), **BESIDE[what]}, tmp_path / "in.safetensors")
    target = tmp_path / "out.safetensors"
    status, _, errors = run("kohya", tmp_path / "in.safetensors", "-o", target)
    assert status == 1 and "--skip-unknown" in errors and not target.exists()
    assert run("kohya", tmp_path / "in.safetensors", "-o", target, "--skip-unknown")[0] == 0
    assert {key.partition(".")[0] for key in load_file(target)} == {KEY[:-1] + "v"}
    report = json.loads(run("info", tmp_path / "in.safetensors", "--json")[1])[0]
    assert report["layers"] == 1 and sum(report["beside"].values()) == 1


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32])
def test_factors_that_are_whole_numbers_are_refused_by_their_type(dtype, run, tmp_path):
    save_file(kohya(KEY, dtype), tmp_path / "in.safetensors")
    errors = run("kohya", tmp_path / "in.safetensors")[2]
    assert str(dtype).removeprefix("torch.") in errors and "floating-point" in errors


@pytest.mark.parametrize("beside", [True, False])
def test_pefts_weights_under_another_name(beside, run, tmp_path):
    """What the message says helps: PEFT's name for the weights, and settings written from the two numbers."""
    layer = "base_model.model." + LAYER.partition(".")[2]
    save_file(factors(layer), tmp_path / "my_style.safetensors", {"format": "pt"})
    if beside:
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 6}')
    errors = run("kohya", tmp_path / "my_style.safetensors")[2]
    assert "adapter_config.json" in errors and "adapter_model.safetensors" in errors and len(errors.splitlines()) == 1
    if not beside:
        settings = errors[errors.index("{") : errors.index("}") + 1].replace("RANK", "2").replace("ALPHA", "6")
        (tmp_path / "adapter_config.json").write_text(settings)
    assert "no adapter_model.safetensors" in run("kohya", tmp_path)[2]
    (tmp_path / "my_style.safetensors").rename(tmp_path / "adapter_model.safetensors")
    assert run("kohya", tmp_path, "-o", tmp_path / "out" / "o.safetensors", "--family", "sd1")[0] == 0
    assert float(load_file(tmp_path / "out" / "o.safetensors")[f"{KEY}.alpha"]) == 6
