"""The README's first command, shortened: the real entry point, model, pair, files and picture."""

import subprocess
import sys
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]


def test_the_demo_trains_and_leaves_both_files_and_the_picture(tmp_path):
    command = [sys.executable, "-m", "demo", "--output_dir", str(tmp_path), "--steps", "3", "--train"]
    short = ["--max_train_steps", "3", "--train_batch_size", "2", "--style_start_step", "1"]
    done = subprocess.run([*command, *short], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    ups = {key: value for key, value in load_file(tmp_path / "ink.safetensors").items() if "lora_up" in key}
    assert ups and all(value.abs().max() > 0 for value in ups.values())
    assert (tmp_path / "ink.pair.safetensors").is_file()
    picture = Image.open(tmp_path / "demo.png")
    assert picture.width > 7 * 256 and picture.height > 4 * 256
    for file in ("ink.safetensors", "ink.pair.safetensors", "demo.png"):
        assert str(tmp_path / file) in done.stdout


def test_a_mistake_is_one_line(tmp_path):
    command = [sys.executable, "-m", "demo", "--output_dir", str(tmp_path), "--train", "--max_train_stepz", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: unknown option --max_train_stepz (did you mean")
