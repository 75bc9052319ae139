"""The mixin on kohya's real NetworkTrainer, in a subprocess of the user's sd-scripts environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
NEEDED = ("SD_SCRIPTS_DIR", "SD_SCRIPTS_PYTHON", "SD_SCRIPTS_TOKENIZERS")
needs_checkout = [
    pytest.mark.sd_scripts,
    pytest.mark.skipif(
        not all(os.environ.get(name) for name in NEEDED), reason=f"set {', '.join(NEEDED)} to run against sd-scripts"
    ),
]


def picture(path, color, size=(128, 128)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color)
    image.paste(tuple(255 - c for c in color), (8, 8, 30, 60))
    image.save(path)
    return path


def run(tmp_path, *options, **environment):
    command = [
        os.environ["SD_SCRIPTS_PYTHON"], str(ROOT / "tests/hosts/sd_scripts_run.py"), os.environ["SD_SCRIPTS_DIR"], str(ROOT),
        "--pretrained_model_name_or_path", "tiny", "--tokenizer_cache_dir", os.environ["SD_SCRIPTS_TOKENIZERS"],
        "--output_dir", str(tmp_path / "out"), "--output_name", "style", "--seed", "1", "--resolution", "128",
        "--network_dim", "4", "--network_alpha", "4", "--max_train_steps", "4", "--learning_rate", "1e-2",
        "--max_data_loader_n_workers", "0", "--save_precision", "float", *options,
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.environ["SD_SCRIPTS_DIR"]}
    shim = os.environ.get("SD_SCRIPTS_PYTHONPATH")  # e.g. a folder with a stand-in for a missing optional package
    if shim:
        env["PYTHONPATH"] += os.pathsep + shim
    done = subprocess.run(command, env={**env, **environment}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.fixture
def pair(tmp_path):
    return [
        "--content", str(picture(tmp_path / "content.png", (200, 40, 40))),
        "--style", str(picture(tmp_path / "styled.png", (20, 60, 160))),
        "--content_prompt", "a photo of a sbu house", "--style_prompt", "in digital art style",
    ]  # fmt: skip


class TestOnSdScripts:
    pytestmark = needs_checkout

    def test_trains_four_steps_with_gradient_checkpointing_and_saves_both_files(self, tmp_path, pair):
        """Steps 0 is content-only, 1 to 3 are joint: both branches must have moved, and only the ups."""
        log = run(tmp_path, *pair, "--gradient_checkpointing", "--style_start_step", "1", "--cache_latents")
        style, coupled = tmp_path / "out/style.safetensors", tmp_path / "out/style.pair.safetensors"
        ups = {key: value for key, value in load_file(style).items() if "lora_up" in key}
        assert len(ups) == 128 and all(value.abs().max() > 0 for value in ups.values()), log[-2000:]
        content = {k: v for k, v in load_file(coupled).items() if k.startswith("content.") and "lora_up" in k}
        assert len(content) == 128 and all(value.abs().max() > 0 for value in content.values())
        with safe_open(style, "pt") as handle:
            metadata = handle.metadata()
        assert metadata["ss_network_module"] == "pair_network" and float(metadata["pair_network_gram_defect"]) < 1e-5
        assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
        assert metadata["modelspec.trigger_phrase"] == "in digital art style"

    def test_content_only_steps_leave_style_ups_at_zero(self, tmp_path, pair):
        run(tmp_path, *pair, "--style_start_step", "3", "--save_every_n_steps", "3")
        before = load_file(tmp_path / "out/style-step00000003.safetensors")
        after = load_file(tmp_path / "out/style.safetensors")
        assert all(value.abs().max() == 0 for key, value in before.items() if "lora_up" in key)
        assert any(value.abs().max() > 0 for key, value in after.items() if "lora_up" in key)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "train_pair_network.py"), "--sd_scripts", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --sd_scripts") and "no train_network.py" in done.stderr


def test_a_host_without_the_hooks_is_refused_by_name():
    from pair_network import PairError
    from pair_network.hosts.sd_scripts import pair_trainer_class

    class OldTrainer:
        def train(self, args): ...
        def call_unet(self, args): ...

    with pytest.raises(PairError, match=r"process_batch is missing.*v0\.10\.0 or later"):
        pair_trainer_class(OldTrainer)
