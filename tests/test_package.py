"""The wheel: built from the files of the tree, installed into an empty environment, and run there."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import pair_network
from pair_network.__main__ import VERBS, main

ROOT = Path(__file__).parents[1]
SOURCES = ("pair_network", "convert")
BUILD = "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in SOURCES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    done = subprocess.run([sys.executable, "-c", BUILD, folder], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Function: a command of the installed package, run with the requirements of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    install = ["-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    Path(site, "requirements.pth").write_text(ours + "\n", encoding="utf-8")

    def run(*command):
        first = scripts / command[0] if command[0] != "python" else python
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run([first, *command[1:]], cwd=folder, capture_output=True, text=True, env=clean)

    return run


def test_every_file_of_the_packages_is_in_the_wheel(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for name in SOURCES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted - held == set()
    assert f"-{pair_network.__version__}-" in wheel.name


def test_the_installed_command_runs(installed):
    help_text = installed("pair-network", "--help")
    assert help_text.returncode == 0 and all(verb in help_text.stdout for verb in VERBS)
    assert installed("pair-network", "--version").stdout.strip() == pair_network.__version__
    for command in (("pair-network", "convert", "--help"), ("python", "-m", "convert", "--help")):
        done = installed(*command)
        assert done.returncode == 0 and "a1111" in done.stdout, done.stderr
    assert installed("python", "-c", "import pair_network; print(pair_network.__file__)").stdout.count("site-packages")


def test_the_installed_package_says_that_the_demo_is_elsewhere(installed):
    done = installed("pair-network", "demo")
    assert done.returncode == 2 and "source tree" in done.stderr and "Traceback" not in done.stderr


def test_verbs_pass_on_arguments_and_status(capsys):
    assert main(["restyl"]) == 2
    assert "did you mean restyle?" in capsys.readouterr().err
    assert main(["convert", "info", "nowhere.safetensors"]) == 1
    assert "nowhere.safetensors" in capsys.readouterr().err
    assert main(["train", "--sed", "1"]) == 2
    assert "did you mean --seed?" in capsys.readouterr().err
    assert main(["--version"]) == 0 and capsys.readouterr().out.strip() == pair_network.__version__


def test_help_loads_no_torch():
    code = (
        "import sys; from pair_network.__main__ import main; main(['--help']); "
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_verb_of_the_bare_machine_door_is_a_verb_here():
    text = (ROOT / "run.py").read_text(encoding="utf-8")
    assert all(f'"{verb}": [' in text for verb in VERBS)
