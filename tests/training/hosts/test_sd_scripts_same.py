"""The embedded host and sd-scripts on the same weights, images, noise and timesteps."""

import ast
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.sd_scripts

STEP = ["--style_start_step", "0", "--max_train_steps", "1", "--learning_rate", "1e-9"]
STEP += ["--seed", "1", "--resolution", "128"]


def losses(log):
    return ast.literal_eval(next(line for line in log.splitlines() if line.startswith("LOSSES"))[len("LOSSES ") :])


def embedded_losses(sd_scripts, model, weights):
    options = ["--pretrained_model_name_or_path", model, "--output_dir", sd_scripts.folder / "embedded", *STEP]
    options += ["--output_name", "style", "--network_weights", weights, "--mixed_precision", "no"]
    options += ["--network_dim", "4", "--network_alpha", "4", *sd_scripts.pair()]
    command = [sys.executable, sd_scripts.tests / "sd_scripts_same.py", "embedded", sd_scripts.project, *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return losses(done.stdout)


@pytest.mark.parametrize("model_type", ["sd", "sdxl"])
def test_both_hosts_compute_the_same_two_losses(sd_scripts, model_type):
    """Both branches hold trained weights, so that a wrong route or stop-gradient row would change a loss."""
    model = sd_scripts.folder / "model"
    sd_scripts.python(
        sd_scripts.tests / "sd_scripts_same.py", "make", model_type, model, os.environ["SD_SCRIPTS_TOKENIZERS"]
    )
    sd_scripts.train("--output_name", "first", model_type=model_type)
    weights = sd_scripts.out / "first.pair.safetensors"
    patched = {"PAIR_PATCH": "sd_scripts_same", "MODEL_FOLDER": str(model), "model_type": model_type}
    theirs = losses(sd_scripts.train(*STEP, "--network_weights", weights, **patched))
    ours = embedded_losses(sd_scripts, model, weights)
    assert ours.keys() == {"content", "style", "sum"} and ours["sum"] == pytest.approx(ours["content"] + ours["style"])
    print(f"{model_type}: embedded {ours}, sd-scripts {theirs}")
    assert ours == pytest.approx(theirs, abs=1e-5)
    plain = losses(sd_scripts.train(*STEP, **patched))
    # Few steps of a small SDXL move its loss by no more than 9e-4: still ninety times what the hosts may differ by.
    assert plain["style"] != pytest.approx(theirs["style"], abs=1e-4), "the weights change nothing: this proves nothing"
