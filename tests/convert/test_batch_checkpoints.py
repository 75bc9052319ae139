"""``batch merge`` and ``batch extract``: every LoRA into the one checkpoint, every checkpoint against the one base."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.files.header import read_header

KEYS = [
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
]
WEIGHT = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture
def base(helpers, tmp_path):
    """A checkpoint of SD 1's layout, in the folder that also holds the LoRAs or the tuned checkpoints."""
    path = tmp_path / "in" / "base.safetensors"
    path.parent.mkdir()
    save_file(helpers.base_checkpoint("sd1"), path)
    return path


@pytest.fixture
def loras(base, lora):
    return [lora("sd1", f"in/{name}.safetensors", keys=KEYS, seed=seed) for seed, name in enumerate(("a", "sub/b"))]


def assert_equal_files(first, second):
    first, second = load_file(first), load_file(second)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def change(file, key=WEIGHT):
    """Adds a little to one weight."""
    tensors = load_file(file)
    save_file({**tensors, key: tensors[key] + 0.5}, file, read_header(file).metadata)


def test_each_lora_is_merged_as_merge_alone_does(base, loras, run, tmp_path):
    """The checkpoint that lies among the LoRAs is none of them, and a damaged LoRA stops nothing."""
    (tmp_path / "in" / "broken.safetensors").write_bytes(b"\0cut off")
    out = tmp_path / "out"
    arguments = ("--checkpoint", base, "-o", out, "--weights", 0.5, "--verify", "--jobs", 1)
    status, text, _ = run("batch", "merge", tmp_path / "in", *arguments)
    assert status == 1 and "2 done, 0 skipped, 1 failed" in text and "broken.safetensors: not an intact" in text
    for source, name in zip(loras, ("a", "sub/b"), strict=True):
        alone = tmp_path / "alone.safetensors"
        assert run("merge", base, source, "-o", alone, "--weights", 0.5, "--overwrite", "--verify")[0] == 0
        assert_equal_files(alone, out / f"{name}.safetensors")
    assert not (out / "base.safetensors").exists()


def test_a_merge_is_only_valid_for_its_checkpoint(base, loras, run, tmp_path):
    arguments = ("batch", "merge", *loras, "--checkpoint", base, "-o", tmp_path / "out", "--jobs", 1, "--resume")
    assert "2 done" in run(*arguments)[1] and "2 skipped" in run(*arguments)[1]
    assert run(*arguments, "--dry-run")[1].count("skip  ") == 2
    change(base)
    assert "2 done" in run(*arguments)[1] and "2 skipped" in run(*arguments)[1]


def test_a_coupled_checkpoint_is_only_valid_for_its_content(lora, run, tmp_path):
    """What holds for merge's checkpoint holds for every file that an option names."""
    source, content = lora("sd1", "in/a.safetensors", keys=KEYS), lora("sd1", "c.safetensors", keys=KEYS, seed=1)
    arguments = ("batch", "pair", source, "-o", tmp_path / "out", "--jobs", 1, "--resume", "--content", content)
    assert "1 done" in run(*arguments)[1] and "1 skipped" in run(*arguments)[1]
    lora("sd1", "c.safetensors", keys=KEYS, seed=2)
    assert "1 done" in run(*arguments)[1]


def test_merges_lie_beside_their_loras(base, loras, run, tmp_path):
    assert "2 done" in run("batch", "merge", tmp_path / "in", "--checkpoint", base, "--jobs", 1)[1]
    found = {str(path.relative_to(tmp_path / "in")) for path in (tmp_path / "in").rglob("*-merged.safetensors")}
    assert found == {"a-merged.safetensors", "sub/b-merged.safetensors"}


def test_each_checkpoint_is_extracted_as_extract_alone_does(base, loras, run, tmp_path):
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    save_file(load_file(base), tuned / "same.safetensors")
    assert run("batch", "merge", *loras, "--checkpoint", base, "-o", tuned, "--jobs", 1)[0] == 0
    arguments = ("--rank", 4, "--dtype", "fp32")
    status, text, _ = run("batch", "extract", tuned, "--base", base, "-o", tmp_path / "out", "--jobs", 1, *arguments,
                          "--verify")  # fmt: skip
    assert status == 1 and "2 done, 0 skipped, 1 failed" in text and "differs from" in text
    for name in ("a", "b"):
        alone = tmp_path / f"alone-{name}.safetensors"
        assert run("extract", base, tuned / f"{name}.safetensors", "-o", alone, *arguments, "--verify")[0] == 0
        assert_equal_files(alone, tmp_path / "out" / f"{name}.safetensors")


