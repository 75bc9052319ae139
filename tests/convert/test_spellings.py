"""Names that people's programs write: every prefix, path and end by rule, none from a list of whole names."""

import pytest
import torch
from safetensors.torch import load_file, save_file

RANK = 3
T5_LAYER = "encoder.block.0.layer.0.SelfAttention.q"
# A layer's name in a file, without the factor's end -> family, and kohya's key for the layer.
NAMES = {
    # denoisers: whose layer it is, in every form
    "transformer.base_model.model.transformer_blocks.7.attn.to_out.0": ("flux", "double_blocks_7_img_attn_proj"),
    "base_model.model.transformer.transformer_blocks.7.ff.net.2": ("flux", "double_blocks_7_img_mlp_2"),
    "transformer._orig_mod.single_transformer_blocks.3.proj_out": ("flux", "single_blocks_3_linear2"),
    "module.transformer.transformer_blocks.1.norm1.linear": ("flux", "double_blocks_1_img_mod_lin"),
    "double_blocks.4.txt_mlp.0": ("flux", "double_blocks_4_txt_mlp_0"),
    "transformer.double_blocks.4.txt_mlp.0": ("flux", "double_blocks_4_txt_mlp_0"),
    "transformer_blocks.4.ff_context.net.2": ("flux", "double_blocks_4_txt_mlp_2"),
    "diffusion_model.transformer_blocks.4.ff_context.net.2": ("flux", "double_blocks_4_txt_mlp_2"),
    "lycoris_transformer_blocks_4_ff_context_net_2": ("flux", "double_blocks_4_txt_mlp_2"),
    "lycoris_double_blocks_4_txt_mlp_2": ("flux", "double_blocks_4_txt_mlp_2"),
    "joint_blocks.2.context_block.mlp.fc1": ("sd3", "joint_blocks_2_context_block_mlp_fc1"),
    "unet.input_blocks.7.1.proj_in": ("sdxl", "input_blocks_7_1_proj_in"),
    "unet.base_model.model.up_blocks.0.attentions.1.proj_out": ("sdxl", "output_blocks_1_1_proj_out"),
    "middle_block.1.transformer_blocks.6.ff.net.2": ("sdxl", "middle_block_1_transformer_blocks_6_ff_net_2"),
    "lora_unet.mid_block.attentions.0.proj_out": ("sd1", "mid_block_attentions_0_proj_out"),
    "output_blocks.11.1.proj_in": ("sd1", "up_blocks_3_attentions_2_proj_in"),
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out": (
        "sd1", "down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0"
    ),
    "lycoris_mid_block_attentions_0_proj_in": ("sd1", "mid_block_attentions_0_proj_in"),
    "diffusion_model.mid_block.attentions.0.proj_in": ("sd1", "mid_block_attentions_0_proj_in"),
    # text encoders 1, 2 and 3
    "lora_te1.text_model.encoder.layers.2.mlp.fc2": ("sdxl", "te1:text_model_encoder_layers_2_mlp_fc2"),
    "te2.text_model.encoder.layers.30.mlp.fc2": ("sdxl", "te2:text_model_encoder_layers_30_mlp_fc2"),
    "text_encoder_2.base_model.model.text_model.encoder.layers.5.mlp.fc1": (
        "sdxl", "te2:text_model_encoder_layers_5_mlp_fc1"
    ),
    "conditioner.embedders.0.transformer.text_model.encoder.layers.5.mlp.fc1": (
        "sdxl", "te1:text_model_encoder_layers_5_mlp_fc1"
    ),
    "text_encoders.clip_g.transformer.text_model.encoder.layers.8.mlp.fc1": (
        "sd3", "te2:text_model_encoder_layers_8_mlp_fc1"
    ),
    "clip_l.encoder.layers.8.mlp.fc1": ("flux", "te1:text_model_encoder_layers_8_mlp_fc1"),
    "text_encoder.text_model.encoder.layers.1.self_attn.to_out": (
        "sd1", "te:text_model_encoder_layers_1_self_attn_out_proj"
    ),
    "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1": (
        "sd1", "te:text_model_encoder_layers_1_mlp_fc1"
    ),
    "lora_te2_encoder_block_11_layer_1_DenseReluDense_wo": ("flux", "te3:encoder_block_11_layer_1_DenseReluDense_wo"),
    "text_encoders.t5xxl.transformer.encoder.block.11.layer.0.SelfAttention.o": (
        "sd3", "te3:encoder_block_11_layer_0_SelfAttention_o"
    ),
    "lora_te3.encoder.block.0.layer.0.SelfAttention.v": ("sd3", "te3:encoder_block_0_layer_0_SelfAttention_v"),
}  # fmt: skip
ENDS = {
    "peft": (".lora_A.weight", ".lora_B.weight"),
    "a name": (".lora_A.water colour-2.weight", ".lora_B.water colour-2.weight"),
    "no weight": (".lora_A", ".lora_B"),
    "kohya": (".lora_down.weight", ".lora_up.weight"),
    "diffusers": (".lora.down.weight", ".lora.up.weight"),
    "processor": ("_lora.down.weight", "_lora.up.weight"),
    "linear layer": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
}


