"""The README's first command, shortened: the real entry point, model, pair, files and picture."""

import subprocess
import sys
from pathlib import Path

import toml
from PIL import Image
from safetensors.torch import load_file

from demo import one_pair

ROOT = Path(__file__).parents[2]
SHORT = ["--max_train_steps", "3", "--train_batch_size", "2", "--style_start_step", "1"]


def test_the_demo_trains_and_leaves_both_files_and_the_picture(tmp_path):
    command = [sys.executable, "-m", "demo", "--output_dir", str(tmp_path), "--steps", "3", "--train", *SHORT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    ups = {key: value for key, value in load_file(tmp_path / "duotone.safetensors").items() if "lora_up" in key}
    assert ups and all(value.abs().max() > 0 for value in ups.values())
    assert (tmp_path / "duotone.pair.safetensors").is_file()
    picture = Image.open(tmp_path / "demo.png")
    assert picture.width > 7 * 256 and picture.height > 4 * 256
    for file in ("duotone.safetensors", "duotone.pair.safetensors", "demo.png"):
        assert str(tmp_path / file) in done.stdout
    made = tmp_path / "pairs" / "duotone_house"
    assert len(list((made / "made" / "style").glob("*.png"))) == one_pair.MADE
    assert "house" not in " ".join(one_pair.other_captions("house", one_pair.MADE))


def test_pairs_that_lie_there_are_kept_and_a_refusal_trains_on_the_pair_alone(tmp_path, monkeypatch, capsys):
    made = tmp_path / "pairs" / "ink_house"
    made.mkdir(parents=True)
    (made / "dataset.toml").write_text("kept", encoding="utf-8")
    assert one_pair.make_pairs("ink", "house", tmp_path) == made / "dataset.toml"
    assert (made / "dataset.toml").read_text(encoding="utf-8") == "kept"

    monkeypatch.setattr(one_pair, "MODEL_DIR", tmp_path / "none")
    calls = []
    monkeypatch.setattr(one_pair, "_train", lambda *given: calls.append(given) or 0)
    assert one_pair.train_style_on_more("poster", "house", tmp_path) == 0
    assert "no pairs made" in capsys.readouterr().out
    assert "--content" in calls[0][3]


def test_training_on_made_pairs_takes_the_preset_without_its_own_pair(tmp_path, monkeypatch):
    monkeypatch.setattr(one_pair, "make_pairs", lambda *given: tmp_path / "dataset.toml")
    calls = []
    monkeypatch.setattr(one_pair, "_train", lambda *given: calls.append(given) or 0)
    one_pair.train_style_on_more("ink", "house", tmp_path, ["--seed", "3"])
    pictures = ["--dataset_config", str(tmp_path / "dataset.toml"), "--train_batch_size", "2"]
    assert calls[0][3] == [*pictures, "--seed", "3"]
    preset, given = toml.load(one_pair.PRESET), toml.load(calls[0][1])
    assert given["network"] == preset["network"] and set(preset["pair"]) - set(given["pair"]) == {"content", "style"}


def test_a_mistake_is_one_line(tmp_path):
    command = [sys.executable, "-m", "demo", "--pair_alone", "--output_dir", str(tmp_path), "--train"]
    done = subprocess.run([*command, "--max_train_stepz", "3"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: unknown option --max_train_stepz (did you mean")
