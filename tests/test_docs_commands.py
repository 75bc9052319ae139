"""Every command in README and docs is run here on the bundled model, or stands in a list with the reason.

What differs from what is typed: names of models, pictures and folders that a reader has, and numbers of steps.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import toml

sys.path.insert(0, str(Path(__file__).parent))
from docs_blocks import PAGES, ROOT, all_commands, blocks, commands, words

from pair_network.__main__ import main

MODEL = str(ROOT / "demo/model")
# Commands that are not run here: the beginning of what is typed, or a part of it, and why.
NOT_RUN = {
    r"run\.py (demo|test|lint|setup|app)": "tests/demo, this suite, tests/test_run.py and tests/app do",
    r"benchmarks\.": "hours; tests/benchmarks run each bench in little",
    r"demo\.": "long; tests/demo run it in little",
    r"--sd_scripts|sd_scripts\.check|SD_SCRIPTS": "needs a checkout: tests/training/hosts/test_sd_scripts*.py",
    r"--musubi|musubi\.check": "needs a checkout: tests/training/hosts/test_musubi.py",
    r"pytest|tests/convert/comfyui": "tests are run by themselves",
    r"pair_network pairs": "makes and judges many pictures, minutes: tests/pseudo_pairs",
    r"convert bake|python -m convert VERB": "minutes, or a pattern: tests/convert",
    r"^(source|cd|git|pip|C:|accelerate)": "sets up a machine",
    r"-m pip|-m venv": "installs packages",
    r"pair-network app|python -m pair_network app": "serves until it is stopped: tests/app",
}
# What a reader has, and what stands for it here.
OWN = {
    "sd_xl_base_1.0.safetensors": MODEL, "models/sd_xl_base_1.0.safetensors": MODEL, "models/sd15": MODEL,
    "path/to/model": MODEL, "demo/model": MODEL, "FILE…": "output/digital_art.safetensors",
    "demo/pairs/content/house.png": str(ROOT / "demo/pairs/content/house.png"), "bf16": "no",
    "presets/sdxl_12gb.toml": str(ROOT / "presets/sdxl_12gb.toml"),
}  # fmt: skip
FEW = {
    "train": "--max_train_steps 2 --style_start_step 1 --train_batch_size 1 --network_dim 8 --network_alpha 8",
    "generate": "--steps 2", "restyle": "--steps 2 --width 64",
}  # fmt: skip
FOLDERS = (
    "path/to/webui/extensions", "path/to/stable-diffusion-webui/extensions", "path/to/stable-diffusion-webui/models",
    "path/to/webui/models", "ComfyUI/custom_nodes", "path/to/ComfyUI/custom_nodes", "ComfyUI/models/loras",
    "path/to/ComfyUI/models/loras",
)  # fmt: skip
FEW_IN_PYTHON = [
    (r"num_inference_steps=\d+", "num_inference_steps=2"),
    (r"guidance_scale=3\.0\)", "guidance_scale=3.0, num_inference_steps=2)"),
    (r"strength=0\.6\)", "strength=0.6, num_inference_steps=4)"),
    (r'pipe\("a photo of a cat"\)', 'pipe("a photo of a cat", num_inference_steps=2)'),
    (r'"path/to/stable-diffusion-folder"|"demo/model"', repr(MODEL)),
]


def reason_of(command):
    return next((reason for part, reason in NOT_RUN.items() if re.search(part, command)), None)


def arguments(command):
    """The verb and its options, of ``python run.py VERB``, ``python -m pair_network VERB`` or ``pair-network VERB``."""
    parts = words(command)
    start = {"run.py": 2, "-m": 3 if parts[2:3] == ["pair_network"] else 2}.get(parts[1], 1)
    start = 1 if parts[0] == "pair-network" else start
    verb, *rest = parts[start:]
    if (parts[1], verb) == ("run.py", "package"):
        verb, rest = "convert", ["package", *rest]
    few = FEW.get(verb, "").split() + ["--resolution", "64"] * ("--resolution" in rest)
    few += ["--more_pairs", "1"] * ("--more_pairs" in rest)
    return [verb, *(OWN.get(part, part) for part in rest), *few]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with what the pages name: a pair, folders of UIs, and LoRAs of a training of two steps."""
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copyfile(ROOT / "demo/pairs/content/house.png", "photo.png")
        shutil.copyfile(ROOT / "demo/pairs/ink/house.png", "painted.png")
        for place in FOLDERS:
            Path(place).mkdir(parents=True)
        short = ["--model", MODEL, "--content", "photo.png", "--style", "painted.png", "--words", "in ink style"]
        assert main(["train", *short, "--output_dir", "made", *FEW["train"].split()]) == 0
        for name in ("output/digital_art", "output/demo/duotone", "output/ink_wash/ink_wash", "style", "dog"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            for suffix in (".safetensors", ".pair.safetensors"):
                shutil.copyfile(f"made/ink{suffix}", f"{name}{suffix}")
        for side in ("content", "style"):
            place = Path("output/pairs/made") / side
            place.mkdir(parents=True)
            shutil.copyfile("photo.png" if side == "content" else "painted.png", place / "0001.png")
            (place / "0001.txt").write_text("a photo of a house")
    return folder


RUN = [(place, command) for place, command in all_commands() if reason_of(command) is None]


@pytest.mark.parametrize(("place", "command"), RUN, ids=[f"{place} {command[:40]}" for place, command in RUN])
def test_a_command_runs_as_it_is_typed(desk, monkeypatch, place, command):
    monkeypatch.chdir(desk)
    assert main(arguments(command)) == 0


def test_every_reason_is_still_of_use():
    left_out = [command for _, command in all_commands() if reason_of(command)]
    unused = [part for part in NOT_RUN if not any(re.search(part, command) for command in left_out)]
    assert unused == []
    assert len(RUN) >= 12


@pytest.mark.parametrize("page", ["README.md", "diffusers.md"])
def test_python_blocks_run_in_their_order(desk, monkeypatch, page):
    monkeypatch.chdir(desk)
    path = next(path for path in PAGES if path.name == page)
    names = {}
    for block in blocks(path):
        # A model from the hub; tests/sampling/modular runs that example on a tiny one.
        if block.language == "python" and "ModularPipeline.from_pretrained" not in block.text:
            code = block.text
            for pattern, few in FEW_IN_PYTHON:
                code = re.sub(pattern, few.replace("\\", "\\\\"), code)
            exec(compile(code, f"{page}:{block.line}", "exec"), names)
    assert names


@pytest.mark.parametrize("page", PAGES, ids=[path.name for path in PAGES])
def test_settings_in_the_pages_can_be_read(page):
    for block in blocks(page):
        if block.language == "toml":
            toml.loads(block.text)
        if block.language == "json":
            json.loads(block.text)


def test_blocks_are_found_with_their_continuation_lines(tmp_path):
    page = tmp_path / "p.md"
    page.write_text("x\n\n    python a.py \\\n        --b  # why\n\n   ```bash\n   pip c\n   ```\n", encoding="utf-8")
    assert [command for block in blocks(page) for command in commands(block)] == ["python a.py --b", "pip c"]
