"""A folder as collectors have it: many good files, broken ones of every kind between them, one batch, one summary."""

import json
import os
import random

import torch
from safetensors.torch import load_file, save_file

KEYS = (
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
    "lora_unet_mid_block_attentions_0_proj_in",
)
# PAIR_NETWORK_BATCH_FILES=5000 runs the size that the docs speak of; that takes minutes.
COUNT = int(os.environ.get("PAIR_NETWORK_BATCH_FILES", "140"))
BROKEN = ("empty", "cut", "text", "lokr", "dora", "names", "checkpoint", "incomplete", "nan")


def plain(source):
    tensors = {}
    for key in KEYS:
        tensors[f"{key}.lora_down.weight"] = torch.full((2, 8), source.random())
        tensors[f"{key}.lora_up.weight"] = torch.full((8, 2), source.random())
        tensors[f"{key}.alpha"] = torch.tensor(1.0)
    return tensors


def write(path, kind, source):
    tensors = plain(source)
    if kind == "embedding":
        tensors["bundle_emb.word.clip_l"] = torch.ones(1, 768)
    elif kind == "lokr":
        tensors = {f"lora_unet_x_{source.randrange(99)}.lokr_w1": torch.ones(2, 2)}
    elif kind == "dora":
        tensors[f"{KEYS[0]}.dora_scale"] = torch.ones(8)
    elif kind == "names":
        tensors = {key.replace("mid_block", f"blocks_{source.randrange(99)}"): value for key, value in tensors.items()}
    elif kind == "checkpoint":
        tensors = {"model.diffusion_model.out.2.weight": torch.ones(3)}
    elif kind == "incomplete":
        del tensors[f"{KEYS[1]}.lora_up.weight"]
    elif kind == "nan":
        tensors[f"{KEYS[1]}.lora_up.weight"][0, 0] = float("nan")
    save_file(tensors, path, {"ss_base_model_version": "sd_v1"})
    if kind in ("empty", "cut", "text"):
        content = path.read_bytes()
        path.write_bytes({"empty": b"", "text": b"404: not found"}.get(kind, content[: len(content) - 9]))


def test_mixed_and_broken_files_in_one_batch(run, tmp_path):
    source, kinds = random.Random(1), {}
    for number in range(COUNT):
        path = tmp_path / "in" / f"folder {number % 7}" / f"{number}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        kinds[path] = source.choice((*["good"] * 10, "embedding", *BROKEN))
        write(path, kinds[path], source)
    jobs = 1 if COUNT < 1000 else 2
    status, out, _ = run("batch", "kohya", tmp_path / "in", "-o", tmp_path / "out", "--jobs", jobs)
    good = [path for path, kind in kinds.items() if kind in ("good", "embedding")]
    failed = COUNT - len(good)
    assert status == 1 and f"{len(good)} done, 0 skipped, {failed} failed" in out
    for path in good:
        written = load_file(tmp_path / "out" / path.relative_to(tmp_path / "in"))
        assert torch.equal(written[f"{KEYS[0]}.lora_down.weight"], load_file(path)[f"{KEYS[0]}.lora_down.weight"])
    records = json.loads((tmp_path / "out" / "convert-batch.json").read_text(encoding="utf-8"))
    assert len(records) == COUNT and all(r["error"] for r in records if r["status"] == "failed")
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == len(good) + 1
    if failed > 40:
        lines = [line for line in out.splitlines() if line.startswith("failed: ")]
        assert len(lines) <= len(BROKEN) + 3 and sum(int(line.split()[1]) for line in lines) == failed
        assert all(words in out for words in ("LoKr", "DoRA", "is it a checkpoint?", "NaN", "--skip-unknown"))
        assert len(out.splitlines()) < 20, "five thousand lines are no summary"
