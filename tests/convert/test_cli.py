"""The command line: outputs, cards, collisions, batches and their exit status."""

import base64
import hashlib
import io
import json
import os

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from convert.files.header import read_header

KEYS = [
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
]


def test_outputs_go_beside_the_input_and_over_nothing(lora, run, tmp_path):
    source = lora("sd1", keys=KEYS)
    before = source.read_bytes()
    status, out, _ = run("kohya", source)
    assert status == 0 and out.strip() == str(tmp_path / "source-kohya.safetensors")
    status, _, errors = run("kohya", source)
    assert status == 1 and "--overwrite" in errors
    assert run("kohya", source, "--overwrite")[0] == 0
    assert "is the input itself" in run("kohya", source, "-o", source, "--overwrite")[2]
    os.link(source, tmp_path / "hard.safetensors")
    assert "is the input itself" in run("kohya", source, "-o", tmp_path / "hard.safetensors", "--overwrite")[2]
    assert source.read_bytes() == before


def test_a_failure_leaves_the_old_output_and_no_temporary_file(lora, run, tmp_path):
    save_file(
        {f"{KEYS[0]}.lora_down.weight": torch.tensor([[float("nan")]]), f"{KEYS[0]}.lora_up.weight": torch.ones(1, 1)},
        tmp_path / "nan.safetensors",
    )
    (tmp_path / "out.safetensors").write_bytes(b"old")
    assert run("kohya", tmp_path / "nan.safetensors", "-o", tmp_path / "out.safetensors", "--overwrite")[0] == 1
    assert (tmp_path / "out.safetensors").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nan.safetensors", "out.safetensors"]


def test_several_inputs_into_a_folder(lora, run, tmp_path):
    first, second = lora("sd1", "a.safetensors", keys=KEYS), lora("sd1", "b.safetensors", keys=KEYS)
    (tmp_path / "out").mkdir()
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"x")
    status, _, errors = run("kohya", first, bad, second, "-o", tmp_path / "out")
    assert status == 1 and "bad.safetensors" in errors and len(errors.splitlines()) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.safetensors", "b.safetensors"}