def pair_of_factors(seed, out=12, width=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(RANK, width, generator=generator), torch.randn(out, RANK, generator=generator)


def key_of(told):
    encoder, colon, path = told.partition(":")
    return f"lora_{encoder}_{path}" if colon else f"lora_unet_{told}"


def converted(tensors, run, tmp_path, *arguments):
    save_file(tensors, tmp_path / "in.safetensors")
    status, _, errors = run("kohya", tmp_path / "in.safetensors", "-o", tmp_path / "out.safetensors", *arguments)
    assert status == 0, errors
    return load_file(tmp_path / "out.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_every_prefix_and_path(name, run, tmp_path):
    family, told = NAMES[name]
    down, up = pair_of_factors(1)
    tensors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up, f"{name}.alpha": torch.tensor(float(RANK))}
    written = converted(tensors, run, tmp_path, "--family", family)
    key = key_of(told)
    assert set(written) == {f"{key}.lora_down.weight", f"{key}.lora_up.weight", f"{key}.alpha"}
    assert torch.equal(written[f"{key}.lora_down.weight"], down) and torch.equal(written[f"{key}.lora_up.weight"], up)
    assert float(written[f"{key}.alpha"]) == RANK


@pytest.mark.parametrize("syntax", ENDS)
def test_every_end(syntax, run, tmp_path):
    down, up = pair_of_factors(2)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_v"
    tensors = {f"{name}{end}": factor for end, factor in zip(ENDS[syntax], (down, up), strict=True)}
    written = converted(tensors, run, tmp_path, "--family", "sd2")
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_v"
    assert torch.equal(written[f"{key}.lora_down.weight"], down) and torch.equal(written[f"{key}.lora_up.weight"], up)


def test_names_that_are_nobodys_stay_unknown(run, tmp_path):
    """The rules reach the models' layers and nothing else."""
    names = (
        "transformer.double_blocks.99.img_mlp.0", "lora_te2_encoder_block_0_layer_9_x", "text_model.nowhere",
        "lora_te_encoder_block_0_layer_0_SelfAttention_q", "cond_stage_model.transformer.x", "unet.transformer",
    )  # fmt: skip
    down, up = pair_of_factors(3)
    for name in names:
        save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "odd.safetensors")
        for family in ("sd1", "sdxl", "flux"):
            errors = run("kohya", tmp_path / "odd.safetensors", "--family", family)[2]
            assert "1 of 1 layers are unknown" in errors and "--skip-unknown" in errors, (name, family)


def test_one_layer_under_two_spellings_is_refused(run, tmp_path):
    down, up = pair_of_factors(4)
    tensors = {}
    for name in ("double_blocks.4.txt_mlp.0", "transformer.transformer_blocks.4.ff_context.net.0.proj"):
        down, up = pair_of_factors(4)
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    save_file(tensors, tmp_path / "odd.safetensors")
    assert "under two names" in run("kohya", tmp_path / "odd.safetensors", "--family", "flux")[2]


def test_two_adapters_in_one_file_are_refused(run, tmp_path):
    """Whichever came last would be converted otherwise, without a word."""
    tensors = {}
    for seed, adapter in enumerate(("dog", "ink")):
        down, up = pair_of_factors(seed)
        name = "unet.mid_block.attentions.0.proj_in"
        tensors |= {f"{name}.lora_A.{adapter}.weight": down, f"{name}.lora_B.{adapter}.weight": up}
    save_file(tensors, tmp_path / "two.safetensors")
    errors = run("kohya", tmp_path / "two.safetensors", "--family", "sd1")[2]
    assert "several adapters" in errors and ".dog." in errors and ".ink." in errors


