"""``batch``: what it may replace, what it remembers, and how it stops."""

import os

import pytest

KEYS = [
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
]


def test_a_batch_replaces_only_what_a_batch_wrote(lora, run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a", "b"):
        lora("sd1", f"in/{name}.safetensors", keys=KEYS)
    (out / "a.safetensors").write_text("mine")
    arguments = ("batch", "kohya", tmp_path / "in", "-o", out, "--jobs", 1)
    assert "refuse  " in run(*arguments, "--dry-run")[1]
    status, text, _ = run(*arguments)
    assert status == 1 and "1 done, 0 skipped, 1 failed" in text and "--overwrite" in text
    assert (out / "a.safetensors").read_text() == "mine"
    assert "2 done" in run(*arguments, "--overwrite")[1]
    assert "2 done" in run(*arguments)[1]  # both are the batch's own by now


def test_a_batch_into_its_own_inputs_is_refused(lora, run, tmp_path):
    lora("sd1", "one/a.safetensors", keys=KEYS)
    before = lora("sd1", "two/a.safetensors", keys=KEYS, seed=1).read_bytes()
    one, two = tmp_path / "one", tmp_path / "two"
    for inputs in ((one / "a.safetensors", two), (two,)):
        status, _, errors = run("batch", "kohya", *inputs, "-o", two, "--jobs", 1)
        assert status == 1 and "is an input of this batch" in errors
    assert (two / "a.safetensors").read_bytes() == before
    # A folder above the inputs is as good as any.
    assert "1 done" in run("batch", "kohya", two, "-o", tmp_path, "--jobs", 1)[1]


def test_the_log_holds_from_any_folder_and_for_other_inputs(lora, run, tmp_path, monkeypatch):
    for name in ("one/a", "two/b"):
        lora("sd1", f"{name}.safetensors", keys=KEYS)
    out = tmp_path / "out"
    assert "1 done" in run("batch", "kohya", tmp_path / "one", "-o", out, "--jobs", 1)[1]
    assert "1 done" in run("batch", "kohya", tmp_path / "two", "-o", out, "--jobs", 1)[1]
    monkeypatch.chdir(tmp_path)
    assert "0 done, 1 skipped" in run("batch", "kohya", "one", "-o", "out", "--jobs", 1, "--resume")[1]
    (out / "convert-batch.json").write_text("{}[]")
    assert "is no log of a batch" in run("batch", "kohya", "one", "-o", "out", "--jobs", 1)[2]


def test_names_that_are_no_unicode_go_into_the_log(lora, run, tmp_path):
    source = lora("sd1", keys=KEYS)
    (tmp_path / "in").mkdir()
    name = os.fsdecode(b"\xff.safetensors")
    try:
        source.rename(tmp_path / "in" / name)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes Unicode names only")
    arguments = ("batch", "kohya", tmp_path / "in", "-o", tmp_path / "out", "--jobs", 1, "--resume")
    assert "1 done" in run(*arguments)[1] and "1 skipped" in run(*arguments)[1]


def test_a_stopped_batch_does_not_go_on(lora, tmp_path, monkeypatch):
    """Ctrl-C ends what runs; what waits is not begun, and the log names it."""
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from convert.batch import jobs
    from convert.batch.jobs import Job
    from convert.verbs import batch

    class Pool(ThreadPoolExecutor):
        def __init__(self, count, mp_context):
            super().__init__(count)

        def shutdown(self, wait=True, **named):
            super().shutdown(wait=False, **named)  # takes no more; only now may end what runs
            stopping.set()
            super().shutdown(wait)

    begun, stopping = [], threading.Event()

    def work(job, threads):
        begun.append(job)
        return {"source": str(job.source), "status": "done"} if len(begun) < 4 else (stopping.wait() and {})

    monkeypatch.setattr(batch, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(jobs, "run", work)
    listed = [Job(tmp_path / f"{i}", tmp_path / f"o{i}", "kohya", ()) for i in range(20)]
    records = batch._run_all(listed, {}, 2)
    assert {record["status"] for record in next(records)} == {"waiting"}
    assert next(records)
    records.close()
    assert len(begun) < 10


def test_folders_that_are_one_input_stay_one(lora, run, tmp_path):
    """An adapter of several models, and a release of two branches: one job each, named by the folder."""
    keys = [*KEYS, "lora_te_text_model_encoder_layers_0_mlp_fc1"]
    assert run("peft", lora("sd1", keys=keys), "-o", tmp_path / "in" / "adapter")[0] == 0
    block = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2"
    style = lora("sdxl", "xl.safetensors", keys=[f"{block}_to_q", f"{block}_to_k"], rank=4)
    pair = tmp_path / "xl.pair.safetensors"
    assert run("pair", style, "--content", style, "-o", pair)[0] == 0
    assert run("official", pair, "-o", tmp_path / "in" / "release")[0] == 0
    text = run("batch", "pair", tmp_path / "in", "-o", tmp_path / "out", "--jobs", 1, "--verify")[1]
    assert "2 done, 0 skipped, 0 failed" in text
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors")} == {
        "adapter.pair.safetensors", "release.pair.safetensors"
    }  # fmt: skip


def test_the_summary_tells_files_of_one_name_apart(lora, run, tmp_path):
    for name in ("one/a", "two/a"):
        lora("sd1", f"in/{name}.safetensors", keys=KEYS)
    text = run("batch", "kohya", tmp_path / "in", "-o", tmp_path / "out", "--jobs", 1)[1]
    assert os.path.join("one", "a.safetensors") in text and os.path.join("two", "a.safetensors") in text