def test_a_foreign_folder_is_never_replaced(lora, run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    errors = run("peft", lora("sd1", keys=KEYS), "-o", tmp_path / "mine", "--overwrite")[2]
    assert "thesis.txt" in errors and (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_metadata_is_carried_over_and_corrected(lora, run, helpers, tmp_path):
    old = {"ss_learning_rate": "1e-4", "sshs_model_hash": "stale", "sshs_legacy_hash": "stale", "ss_output_name": "old"}
    source = lora(
        "sdxl", keys=["lora_unet_middle_block_1_transformer_blocks_9_ff_net_2"], rank=3, alpha=2, metadata=old
    )
    target = tmp_path / "{new,name:1.safetensors"
    assert run("a1111", source, "-o", target, "--strength", 0.5)[0] == 0
    written = read_header(target).metadata
    assert written["ss_learning_rate"] == "1e-4" and "sshs_legacy_hash" not in written
    data = target.read_bytes()
    data = data[8 + int.from_bytes(data[:8], "little") :]
    assert written["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert (
        written["ss_output_name"] == "new_name_1"
        and written["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    )
    assert written["ss_base_model_version"].startswith("sdxl_") and written["ss_v2"] == "False"
    assert (written["ss_network_dim"], written["ss_network_alpha"]) == ("3", "1")
    assert json.loads(written["pair_network_converted"]) == [
        {"verb": "a1111", "from": "kohya", "strength": 0.5, "branch": "style"}
    ]


def test_strength_scales_the_delta_and_rounds_no_weight(lora, run, helpers, tmp_path):
    source, target = lora("sd1", keys=KEYS, dtype=torch.float16), tmp_path / "strong.safetensors"
    assert run("a1111", source, "-o", target, "--strength", 1.7, "--verify")[0] == 0
    wanted, found = helpers.deltas(load_file(source)), helpers.deltas(load_file(target))
    assert all((found[key] - 1.7 * wanted[key]).norm() < 1e-6 * wanted[key].norm() for key in wanted)
    assert all(torch.equal(load_file(target)[k], t) for k, t in load_file(source).items() if "weight" in k)


def test_dtype_and_its_limits(lora, run, tmp_path):
    source = lora("sd1", keys=KEYS)
    assert run("a1111", source, "-o", tmp_path / "half.safetensors", "--dtype", "fp16", "--verify")[0] == 0
    assert {t.dtype for k, t in load_file(tmp_path / "half.safetensors").items() if "weight" in k} == {torch.float16}
    tensors = load_file(source)
    save_file({k: t * 1e6 if "up" in k else t for k, t in tensors.items()}, tmp_path / "big.safetensors")
    errors = run("a1111", tmp_path / "big.safetensors", "--dtype", "fp16")[2]
    assert "the dtype is too narrow" in errors


def test_card_and_preview(lora, run, tmp_path):
    source = lora("sd1", keys=KEYS, metadata={"modelspec.trigger_phrase": "in ink style"})
    Image.new("RGB", (600, 300), "red").save(tmp_path / "source.png")
    target = tmp_path / "out" / "ink.safetensors"
    target.parent.mkdir()
    (target.with_suffix(".json")).write_text('{"description": "mine", "notes": "old"}')
    status, out, _ = run("a1111", source, "-o", target, "--weight", 0.8, "--scale", 4, "--notes", "new")
    assert status == 0 and len(out.splitlines()) == 3
    card = json.loads(target.with_suffix(".json").read_text())
    assert card == {
        "description": "mine",
        "notes": "new",
        "activation text": "in ink style",
        "preferred weight": 0.8,
        "style guidance scale": 4.0,
        "sd version": "SD1",
    }
    assert "--scale 21: must lie" in run("a1111", source, "-o", target, "--scale", 21, "--overwrite")[2]
    assert "--scale nan: must lie" in run("a1111", source, "-o", target, "--scale", "nan", "--overwrite")[2]
    assert Image.open(target.with_suffix(".png")).size == (600, 300)
    cover = json.loads(read_header(target).metadata["ssmd_cover_images"])[0]
    assert Image.open(io.BytesIO(base64.b64decode(cover))).size == (256, 128)
    target.with_suffix(".json").write_text("not json")
    assert "left as it is" in run("a1111", source, "-o", target, "--overwrite")[2]


def test_sd3_and_flux_in_a1111(lora, run, helpers, tmp_path):
    keys = ["lora_unet_joint_blocks_0_x_block_attn_qkv", "lora_unet_joint_blocks_0_context_block_mlp_fc1"]
    source = lora("sd3", keys=keys)
    assert "--drop-unmatched" in run("a1111", source, "--ui", "a1111")[2]
    target = tmp_path / "sd3.safetensors"
    assert run("a1111", source, "--ui", "a1111", "--drop-unmatched", "-o", target, "--verify")[0] == 0
    names = {f"transformer.transformer_blocks.0.attn.to_{p}.lora_{ab}.weight" for p in "qkv" for ab in "AB"}
    assert set(load_file(target)) == names
    flux = lora("flux", "f.safetensors", keys=["lora_unet_single_blocks_0_linear2"])
    assert "A1111 has no FLUX" in run("a1111", flux, "--ui", "a1111")[2]
    assert run("a1111", flux, "--ui", "forge")[0] == 0


def test_extensions_are_installed_updated_and_never_over_others(lora, run, tmp_path, monkeypatch):
    from convert.verbs import install

    (tmp_path / "package" / "webui" / "scripts").mkdir(parents=True)
    monkeypatch.setattr(install, "HERE", tmp_path / "package")
    (tmp_path / "ui" / "extensions").mkdir(parents=True)
    errors = run("webui", "--into", tmp_path / "ui" / "extensions")[2]
    assert "not part of this distribution" in errors and len(errors.splitlines()) == 1
    script = tmp_path / "package" / "webui" / "scripts" / "guidance.py"
    script.write_text("one = 1\n")
    assert "no such folder" in run("webui", "--into", tmp_path / "nowhere")[2]
    status, out, _ = run("webui", "--into", tmp_path / "ui" / "extensions")
    assert status == 0 and "restart the UI" in out
    installed = tmp_path / "ui" / "extensions" / install.FOLDER_NAMES["webui"]
    (installed / "stale.py").write_text("")
    script.write_text("two = 2\n")
    (tmp_path / "ui" / "models").mkdir()
    status, _, errors = run("a1111", lora("sd1", keys=KEYS), "--webui", tmp_path / "ui")
    assert status == 0 and "restart the UI" in errors
    assert (installed / "scripts" / "guidance.py").read_text() == "two = 2\n" and not (installed / "stale.py").exists()
    assert (tmp_path / "ui" / "models" / "Lora" / "source.safetensors").is_file()
    (installed / install.MARKER).unlink()
    assert "was not put there" in run("webui", "--into", tmp_path / "ui" / "extensions")[2]


@pytest.fixture
def tree(lora, tmp_path):
    """Three LoRAs in a folder with a sub-folder, a damaged file, and a link that leads out."""
    for name in ("in/a.safetensors", "in/b.safetensors", "in/sub/a.safetensors"):
        lora("sd1", name, keys=KEYS, seed=sum(map(ord, name)))
    (tmp_path / "in" / "broken.safetensors").write_bytes(b"\0cut off")
    lora("sd1", "secret.safetensors", keys=KEYS)
    (tmp_path / "in" / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    return tmp_path / "in"


def log(folder):
    return {
        record["source"].rsplit("/in/")[1]: record for record in json.loads((folder / "convert-batch.json").read_text())
    }


def test_batch_converts_the_good_and_names_the_bad(tree, run, tmp_path, helpers):
    out = tmp_path / "out"
    status, text, _ = run("batch", "diffusers", tree, "-o", out, "--jobs", 1, "--verify", "--syntax", "lora")
    assert status == 1 and "3 done, 0 skipped, 2 failed" in text
    assert "broken.safetensors: not an intact" in text and "link out of the folder" in text
    assert {str(p.relative_to(out)) for p in out.rglob("*.safetensors")} == {
        "a.safetensors",
        "b.safetensors",
        "sub/a.safetensors",
    }
    assert all(".lora." in key for key in load_file(out / "a.safetensors"))
    records = log(out)
    assert records["a.safetensors"]["status"] == "done" and records["broken.safetensors"]["status"] == "failed"


def test_batch_in_several_processes(tree, run, tmp_path):
    (tree / "broken.safetensors").unlink(), (tree / "link.safetensors").unlink()
    assert run("batch", "kohya", tree, "-o", tmp_path / "out", "--jobs", 2)[0] == 0
    assert len(list((tmp_path / "out").rglob("*.safetensors"))) == 3


def test_batch_resumes_what_is_not_done_or_not_intact(tree, run, tmp_path):
    (tree / "broken.safetensors").unlink(), (tree / "link.safetensors").unlink()
    out = tmp_path / "out"
    arguments = ("batch", "kohya", tree, "-o", out, "--jobs", 1, "--resume")
    assert "3 done, 0 skipped" in run(*arguments)[1]
    assert "0 done, 3 skipped" in run(*arguments)[1]
    (out / "a.safetensors").write_bytes(b"damaged")
    (tree / "b.safetensors").write_bytes((tree / "a.safetensors").read_bytes())
    assert "convert  " in run(*arguments, "--dry-run")[1] and (out / "a.safetensors").read_bytes() == b"damaged"
    assert "2 done, 1 skipped" in run(*arguments)[1]
    assert "0 done, 3 skipped" in run(*arguments)[1]
    # Other options are another job.
    assert "3 done, 0 skipped" in run(*arguments, "--branch", "style")[1]


def test_batch_dry_run_writes_nothing(tree, run, tmp_path):
    status, text, _ = run("batch", "kohya", tree, "-o", tmp_path / "out", "--dry-run")
    assert status == 1 and text.count("convert  ") == 4 and "refuse  " in text
    assert not (tmp_path / "out").exists()


def test_batch_refuses_collisions_before_it_starts(tree, run, tmp_path):
    status, _, errors = run("batch", "kohya", tree, tree / "sub", "-o", tmp_path / "out")
    assert status == 1 and "would both be written" in errors and not (tmp_path / "out").exists()


def test_batch_takes_globs_and_follows_links_when_told(tree, run, tmp_path):
    text = run("batch", "kohya", tree / "[ab].safetensors", "-o", tmp_path / "o1", "--jobs", 1)[1]
    assert "2 done, 0 skipped, 0 failed" in text
    text = run("batch", "kohya", tree / "link.safetensors", "-o", tmp_path / "o2", "--jobs", 1, "--follow-links")[1]
    assert "1 done" in text
    assert "no file matches" in run("batch", "kohya", tree / "*.nothing", "-o", tmp_path / "o3")[2]


def test_batch_of_info_writes_reports(tree, run, tmp_path):
    run("batch", "info", tree / "a.safetensors", "-o", tmp_path / "out", "--jobs", 1)
    assert json.loads((tmp_path / "out" / "a.json").read_text())["family"] == "sd1"


def test_batch_refuses_options_that_the_verb_does_not_have(tree, run, tmp_path):
    status, _, errors = run("batch", "kohya", tree, "-o", tmp_path / "out", "--strenght", "2")
    assert status == 1 and "--strenght" in errors and not (tmp_path / "out").exists()


def test_a_trained_folder_converts_whole(tmp_path, unet, perturb, run):
    """NAME.safetensors and NAME.pair.safetensors lie side by side after every training: they must not collide."""
    from pair_network import create_network

    network = perturb(create_network(1.0, 4, 2.0, None, None, unet))
    network.save_weights(str(tmp_path / "in" / "dog.safetensors"), None, {})
    assert run("batch", "a1111", tmp_path / "in", "-o", tmp_path / "out", "--jobs", 1, "--verify")[0] == 0
    first, second = (load_file(tmp_path / "out" / name) for name in ("dog.safetensors", "dog-pair.safetensors"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_usage_errors_have_status_two(run):
    for arguments in ((), ("nonsense",), ("kohya",), ("kohya", "x", "--nonsense")):
        with pytest.raises(SystemExit) as stopped:
            run(*arguments)
        assert stopped.value.code == 2
