"""PEFT's adapters as trainers leave them: names that carry their model, old weights, settings in the weights' file."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

A, B = ".lora_A.weight", ".lora_B.weight"
HIDDEN = 3072
# What people's folders hold: name in the file, rows, columns -> family, and the layer that it is.
FOLDERS = [
    ("diffusion_model.double_blocks.0.img_mlp.0", 4 * HIDDEN, HIDDEN, "flux", "double_blocks_0_img_mlp_0"),
    ("transformer.transformer_blocks.0.ff.net.2", HIDDEN, 4 * HIDDEN, "flux", "double_blocks_0_img_mlp_2"),
    ("base_model.model.transformer.transformer_blocks.0.ff.net.2", HIDDEN, 4 * HIDDEN, "flux",
     "double_blocks_0_img_mlp_2"),
    ("base_model.model.diffusion_model.layers.0.attention.out", 3840, 3840, "z_image", "layers_0_attention_to_out_0"),
    ("diffusion_model.transformer_blocks.1.img_mlp.net.2", HIDDEN, 4 * HIDDEN, "qwen_image",
     "transformer_blocks_1_img_mlp_net_2"),
    ("base_model.model.unet.mid_block.attentions.0.proj_in", 1280, 1280, "sd2", "mid_block_attentions_0_proj_in"),
    ("base_model.model.mid_block.attentions.0.proj_in", 1280, 1280, "sd2", "mid_block_attentions_0_proj_in"),
]  # fmt: skip
SETTINGS = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}


def factors(name, rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name + A: torch.randn(2, columns, generator=generator),
        name + B: torch.randn(rows, 2, generator=generator),
    }


def folder_of(place, tensors, settings=SETTINGS, encoding="utf-8"):
    place.mkdir(parents=True)
    save_file(tensors, place / "adapter_model.safetensors")
    (place / "adapter_config.json").write_text(json.dumps(settings), encoding=encoding)
    return place


@pytest.mark.parametrize("name, rows, columns, family, layer", FOLDERS)
def test_names_that_carry_their_model(name, rows, columns, family, layer, run, tmp_path):
    tensors = factors(name, rows, columns)
    folder = folder_of(tmp_path / "adapter", tensors)
    for source in (folder, folder / "adapter_model.safetensors"):
        target = tmp_path / "out.safetensors"
        status, _, errors = run("kohya", source, "-o", target, "--overwrite", "--family", family)
        assert status == 0, errors
        written = load_file(target)
        assert torch.equal(written[f"lora_unet_{layer}.lora_up.weight"], tensors[name + B])
        assert float(written[f"lora_unet_{layer}.alpha"]) == 6, "the settings hold for every layer"
    assert run("info", folder, "--family", family)[0] == 0


def test_patterns_of_names_that_carry_their_model(run, tmp_path):
    name = "transformer.transformer_blocks.0.ff.net.2"
    settings = {**SETTINGS, "alpha_pattern": {f"^{name}": 5}}
    folder = folder_of(tmp_path / "adapter", factors(f"base_model.model.{name}", HIDDEN, 4 * HIDDEN), settings)
    assert run("kohya", folder, "-o", tmp_path / "out.safetensors", "--family", "flux")[0] == 0
    assert float(load_file(tmp_path / "out.safetensors")["lora_unet_double_blocks_0_img_mlp_2.alpha"]) == 5


def test_one_stranger_is_left_out_on_request(run, tmp_path):
    tensors = factors("base_model.model.mid_block.attentions.0.proj_in", 1280, 1280)
    folder = folder_of(tmp_path / "adapter", {**tensors, **factors("base_model.model.nowhere", 4, 4)})
    assert "--skip-unknown" in run("kohya", folder)[2]
    assert run("kohya", folder, "-o", tmp_path / "out.safetensors", "--skip-unknown")[0] == 0
    assert float(load_file(tmp_path / "out.safetensors")["lora_unet_mid_block_attentions_0_proj_in.alpha"]) == 6


def test_weights_from_before_safetensors_have_their_scale_from_the_settings(run, tmp_path):
    """Read without them they would be three times too weak, without a word."""
    folder = folder_of(tmp_path / "adapter", factors("base_model.model.mid_block.attentions.0.proj_in", 1280, 1280))
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert "--allow-pickle" in run("kohya", folder)[2]
    for source in (folder, folder / "adapter_model.bin"):
        target = tmp_path / "out.safetensors"
        assert run("kohya", source, "-o", target, "--allow-pickle", "--overwrite")[0] == 0
        assert float(load_file(target)["lora_unet_mid_block_attentions_0_proj_in.alpha"]) == 6
        assert run("info", source, "--allow-pickle")[0] == 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_settings_that_windows_has_saved(encoding, run, tmp_path):
    """An editor puts a mark in front, PowerShell writes two bytes a letter."""
    tensors = factors("base_model.model.mid_block.attentions.0.proj_in", 1280, 1280)
    folder = folder_of(tmp_path / "adapter", tensors, encoding=encoding)
    assert run("kohya", folder, "-o", tmp_path / "out.safetensors")[0] == 0
    assert float(load_file(tmp_path / "out.safetensors")["lora_unet_mid_block_attentions_0_proj_in.alpha"]) == 6


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_settings_inside_the_weights_file(prefix, run, tmp_path, unet):
    """diffusers' ``save_lora_adapter`` of a model writes them without its name, a pipeline's files with it."""
    from peft import LoraConfig

    unet.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=["to_q"], init_lora_weights=False), "style")
    unet.save_lora_adapter(tmp_path, adapter_name="style")
    path = tmp_path / "pytorch_lora_weights.safetensors"
    if prefix:
        from convert.files.header import read_header

        told = json.loads(read_header(path).metadata["lora_adapter_metadata"])
        metadata = {"lora_adapter_metadata": json.dumps({prefix + key: value for key, value in told.items()})}
        save_file({prefix + key: value for key, value in load_file(path).items()}, path, metadata)
    target = tmp_path / "out.safetensors"
    status, _, errors = run("kohya", path, "-o", target, "--family", "sd1")
    assert status == 0, errors
    alphas = {float(value) for key, value in load_file(target).items() if key.endswith(".alpha")}
    assert alphas == {6.0}


def test_settings_that_cannot_be_read_say_what_they_are_for(run, tmp_path):
    save_file(factors("unet.mid_block.attentions.0.proj_in", 8, 8), tmp_path / "x.safetensors",
              {"lora_adapter_metadata": "{"})  # fmt: skip
    errors = run("kohya", tmp_path / "x.safetensors")[2]
    assert "its scale may stand there" in errors and "save it again" in errors


def test_a_card_that_an_editor_of_windows_has_saved_is_carried_over(lora, run, tmp_path):
    source = lora("sd1", keys=["lora_unet_mid_block_attentions_0_proj_in"])
    source.with_suffix(".json").write_text(json.dumps({"activation text": "ink"}), encoding="utf-8-sig")
    target = tmp_path / "out" / "ink.safetensors"
    assert run("a1111", source, "-o", target)[0] == 0
    assert json.loads(target.with_suffix(".json").read_text())["activation text"] == "ink"
