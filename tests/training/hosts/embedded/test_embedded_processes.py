"""Runs in processes of their own: signals, and two processes against one."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toml
import torch
from safetensors.torch import load_file

from pair_network.training.hosts.embedded.state import read_train_state

REPORT = {"report.html", "x-record.json"}


@pytest.fixture
def dataset_file(tmp_path, pairs):
    path = tmp_path / "data.toml"
    path.write_text(toml.dumps(pairs), encoding="utf-8")
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without telling it")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_state_and_says_how_to_resume(start_process, dataset_file, tmp_path, train, pairs, sent, code):
    argv = ["--dataset_config", str(dataset_file), "--max_train_steps", "100000", "--cache_latents"]
    argv += ["--style_start_step", "3"]
    process = start_process(*argv)
    wait_for_steps(process, 5)
    process.send_signal(sent)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == code, output
    resume = re.search(r'stopped after step (\d+).*--resume "(.+)"', output)
    assert resume, output
    step, state = int(resume[1]), resume[2]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stem = f"x-step{step:08d}"
    assert names - REPORT == {
        f"{stem}-state",
        f"{stem}.safetensors",
        f"{stem}.pair.safetensors",
    }  # nothing half-written

    if sent == signal.SIGTERM:  # the message is true: the run continues from there as if nothing had happened
        argv = ["--cache_latents", "--style_start_step", "3", "--max_train_steps", str(step + 2)]
        resumed = train(pairs, *argv, "--resume", state, name="resumed")
        straight = train(pairs, *argv, name="straight")
        a, b = (load_file(str(out / "x.pair.safetensors")) for out in (resumed, straight))
        assert all(torch.equal(a[key], b[key]) for key in b)


def wait_for_steps(process, count, seconds=900):
    """Reads the progress bar until the step counter reaches ``count``."""
    text, end = "", time.monotonic() + seconds
    while time.monotonic() < end:
        text += process.stdout.read(1)
        found = re.findall(r"(\d+)/100000", text)
        if found and int(found[-1]) >= count:
            return
        assert process.poll() is None, text
    raise AssertionError(text)


def test_mistakes_are_one_line_and_exit_code_2(start_process, dataset_file, tmp_path):
    (tmp_path / "content" / "dog.png").unlink()
    process = start_process("--dataset_config", str(dataset_file))
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 2
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "dog" in errors[0] and "Traceback" not in output
    assert not (tmp_path / "out").exists()


@pytest.fixture
def run_script(tmp_path, noise_source):
    """A script that trains with noise and timesteps that are functions of the row, and without previews."""
    script = tmp_path / "run.py"
    body = """
import sys
from pair_network.training.hosts.embedded import entry, hooks, trainer
entry.PairTrainer.sample_images = trainer.EmbeddedTrainer.sample_images
hooks.draw_noise, hooks.draw_timesteps = draw_noise, draw_timesteps
sys.exit(entry.train_pairs(sys.argv[1:]))
"""
    script.write_text(noise_source + body, encoding="utf-8")
    return script


def two_processes(start_process, script, *argv, out):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    launcher += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={port}"]
    process = start_process(*argv, launcher=(*launcher, str(script)), out=out)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output


GROUP = """
import gc, sys
from pathlib import Path
import torch
from pair_network.training.hosts.embedded.session import group_ends_last

def threads():
    return [task for task in Path("/proc/self/task").glob("*/comm") if "gloo" in task.read_text()]

torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
if sys.argv[1:]:
    group_ends_last()
torch.distributed.destroy_process_group()
assert threads()
del network
gc.collect()
print(bool(threads()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="shows its threads by name on Linux alone")
@pytest.mark.parametrize("is_kept", [True, False])
def test_the_network_is_not_the_last_to_let_go_of_the_group(is_kept):
    """The wrapper's end waits for the group's threads with Python's lock in hand, and they may wait for that."""
    command = [sys.executable, "-c", GROUP, *["kept"] * is_kept]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[4], timeout=900)
    assert (done.returncode, done.stdout) == (0, f"{is_kept}\n"), done.stderr


def test_two_processes_match_one_with_twice_the_batch(
    start_process, run_script, dataset_file, tmp_path, train, pairs, noise_by_row
):
    # two pairs, so that each process sees a pair that the other one does not; the last pair is taken out
    for side in ("content", "style"):
        (tmp_path / side / "fox.png").unlink()
    argv = ["--cache_latents", "--style_start_step", "1", "--max_train_steps", "4", "--save_state_on_train_end"]
    # AdamW divides a gradient by its own size: where that is next to nothing, rounding would decide the step.
    argv += ["--optimizer_args", "eps=1e-5"]
    two_processes(start_process, run_script, *argv, "--dataset_config", str(dataset_file), out="two")
    pairs["datasets"][0]["batch_size"] = 2
    train(pairs, *argv, name="one")
    assert [read_train_state(tmp_path / out / "x-state").num_processes for out in ("one", "two")] == [1, 2]
    one, two = (load_file(str(tmp_path / out / "x.pair.safetensors")) for out in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=0, atol=1e-5, msg=key)
    # companion: a pair that only the other process saw has moved too, so the gradients did cross
    moved = [value for key, value in two.items() if "content" in key and value.dim() == 3]
    assert moved and all(value[pair].abs().max() > 0 for value in moved for pair in range(2))
