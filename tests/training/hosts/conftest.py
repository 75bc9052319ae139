"""Runs of kohya's real trainers, in subprocesses of the user's sd-scripts environment."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pair_network.training.hosts.sd_scripts.families import TRAINERS

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
NEEDED = ("SD_SCRIPTS_DIR", "SD_SCRIPTS_PYTHON", "SD_SCRIPTS_TOKENIZERS")
COMMON = [
    "--seed", "1", "--resolution", "128", "--network_dim", "4", "--network_alpha", "4", "--max_train_steps", "4",
    "--learning_rate", "1e-2", "--save_precision", "float", "--style_start_step", "1", "--output_name", "style",
]  # fmt: skip


def pytest_collection_modifyitems(items):
    missing = [name for name in NEEDED if not os.environ.get(name)]
    for item in items:
        if missing and item.get_closest_marker("sd_scripts"):
            item.add_marker(pytest.mark.skip(reason=f"needs a checkout of sd-scripts: set {', '.join(missing)}"))


IDENTICAL = """
[general]
caption_extension = ".txt"
[[datasets]]
resolution = 128
batch_size = 2
enable_bucket = true
bucket_reso_steps = 64
min_bucket_reso = 64
  [[datasets.subsets]]
  image_dir = "{folder}/style"
  class_tokens = "a photo of a house in ink style"
  num_repeats = 2
  flip_aug = true
  custom_attributes = {{ content_dir = "{folder}/content", content_class_tokens = "a photo of a house" }}
"""


class SdScripts:
    """The checkout that the environment names, and ways to run things on it."""

    project = ROOT
    tests = HERE

    def __init__(self, folder: Path, server=None):
        self.folder, self.server = folder, server
        self.out = folder / "out"

    @property
    def checkout(self) -> str:
        return os.environ["SD_SCRIPTS_DIR"]

    def has(self, file: str) -> bool:
        return Path(self.checkout, file).is_file()

    def python(self, *command, fails=False, launcher=(), **environment):
        """Output of a command of sd-scripts' Python; it must end well, or with an error where ``fails``."""
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": self.checkout, **environment}
        command = [str(part) for part in command]
        if launcher or self.server is None:
            done = subprocess.run(
                [os.environ["SD_SCRIPTS_PYTHON"], *launcher, *command],
                env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, cwd=self.folder,
            )  # fmt: skip
            status, log = done.returncode, done.stdout
        else:
            status, log = self.server.run(command, env, self.folder)
        assert (status != 0) == fails, log[-8000:]
        return log

    def train(self, *options, model_type="sd", workers=0, common=COMMON, **named):
        """Trains a tiny model of the family; without --dataset_config on the quick form's pair."""
        tokenizers = self.folder / "tokenizers"
        if not tokenizers.exists():  # kohya saves tokenizers there that it does not find
            shutil.copytree(os.environ["SD_SCRIPTS_TOKENIZERS"], tokenizers)
        tiny = self.folder / "tiny.safetensors"  # a header without tensors: these come from sd_scripts_tiny
        tiny.write_bytes(b"\x02" + bytes(7) + b"{}")
        files = [part for name in TRAINERS[model_type].needs for part in (f"--{name}", tiny)]
        command = [
            HERE / "sd_scripts_run.py", self.checkout, ROOT, "--model_type", model_type,
            "--pretrained_model_name_or_path", tiny, "--tokenizer_cache_dir", tokenizers, "--output_dir", self.out,
            "--max_data_loader_n_workers", workers, *files, *common, *options,
        ]  # fmt: skip
        if not {"--dataset_config", "--content", "--train_data_dir"} & set(map(str, options)):
            command += self.pair()
        if "PAIR_STOCK" in named:  # kohya's script knows none of our options
            at = command.index("--style_start_step")
            del command[at : at + 2]
        return self.python(*command, **named)

    def pair(self):
        return [
            "--content", picture(self.folder / "content.png", (200, 40, 40)),
            "--style", picture(self.folder / "styled.png", (20, 60, 160)),
            "--content_prompt", "a photo of a sbu house", "--style_prompt", "in digital art style",
        ]  # fmt: skip

    def dataset(self, text, name="dataset.toml"):
        """Path of a dataset TOML."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path


def picture(path, color, size=(128, 128)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color)
    image.paste(tuple(255 - value for value in color), (8, 8, 30, 60))
    image.save(path)
    return path


class Server:
    """One process of sd-scripts' Python that has imported everything and forks for each command."""

    def __init__(self):
        self.process = subprocess.Popen(
            [os.environ["SD_SCRIPTS_PYTHON"], HERE / "sd_scripts_server.py", os.environ["SD_SCRIPTS_DIR"]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def run(self, command, env, folder):
        log = folder / "run.log"
        request = {"argv": command, "env": env, "cwd": str(folder), "log": str(log)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        return status, log.read_text(encoding="utf-8", errors="replace")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="session")
def server():
    """None where processes cannot be forked: every command then starts its own Python."""
    if not hasattr(os, "fork") or not all(os.environ.get(name) for name in NEEDED):
        yield None
        return
    server = Server()
    yield server
    server.close()


@pytest.fixture
def sd_scripts(tmp_path, server):
    return SdScripts(tmp_path, server)


@pytest.fixture
def identical(sd_scripts):
    """Pairs of equal images in two shapes, so that a batch's content rows must equal its style rows."""
    for number, size in enumerate([(128, 128), (128, 128), (192, 64), (192, 64), (128, 128)]):
        color = (40 * number, 250 - 30 * number, 90)
        picture(sd_scripts.folder / f"style/{number}.png", color, size)
        picture(sd_scripts.folder / f"content/{number}.png", color, size)
    return sd_scripts.dataset(IDENTICAL.format(folder=sd_scripts.folder.as_posix()))


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture
def run_entry():
    """Function: the finished process of train_pair_network.py with this test's own Python."""

    def run(*options, **environment):
        env = {name: value for name, value in os.environ.items() if name != "SD_SCRIPTS_DIR"}
        return subprocess.run(
            [sys.executable, str(ROOT / "train_pair_network.py"), *map(str, options)],
            env={**env, **environment}, capture_output=True, text=True, timeout=900,
        )  # fmt: skip

    return run
