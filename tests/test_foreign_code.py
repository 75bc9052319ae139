"""What lies in the current folder, or hides in a picture, is never run."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from pair_network import images, starting
from pair_network.errors import PairError

ROOT = Path(__file__).parents[1]
TRAPS = ["safetensors", "torch", "numpy", "PIL", "diffusers", "transformers", "tqdm", "toml"]  # what we import
TRAPS += ["json", "signal", "argparse"]  # and Python's own
RUN_PY = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("run_script", {str(ROOT / "run.py")!r})
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)
run.PYTHON, run.set_up = sys.executable, lambda: 0  # the Python that runs the tests, as it is
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.fixture
def trapped(tmp_path):
    """A folder of models in which someone left modules that many programs import; each notes that it was run."""
    for name in TRAPS:
        ran = str(tmp_path / "RAN")
        (tmp_path / f"{name}.py").write_text(f"open({ran!r}, 'a').write({name!r})\nraise SystemExit('run')\n")
    return tmp_path


def start(folder, *command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


DRIVER = "driver.py"
ENTRIES = {
    "run.py convert": (DRIVER, "convert", "info", "missing.safetensors"),
    "run.py generate": (DRIVER, "generate", "--help"),
    "run.py restyle": (DRIVER, "restyle", "--help"),
    "run.py train": (DRIVER, "train", "--host", "embedded", "--help"),
    **{f"run.py {verb}": (DRIVER, verb, "--help") for verb in ("check", "pairs", "package")},
    "python -m convert": ("-m", "convert", "info", "missing.safetensors"),
    "python -m pair_network": ("-m", "pair_network", "generate", "--help"),
    "a module of the package": ("-m", "pair_network.training.hosts.sd_scripts.check"),
    "train_pair_network.py": (str(ROOT / "train_pair_network.py"), "--host", "embedded", "--help"),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_modules_in_the_current_folder_are_not_run(trapped, tmp_path_factory, entry):
    driver = tmp_path_factory.mktemp("elsewhere") / DRIVER
    driver.write_text(RUN_PY)
    command = [str(driver) if part == DRIVER else part for part in ENTRIES[entry]]
    done = start(trapped, *command)
    assert not (trapped / "RAN").exists(), f"{(trapped / 'RAN').read_text()} ran: {done.stderr}"
    said = done.stdout + done.stderr
    assert "usage" in said or "no such file" in said, said


def test_workers_of_a_batch_do_not_run_them_either(trapped, tmp_path_factory):
    import torch
    from safetensors.torch import save_file

    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{key}.lora_down.weight": torch.ones(2, 8), f"{key}.lora_up.weight": torch.ones(8, 2)}
    for name in ("a", "b"):
        save_file(tensors, str(trapped / f"{name}.safetensors"))
    (trapped / "threading.py").write_text((trapped / "json.py").read_text())
    out = tmp_path_factory.mktemp("out")
    done = start(trapped, "-m", "convert", "batch", "diffusers", ".", "-o", str(out), "--jobs", "2")
    assert not (trapped / "RAN").exists(), (trapped / "RAN").read_text()
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", ["convert", "pair_network"])
def test_programs_that_we_start_do_not_look_into_the_current_folder(trapped, monkeypatch, package):
    """Python's own modules and our names too: a training puts its LoRA into the UIs, the page starts trainings."""
    for name in (*sys.stdlib_module_names, "convert", "pair_network"):
        (trapped / f"{name}.py").write_text((trapped / "json.py").read_text())
    monkeypatch.setenv("PYTHONPATH", os.pathsep)  # an empty entry is the current folder
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    command = starting.command(package, "--help")
    done = subprocess.run(command, cwd=trapped, env=starting.environment(), capture_output=True, text=True)
    assert not (trapped / "RAN").exists() and "usage" in done.stdout, done.stderr


