"""What users get wrong, or have lying about: nothing of theirs is replaced, and one line says what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from convert.files.header import read_header

KEYS = [
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def diverged(lora, tmp_path):
    """A LoRA with one NaN."""
    tensors = load_file(lora("sd1", "fine.safetensors", keys=KEYS))
    tensors[f"{KEYS[0]}.lora_up.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "diverged.safetensors", {"ss_base_model_version": "sd_v1"})
    return tmp_path / "diverged.safetensors"


@pytest.mark.parametrize(
    "arguments", [("resize", "--rank", 1), ("blend", "--rank", 1), ("blend",), ("diffusers",), ("info", "--json")]
)
def test_nan_is_named_by_input_and_tensor_in_every_verb(arguments, diverged, run):
    """No traceback of a decomposition, and not the output's name for the input's fault."""
    status, out, errors = run(arguments[0], diverged, *arguments[1:])
    said = errors + out
    assert status == 1 and f"diverged.safetensors: {KEYS[0]}.lora_up.weight holds NaN" in said
    assert sorted(path.name for path in diverged.parent.iterdir()) == ["diverged.safetensors", "fine.safetensors"]


def test_outputs_of_the_wrong_kind(lora, run, tmp_path):
    first, second = lora("sd1", "a.safetensors", keys=KEYS), lora("sd1", "b.safetensors", keys=KEYS, seed=1)
    (tmp_path / "notes").write_text("mine")
    for arguments, words in (
        (("kohya", first, second, "-o", tmp_path / "notes"), "several inputs need a folder"),
        (("peft", first, "-o", tmp_path / "x.safetensors"), "is a folder"),
        (("peft", first, "-o", tmp_path / "notes", "--overwrite"), "is a file where a folder"),
        (("blend", first, second, "-o", tmp_path / "x"), "name a .safetensors file"),
        (("kohya", first, first), "would both be written"),
        (("kohya", first, "--family", "flux"), "the family given (--family"),
        (("kohya", tmp_path), "use batch"),
    ):
        status, _, errors = run(*arguments)
        assert status == 1 and words in errors and len(errors.splitlines()) == 1, errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors", "notes"]
    assert (tmp_path / "notes").read_text() == "mine"


def test_the_system_s_refusals_name_the_output_and_not_a_temporary_file():
    from convert.cli import os_reason

    full = OSError(28, "No space left on device", "/x/.dog.safetensors.ab12_cd3.tmp")
    assert os_reason(full, "kohya").replace(os.sep, "/") == (
        "/x/dog.safetensors: No space left on device; check space and permissions"
    )
    assert "a file is where a folder" in os_reason(FileExistsError(17, "File exists", "/x/dog"), "kohya")


def test_blend_without_an_output_goes_beside_the_first(lora, run, tmp_path):
    first, second = lora("sd1", "a.safetensors", keys=KEYS), lora("sd1", "b.safetensors", keys=KEYS, seed=1)
    assert run("blend", first, second)[0] == 0 and (tmp_path / "a-blend.safetensors").is_file()
    assert "--overwrite" in run("blend", first, second)[2]


def test_content_of_another_family_is_named(lora, run):
    other = lora("sdxl", "xl.safetensors", keys=["lora_unet_middle_block_1_transformer_blocks_9_ff_net_2"])
    errors = run("pair", lora("sd1", keys=KEYS), "--content", other)[2]
    assert "xl.safetensors: is for SDXL, the style LoRA for Stable Diffusion 1" in errors


def test_settings_of_bake_that_mean_nothing(lora, run):
    for value in ("nan", "0"):
        assert "--lambda" in run("bake", lora("sd1", keys=KEYS), "--lambda", value)[2]


def test_consoles_of_another_encoding(lora):
    """Windows pipes are cp1252: neither |Gram − I| nor a Japanese name may end in a traceback."""
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    path = lora("sd1", "水彩.safetensors", keys=KEYS)
    call = [sys.executable, "-m", "convert", "info", str(path)]
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0 and b"Gram" in done.stdout and not done.stderr
    done = subprocess.run([*call, "--json"], cwd=ROOT, env=environment, capture_output=True)
    assert json.loads(done.stdout)[0]["file"] == str(path)


def test_the_card_beside_the_input_is_carried_over(lora, run, tmp_path):
    """Texts and picture; a PNG keeps the bytes, and so the prompt that the UI stored in it."""
    source = lora("sd1", keys=KEYS)
    prompt = PngImagePlugin.PngInfo()
    prompt.add_text("parameters", "a cat")
    Image.new("RGBA", (8, 8)).save(tmp_path / "source.png", pnginfo=prompt)
    card = {"activation text": "in ink style", "preferred weight": 0.8, "notes": "old", "unrelated": 1}
    (tmp_path / "source.json").write_text(json.dumps(card))
    target = tmp_path / "out" / "ink.safetensors"
    assert run("a1111", source, "-o", target, "--notes", "new")[0] == 0
    assert json.loads(target.with_suffix(".json").read_text()) == {
        "activation text": "in ink style", "preferred weight": 0.8, "notes": "new", "sd version": "SD1"
    }  # fmt: skip
    assert target.with_suffix(".png").read_bytes() == (tmp_path / "source.png").read_bytes()
    strong = tmp_path / "out" / "strong.safetensors"
    assert run("a1111", source, "-o", strong, "--strength", 0.5)[0] == 0
    assert "preferred weight" not in json.loads(strong.with_suffix(".json").read_text())


def test_pictures_are_not_replaced_unasked(lora, run, tmp_path):
    source, target = lora("sd1", keys=KEYS), tmp_path / "out" / "ink.safetensors"
    target.parent.mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "source.png")
    Image.new("RGB", (4, 4)).save(target.with_suffix(".png"))
    mine = target.with_suffix(".png").read_bytes()
    status, _, errors = run("a1111", source, "-o", target)
    assert status == 1 and "ink.png: exists already" in errors and not target.exists()
    # The preview may be the very file that the card is to have.
    assert run("a1111", source, "-o", target, "--preview", target.with_suffix(".png"))[0] == 0
    assert target.with_suffix(".png").read_bytes() == mine
    assert run("a1111", source, "-o", target, "--overwrite")[0] == 0
    assert target.with_suffix(".png").read_bytes() != mine


def test_webui_is_checked_where_it_writes(lora, run, tmp_path, monkeypatch):
    """--verify reads the file in models/Lora, and a conversion beside the input is no obstacle."""
    from convert.verbs import a1111

    monkeypatch.setattr(a1111, "install", lambda ui, into: into)
    source = lora("sd1", keys=KEYS)
    for name in ("models", "extensions"):
        (tmp_path / "ui" / name).mkdir(parents=True)
    assert run("a1111", source)[0] == 0
    status, _, errors = run("a1111", source, "--webui", tmp_path / "ui", "--verify")
    assert status == 0, errors
    assert (tmp_path / "ui" / "models" / "Lora" / "source.safetensors").is_file()
    assert "exists already" in run("a1111", source, "--webui", tmp_path / "ui")[2]
    assert "webui --into" in run("batch", "a1111", source, "-o", tmp_path / "out", "--webui", tmp_path / "ui")[2]


def test_info_describes_files_with_foreign_names(lora, run, tmp_path):
    """The very files for which the UIs' rules differ: 15 of 21 unexpected are too many for both Forges, and diffusers
    converts all of a kohya file or nothing."""
    tensors = load_file(lora("sd1", keys=KEYS, metadata={"ss_base_model_version": "sd_v1"}))
    unexpected = {f"lora_unet_nowhere_{i}.lora_down.weight": torch.ones(2, 2) for i in range(15)}
    save_file({**tensors, **unexpected}, tmp_path / "odd.safetensors", {"ss_base_model_version": "sd_v1"})
    status, out, _ = run("info", tmp_path / "odd.safetensors", "--json")
    report = json.loads(out)[0]
    assert status == 0 and report["layers"] == 2 and report["unknown"]["tensors"] == 15
    assert {ui: found["matched"] for ui, found in report["uis"].items()} == {
        "A1111": 6, "Forge": 0, "Forge Neo": 0, "ComfyUI": 6, "diffusers": 0
    }  # fmt: skip
    assert "lora_unet_nowhere_0" in run("info", tmp_path / "odd.safetensors")[1]
    assert run("kohya", tmp_path / "odd.safetensors")[0] == 1
    save_file(unexpected, tmp_path / "foreign.safetensors")
    assert run("info", tmp_path / "foreign.safetensors")[0] == 1


def test_info_counts_the_captions_tags(lora, run):
    tags = {"5_dog": {"sbu dog": 40, "grass": 3}, "2_cat": {"sbu dog": 1, "sky": 9}}
    path = lora("sd1", keys=KEYS, metadata={"ss_tag_frequency": json.dumps(tags)})
    assert json.loads(run("info", path, "--json")[1])[0]["training_tags"] == ["sbu dog", "sky", "grass"]
    broken = lora("sd1", "broken.safetensors", keys=KEYS, metadata={"ss_tag_frequency": '{"a": {"b": Infinity}}'})
    assert json.loads(run("info", broken, "--json")[1])[0]["training_tags"] == []


def test_info_of_a_folder_with_several_adapters(lora, run, tmp_path):
    keys = [*KEYS, "lora_te_text_model_encoder_layers_0_mlp_fc1"]
    assert run("peft", lora("sd1", keys=keys), "-o", tmp_path / "folder")[0] == 0
    report = json.loads(run("info", tmp_path / "folder", "--json")[1])[0]
    assert report["format"] == "peft" and report["hashes"]["stored_hash_is_right"] == "True"
    assert {found["matched"] for found in report["uis"].values()} == {0}


def test_an_official_release_is_read_as_a_folder(lora, run, helpers, tmp_path):
    """pair → official → pair: both branches come back from the folder alone."""
    block = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2"
    keys = [f"{block}_{part}" for part in ("to_q", "to_k", "to_v", "to_out_0")]
    style = lora("sdxl", keys=keys, rank=4, alpha=4)
    content = lora("sdxl", "content.safetensors", keys=keys, rank=4, alpha=4, seed=1)
    first, second = tmp_path / "a.pair.safetensors", tmp_path / "b.pair.safetensors"
    assert run("pair", style, "--content", content, "-o", first, "--verify")[0] == 0
    assert run("official", first, "-o", tmp_path / "release")[0] == 0
    status, _, errors = run("pair", tmp_path / "release", "-o", second, "--verify")
    assert status == 0, errors
    assert all(torch.equal(load_file(second)[key], tensor) for key, tensor in load_file(first).items())
    assert json.loads(run("info", tmp_path / "release", "--json")[1])[0]["content"]["pairs"] == 1


def test_verification_reads_the_content_branch_too(lora, run, tmp_path):
    from convert.verbs import pair
    from pair_network.errors import PairError

    source, content = lora("sd1", keys=KEYS), lora("sd1", "content.safetensors", keys=KEYS, seed=1)
    target = tmp_path / "x.pair.safetensors"
    assert run("pair", source, "--content", content, "-o", target)[0] == 0
    tensors, metadata = load_file(target), read_header(target).metadata
    key = f"content.{KEYS[0]}.lora_up.weight"
    save_file({**tensors, key: tensors[key] * 1.001}, target, metadata)
    with pytest.raises(PairError, match="verification failed"):
        pair.verify(source, target, pair.Options(family="sd1", content=[content]))


def test_merged_checkpoints_tell_what_was_merged(lora, run, unet, tmp_path, perturb):
    from pair_network import create_network

    network = perturb(create_network(1.0, 4, 2.0, None, None, unet))
    network.save_weights(str(tmp_path / "dog.safetensors"), None, {"ss_base_model_version": "sd_v1"})
    unet.save_pretrained(tmp_path / "model" / "unet")
    status, _, errors = run("merge", tmp_path / "model", tmp_path / "dog.safetensors", "--weights", 0.5)
    assert status == 0, errors
    written = read_header(next((tmp_path / "model-merged" / "unet").glob("*.safetensors"))).metadata
    assert written["format"] == "pt"
    arguments = ("merge", tmp_path / "model", tmp_path / "dog.safetensors", "--weights", "nan", "-o", tmp_path / "x")
    assert "--weights nan: must be a number" in run(*arguments)[2]
    assert json.loads(written["pair_network_converted"])[0]["of"] == ["dog.safetensors × 0.5"]


@pytest.mark.parametrize(
    "key, down, up, words",
    [
        (KEYS[0], (2, 0), (8, 2), "hold nothing"),
        (KEYS[0], (2, 8), (0, 2), "hold nothing"),
        ("lora_unet_single_blocks_0_linear1", (2, 8), (6, 2), "other widths"),
    ],
)
def test_layers_of_impossible_widths(key, down, up, words, run, tmp_path):
    """Refused when they are read: decompositions and the split of joint rows would meet them half-way."""
    tensors = {f"{key}.lora_down.weight": torch.ones(down), f"{key}.lora_up.weight": torch.ones(up)}
    save_file(tensors, tmp_path / "odd.safetensors")
    for verb in (("kohya",), ("resize", "--rank", 1)):
        status, _, errors = run(verb[0], tmp_path / "odd.safetensors", *verb[1:])
        assert status == 1 and words in errors and len(errors.splitlines()) == 1


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_files_are_verified(dtype, lora, run):
    for verb in ("kohya", "diffusers", "peft"):
        status, _, errors = run(verb, lora("sd1", keys=KEYS, dtype=dtype), "--verify")
        assert status == 0, errors


def test_an_alpha_of_zero_survives_peft(lora, run):
    """A layer switched off by its alpha is no damage."""
    source = lora("sd1", keys=KEYS)
    save_file({**load_file(source), f"{KEYS[0]}.alpha": torch.tensor(0.0)}, source)
    status, _, errors = run("peft", source, "--verify", "--family", "sd1")
    assert status == 0, errors


def test_checkpoints_are_no_loras_and_pickled_ones_no_checkpoints(lora, run, tmp_path):
    """Every key of a checkpoint has ".diff" in its middle, as in model.diffusion_model: it is no full difference."""
    save_file({"model.diffusion_model.input_blocks.0.0.bias": torch.ones(3)}, tmp_path / "model.safetensors")
    assert "is it a checkpoint? merge puts LoRAs into one" in run("info", tmp_path / "model.safetensors")[2]
    save_file({f"{KEYS[0]}.diff": torch.ones(3)}, tmp_path / "full.safetensors")
    assert "full difference" in run("info", tmp_path / "full.safetensors")[2]
    torch.save({"x": torch.ones(1)}, tmp_path / "model.ckpt")
    errors = run("merge", tmp_path / "model.ckpt", lora("sd1", keys=KEYS), "--allow-pickle")[2]
    assert "save it as that" in errors and "--allow-pickle" not in errors


def test_a_foreign_card_runs_nothing(lora, run, tmp_path):
    """A1111 and Forge put the weight into a script unquoted, and with a setting the description into their page."""
    source, out = lora("sd1", keys=KEYS), tmp_path / "out.safetensors"
    card = {"preferred weight": "alert(1)", "notes": ["x"], "style guidance scale": True}
    card["activation text"] = "<b>ink</b>"
    source.with_suffix(".json").write_text(json.dumps({**card, "description": "<img src=x onerror=alert(1)>"}))
    run("a1111", source, "-o", out)
    written = json.loads(out.with_suffix(".json").read_text())
    assert "preferred weight" not in written and "notes" not in written and "style guidance scale" not in written
    assert written["activation text"] == "<b>ink</b>"  # the UIs quote it
    assert written["description"] == "&lt;img src=x onerror=alert(1)&gt;"
    harmless = {"preferred weight": 0.8, "description": "<b>ink</b> on paper, best at 0.8"}
    source.with_suffix(".json").write_text(json.dumps(harmless))
    run("a1111", source, "-o", out, "--overwrite")
    assert json.loads(out.with_suffix(".json").read_text()).items() >= {"preferred weight": 0.8}.items()