def test_a_model_folder_is_one_checkpoint(unet, perturb, run, tmp_path):
    """diffusers' weights, its VAE's among them, are no inputs of their own; the base's folder is none at all."""
    models = tmp_path / "models"
    for name in ("base", "tuned"):
        unet.save_pretrained(models / name / "unet")
        unet.save_pretrained(models / name / "vae")
        (models / name / "model_index.json").write_text("{}")
    tuned = next((models / "tuned" / "unet").glob("*.safetensors"))
    change(tuned, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight")
    arguments = ("batch", "extract", models, "--base", models / "base", "--jobs", 1, "--rank", 1)
    text = run(*arguments, "--dry-run")[1]
    assert text == f"convert  {models / 'tuned'} -> {models / 'tuned-extracted.safetensors'}\n"
    assert "1 done" in run(*arguments, "--verify")[1]


def test_merges_into_a_model_folder_are_folders(unet, perturb, run, tmp_path):
    """Skipped while intact, and never replaced: whatever else a user keeps in a model's folder would be lost."""
    from pair_network import create_network

    network = perturb(create_network(1.0, 4, 2.0, None, None, unet))
    network.save_weights(str(tmp_path / "in" / "dog.safetensors"), None, {"ss_base_model_version": "sd_v1"})
    unet.save_pretrained(tmp_path / "in" / "model" / "unet")
    arguments = ("batch", "merge", tmp_path / "in", "--checkpoint", tmp_path / "in" / "model", "--jobs", 1, "--verify")
    status, text, errors = run(*arguments, "--branch", "style")
    assert status == 0 and "2 done" in text, text + errors
    for name in ("dog-merged", "dog-pair-merged"):
        assert (tmp_path / "in" / name / "unet" / "config.json").is_file()
    assert "2 skipped" in run(*arguments, "--branch", "style", "--resume")[1]
    status, text, _ = run(*arguments)
    assert status == 1 and text.count("is not replaced; name a new folder") == 2
    assert "0 done, 0 skipped, 2 failed, 2 results of earlier batches left out" in text
    text = run("batch", "info", tmp_path / "in" / "*-merged" / "unet" / "*", "-o", tmp_path / "out", "--jobs", 1)[2]
    assert "only results of earlier batches are there" in text


def test_verification_notices_a_changed_weight(base, loras, run, tmp_path):
    from convert.verbs import extract, merge
    from pair_network.errors import PairError

    merged, extracted = tmp_path / "m.safetensors", tmp_path / "x.safetensors"
    assert run("merge", base, loras[0], "-o", merged)[0] == 0
    options = extract.BatchOptions(base=base)
    assert run("extract", base, merged, "-o", extracted)[0] == 0
    extract.verify(merged, extracted, options)
    change(extracted, f"{KEYS[1]}.lora_up.weight")
    with pytest.raises(PairError, match="verification failed: relative error"):
        extract.verify(merged, extracted, options)
    options = merge.BatchOptions(checkpoint=base)
    merge.verify(loras[0], merged, options)
    change(merged, "first_stage_model.x.weight")
    with pytest.raises(PairError, match=r"first_stage_model\.x\.weight is not the merged one"):
        merge.verify(loras[0], merged, options)


def test_what_cannot_be_a_batch_is_said_once(base, loras, run, tmp_path):
    """Before anything is written, in one line that says what to do."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for arguments, words in (
        (("blend", folder, "-o", out, "--weights", 0.5), "run python -m convert blend FILE"),
        (("merge", folder, "-o", out), "required: --checkpoint"),
        (("merge", folder, "-o", out, "--checkpoint", tmp_path / "no"), "no: no such file or folder"),
        (("merge", folder, "-o", out, "--checkpoint", loras[0]), "a.safetensors: is no checkpoint"),
        (("merge", "--checkpoint", base, folder, "-o", out), "stand behind the folders"),
        (("merge", folder, "--checkpoint", base, "-o", out, "--weights", 1, 2), "unrecognized arguments: 2"),
        (("extract", folder, "-o", out), "required: --base"),
    ):
        status, _, errors = run("batch", *arguments)
        assert status == 1 and words in errors and len(errors.splitlines()) == 1, errors
    assert not out.exists()


def test_the_log_names_the_checkpoint(base, loras, run, tmp_path):
    run("batch", "merge", loras[0], "--checkpoint", base, "-o", tmp_path / "out", "--jobs", 1)
    (record,) = json.loads((tmp_path / "out" / "convert-batch.json").read_text())
    assert list(record["others"]) == [str(base)] and len(record["others"][str(base)]) == 64