def test_no_program_of_ours_is_started_by_its_module_name():
    files = [path for folder in ("pair_network", "convert") for path in (ROOT / folder).rglob("*.py")]
    named = [path.name for path in files if re.search(r'executable\W+"-m"', path.read_text(encoding="utf-8"))]
    assert named == []


def test_options_do_not_import_parts_of_python():
    """``antigravity`` opens a browser when it is imported; a config file may name it."""
    from pair_network.training.hosts.embedded.optimizers import optimizer_class

    for name in ("antigravity.Adam", "subprocess.Popen", "os.path.join"):
        with pytest.raises(PairError, match=f"--optimizer_type {name.rpartition('.')[0]}: is a part of Python itself"):
            optimizer_class(name)
    assert "antigravity" not in sys.modules
    for name in ("torch.save", "torch.nn.Linear"):
        with pytest.raises(PairError, match=f"--optimizer_type {name}: is no optimizer"):
            optimizer_class(name)
    assert optimizer_class("torch.optim.Adamax").__name__ == "Adamax"


@pytest.mark.parametrize("entry", [{"_class_name": ["pipeline", "Own"]}, {"unet": ["antigravity", "UNet"]}])
def test_a_model_with_code_of_its_own_is_refused(tmp_path, entry):
    import diffusers

    from pair_network.sampling.cli.models import check_libraries

    index = json.loads((ROOT / "demo" / "model" / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    check_libraries(tmp_path, diffusers)
    (tmp_path / "model_index.json").write_text(json.dumps({**index, **entry}))
    with pytest.raises(PairError, match=f"its {next(iter(entry))} is code of another origin") as refused:
        check_libraries(tmp_path, diffusers)
    assert "\n" not in str(refused.value)


def test_the_trap_works(trapped):
    """Without what the package does about it, python -m would run them."""
    (trapped / "plain").mkdir()
    (trapped / "plain" / "__init__.py").touch()
    (trapped / "plain" / "__main__.py").write_text("import safetensors")
    start(trapped, "-m", "plain")
    assert (trapped / "RAN").read_text() == "safetensors"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(RAN) (w) file closefile showpage\n%%EOF\n"


def test_a_picture_is_one_of_the_known_kinds_whatever_its_name_says(tmp_path, monkeypatch):
    file = tmp_path / "cat.png"
    file.write_bytes(EPS)
    with Image.open(file) as image:
        assert image.format == "EPS"  # Pillow's own answer, and decoding it starts Ghostscript
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **named: started.append(args))
    with pytest.raises(PairError, match=r"cat\.png: not a readable image"):
        images.open_image(file)
    assert not started


def test_every_picture_is_opened_as_one_of_named_kinds():
    folders = ("pair_network", "convert", "demo")  # where pictures come from elsewhere
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    opens = [line for path in files for line in path.read_text(encoding="utf-8").splitlines() if "Image.open(" in line]
    assert opens and [line for line in opens if "formats=" not in line] == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF"])
def test_the_known_kinds_are_read(tmp_path, kind):
    file = tmp_path / f"cat.{kind.lower()}"
    try:
        Image.new("RGB", (16, 8), (200, 10, 10)).save(file, kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {kind}")
    assert images.open_image(file).size == (16, 8)


def test_large_and_damaged_pictures_are_one_line(tmp_path):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (13_100, 13_100)).save(bomb)  # 170 million pixels in 30 kB
    with pytest.raises(PairError, match=r"bomb\.png: 13100x13100 pixels are more than 134 million"):
        images.open_image(bomb)
    damaged = Image.new("RGB", (8, 8))
    buffer = io.BytesIO()
    damaged.save(buffer, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03" * 3)
    (tmp_path / "exif.png").write_bytes(buffer.getvalue())
    assert images.open_image(tmp_path / "exif.png").size == (8, 8)
    text = PngImagePlugin.PngInfo()
    text.add_text("x", "y" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "text.png", pnginfo=text)
    with pytest.raises(PairError, match=r"text\.png: not a readable image"):
        images.open_image(tmp_path / "text.png")
