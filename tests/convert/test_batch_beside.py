"""``batch`` without ``-o``: results beside their inputs, which no later batch takes for inputs."""

import json

import pytest

KEYS = [
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
]
LOG = "convert-batch.json"


@pytest.fixture
def folder(lora, tmp_path):
    """Two LoRAs, one of them in a sub-folder."""
    for seed, name in enumerate(("a", "sub/b")):
        lora("sd1", f"in/{name}.safetensors", keys=KEYS, seed=seed)
    return tmp_path / "in"


@pytest.fixture
def batch(run):
    """Function: runs a batch in one process; returns status and all that was said."""

    def call(verb, *arguments):
        status, text, errors = run("batch", verb, *arguments, "--jobs", 1)
        return status, text + errors

    return call


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_results_have_the_names_that_the_verb_gives_them(folder, batch, run, tmp_path, lora):
    alone = lora("sd1", "alone/a.safetensors", keys=KEYS)
    for verb in ("kohya", "diffusers", "peft"):
        assert run(verb, alone)[0] == 0
        assert "2 done" in batch(verb, folder, "--verify")[1]
    assert names(folder) == {
        *(f"{name}{end}" for name in ("a", "sub/b") for end in (
            ".safetensors", "-kohya.safetensors", "-diffusers.safetensors", "-peft/adapter_model.safetensors",
            "-peft/adapter_config.json")),
        LOG, f"sub/{LOG}",
    }  # fmt: skip
    assert {path.name for path in folder.glob("a*")} == {path.name for path in (tmp_path / "alone").iterdir()}


def test_results_are_no_inputs_of_any_later_batch(folder, batch, run, tmp_path):
    """Whichever verb ran last, and whether the folder, one above, one below or a glob is given; the summary says so."""
    assert batch("kohya", folder / "sub")[0] == 0 and "left out" not in batch("peft", folder / "a.safetensors")[1]
    first = batch("kohya", folder)[1]
    assert "2 done, 0 skipped, 0 failed, 2 results of earlier batches left out; log: " in first and LOG in first
    for inputs in ((folder,), (tmp_path,), (folder / "sub", folder), (folder / "**" / "*.safetensors",)):
        assert "2 done, 0 skipped, 0 failed, 3 results" in batch("kohya", *inputs)[1]
    text = batch("kohya", folder / "sub", "--dry-run")[1]
    assert f"leave out  {folder / 'sub' / 'b-kohya.safetensors'}" in text and text.count("convert  ") == 1
    assert "2 done, 0 skipped, 0 failed, 3 results" in batch("diffusers", folder, "-o", tmp_path / "out")[1]
    text = batch("peft", folder / "sub" / "b-kohya.safetensors")[1]
    assert "only results of earlier batches" in text and "without batch" in text
    assert run("peft", folder / "sub" / "b-kohya.safetensors")[0] == 0


def test_results_in_a_folder_of_their_own_may_be_the_next_inputs(folder, batch, tmp_path):
    assert batch("pair", folder, "-o", tmp_path / "pairs")[0] == 0
    assert "2 done, 0 skipped, 0 failed; log" in batch("a1111", tmp_path / "pairs")[1]
    assert (tmp_path / "pairs" / "a-a1111.safetensors").is_file()


def test_what_no_batch_wrote_is_not_replaced(folder, batch, run):
    """The verb's own result is another's to this batch: nothing is done until the user says how."""
    mine = folder / "a-peft"
    assert run("peft", folder / "a.safetensors")[0] == 0
    before = (mine / "adapter_model.safetensors").read_bytes()
    status, text = batch("peft", folder)
    assert status == 1 and "is an input of this batch" in text and not (folder / "sub" / "b-peft").exists()
    (folder / "a-info.json").write_text("mine")
    status, text = batch("info", folder / "a.safetensors", folder / "sub")
    assert status == 1 and "1 done, 0 skipped, 1 failed" in text and "--overwrite" in text
    assert (folder / "a-info.json").read_text() == "mine"
    assert "1 done" in batch("info", folder / "a.safetensors", "--overwrite")[1]
    assert (mine / "adapter_model.safetensors").read_bytes() == before


def test_resuming_beside_the_inputs(folder, batch, tmp_path):
    """Each verb's results are remembered on their own, from any folder above."""
    for verb in ("kohya", "peft"):
        assert "2 done" in batch(verb, folder, "--resume")[1]
    for verb in ("kohya", "peft"):
        assert "0 done, 2 skipped" in batch(verb, tmp_path, "--resume")[1]
    (folder / "sub" / "b-kohya.safetensors").write_bytes(b"damaged")
    assert "1 done, 1 skipped" in batch("kohya", folder, "--resume")[1]


def test_a_training_s_two_files_have_two_results(folder, batch, run):
    """NAME.pair.safetensors and NAME.safetensors would both be NAME-a1111.safetensors."""
    assert run("pair", folder / "a.safetensors")[0] == 0 and run("pair", folder / "sub" / "b.safetensors")[0] == 0
    (folder / "sub" / "b.safetensors").unlink()
    assert "3 done" in batch("a1111", folder, "--no-card")[1]
    assert {"a-a1111.safetensors", "a-pair-a1111.safetensors", "sub/b-a1111.safetensors"} <= names(folder)


def test_a_report_is_no_card(folder, batch):
    """A1111 reads NAME.json beside a LoRA as its card."""
    (folder / "a.json").write_text('{"notes": "mine"}')
    assert "2 done" in batch("info", folder)[1]
    assert (folder / "a.json").read_text() == '{"notes": "mine"}'
    assert json.loads((folder / "a-info.json").read_text())["family"] == "sd1"


def test_one_log_when_it_is_named(folder, batch, tmp_path):
    log = tmp_path / "log.json"
    assert f"log: {log}" in batch("kohya", folder, "--log", log)[1] and len(json.loads(log.read_text())) == 2
    assert not list(folder.rglob(LOG)) and "2 skipped" in batch("kohya", folder, "--log", log, "--resume")[1]


def test_a_log_that_is_none_is_refused(folder, batch):
    for text in ("[1]", '[{"source": "x", "outputs": ["y"]}]', '{"a": 1}'):
        (folder / LOG).write_text(text)
        status, said = batch("kohya", folder)
        assert status == 1 and "is no log of a batch" in said and (folder / LOG).read_text() == text
