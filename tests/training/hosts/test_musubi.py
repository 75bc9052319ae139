"""musubi-tuner's own trainers on tiny models of its own classes, in a subprocess of its environment."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).parents[3]
NEEDED = ("MUSUBI_DIR", "MUSUBI_PYTHON")
pytestmark = [
    pytest.mark.musubi,
    pytest.mark.skipif(
        not all(os.environ.get(name) for name in NEEDED),
        reason=f"needs a checkout of musubi-tuner: set {', '.join(NEEDED)}",
    ),
]
LAYERS = {"flux2": 24, "qwen_image": 32, "z_image": 16, "krea2": 20, "ideogram4": 8}


def ups(path, branch=""):
    return {key: value for key, value in load_file(path).items() if key.startswith(branch) and "lora_up" in key}


def moved(values):
    return sum(bool(value.abs().max() > 0) for value in values.values())


def run(folder, family):
    command = [
        os.environ["MUSUBI_PYTHON"],
        "tests/training/hosts/musubi_run.py",
        os.environ["MUSUBI_DIR"],
        str(ROOT),
        str(folder),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, family], env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600
    )
    assert done.returncode == 0, done.stdout[-6000:]
    facts = [json.loads(line) for line in re.findall(r"RESULT (.*)", done.stdout)]
    return {fact["name"]: fact for fact in facts}, done.stdout


@pytest.mark.parametrize("family", LAYERS)
def test_a_family_trains_saves_continues_and_loads(tmp_path, make_picture, family):
    for number, size in enumerate([(128, 128), (128, 128), (192, 96)]):
        for side in ("content", "style"):
            make_picture(tmp_path / side / f"{number}.png", (40 * number, 200, 90), size)
    results, log = run(tmp_path, family)
    out = tmp_path / "out"

    error = results["uncached"]["error"]
    assert error.startswith("6 images are not cached") and "_cache_latents.py --dataset_config" in error
    assert "_cache_text_encoder_outputs.py" in error and "\n" not in error

    trained = results["trained"]
    assert trained["steps"] == 4 and trained["misaligned"] == 0
    alone = {**trained["losses"]["content"], **trained["losses"]["style"]}
    assert trained["losses"]["joint"] == pytest.approx(alone, abs=1e-4), "rows of a joined batch see each other"

    style, coupled = out / "style.safetensors", out / "style.pair.safetensors"
    # The last block's text stream is not read any more in some families: its ups stay at zero.
    assert len(ups(style)) == LAYERS[family] and moved(ups(style)) >= LAYERS[family] - 6, log[-3000:]
    content = ups(coupled, "content.")
    assert {value.shape[0] for value in content.values()} == {3} and moved(content) >= LAYERS[family] - 6
    with safe_open(style, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "pair_network" and metadata["pair_network_num_pairs"] == "3"
    assert metadata["modelspec.trigger_phrase"] == "in ink style"

    low = ups(out / "low.safetensors")
    assert len(low) > LAYERS[family] and all(torch.isfinite(value).all() for value in low.values()) and moved(low)
    before, more = ups(style), ups(out / "more.safetensors")
    assert all(torch.allclose(before[key], more[key], atol=1e-4) for key in before)
    assert json.loads((out / "more-state/pair_state.json").read_text(encoding="utf-8")) == {"pair_step": 4}
    assert {"merged.safetensors", "more-step00000002.safetensors"} <= set(results["all"]["files"])