def test_t5_under_te2_is_flux(run, tmp_path):
    """OneTrainer numbers T5 by its place among the encoders: the second of FLUX.1, the third of SD 3."""
    from convert.formats.families import FAMILIES
    from convert.formats.spelling import known_name

    name = "lora_te2_encoder_block_0_layer_0_SelfAttention_q"
    assert known_name(name, FAMILIES["flux"]).modules == ("text_encoder_2.encoder.block.0.layer.0.SelfAttention.q",)
    assert known_name(name, FAMILIES["sd3"]) is None
    assert known_name(name.replace("te2", "te3"), FAMILIES["sd3"]) is not None


# OMI's name of a part -> where its rows lie in the original's joint layer, in widths of the model.
OMI = {
    "flux": {
        "transformer.double_blocks.4.img_attn.qkv.{}": ("double_blocks_4_img_attn_qkv", (1, 1, 1)),
        "transformer.single_blocks.30.linear1.{}": ("single_blocks_30_linear1", (1, 1, 1, 4)),
    },
    "sd3": {"transformer.joint_blocks.2.x_block.attn.qkv.{}": ("joint_blocks_2_x_block_attn_qkv", (1, 1, 1))},
    "chroma": {"transformer.double_blocks.18.txt_attn.qkv.{}": ("double_blocks_18_txt_attn_qkv", (1, 1, 1))},
}  # fmt: skip


@pytest.mark.parametrize("family", OMI)
@pytest.mark.parametrize("without", [None, 0, 2])
def test_parts_of_a_joint_layer_by_number(family, without, run, tmp_path, helpers):
    """OneTrainer's OMI files name the parts below the joint layer; one may be absent, or of another rank and alpha."""
    tensors, wanted = {}, {}
    for name, (key, multiples) in OMI[family].items():
        rows = []
        for place, multiple in enumerate(multiples):
            generator = torch.Generator().manual_seed(place)
            down = torch.randn(RANK + place, 12, generator=generator)
            up = torch.randn(12 * multiple, RANK + place, generator=generator)
            if place == without:
                rows.append(torch.zeros(12 * multiple, 12, dtype=torch.float64))
                continue
            part = name.format(place)
            tensors |= {
                f"{part}.lora_down.weight": down,
                f"{part}.lora_up.weight": up,
                f"{part}.alpha": torch.tensor(2.0),
            }
            rows.append(2 / (RANK + place) * up.double() @ down.double())
        wanted[f"lora_unet_{key}"] = torch.cat(rows)
    found = helpers.deltas(converted(tensors, run, tmp_path, "--family", family))
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[key], wanted[key], rtol=1e-5, atol=1e-6) for key in wanted)
    assert "OMI" in run("info", tmp_path / "in.safetensors", "--family", family)[1]


def test_other_names_of_omi(run, tmp_path):
    for family, name, key in (
        ("flux", "transformer.img_in.proj", "lora_unet_img_in"),
        ("chroma", "transformer.img_in.proj", "lora_unet_img_in"),
        ("flux", f"t5.{T5_LAYER}", "lora_te3_encoder_block_0_layer_0_SelfAttention_q"),
        ("sd3", f"t5.{T5_LAYER}", "lora_te3_encoder_block_0_layer_0_SelfAttention_q"),
        ("chroma", f"t5.{T5_LAYER}", "lora_te3_encoder_block_0_layer_0_SelfAttention_q"),
        ("chroma", f"lora_te.{T5_LAYER}", "lora_te3_encoder_block_0_layer_0_SelfAttention_q"),
        ("sdxl", "clip_g.text_model.encoder.layers.3.mlp.fc1", "lora_te2_text_model_encoder_layers_3_mlp_fc1"),
    ):  # fmt: skip
        down, up = pair_of_factors(6)
        tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        written = converted(tensors, run, tmp_path, "--family", family, "--overwrite")
        assert torch.equal(written[f"{key}.lora_up.weight"], up), name
