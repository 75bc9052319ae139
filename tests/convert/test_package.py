"""The folders that UIs install by URL: the same bytes each time, complete, and they work where a UI clones them."""

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import pair_network

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

HERE = Path(__file__).parent
URL = "https://github.com/someone/pair-network"


@pytest.fixture
def built(run, tmp_path):
    status, out, errors = run("package", "--into", tmp_path / "out", "--repository", URL, "--publisher", "someone")
    assert status == 0, errors
    assert out.split() == [str(tmp_path / "out" / ui) for ui in ("webui", "comfyui")]
    return tmp_path / "out"


def every_byte(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cloned(built, ui, into):
    """What a UI has after a clone of the branch from its URL."""
    origin = built / ui
    git = ["git", "-C", str(origin), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run(["git", "init", "-q", "-b", ui, str(origin)], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "built"], check=True)
    into.parent.mkdir(parents=True)
    subprocess.run(["git", "clone", "-q", "-b", ui, origin.as_uri(), str(into)], check=True)
    return into


def run_python(code, path, **environment):
    clean = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *code], capture_output=True, text=True, env=clean, cwd=path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_same_sources_give_the_same_bytes(built, run, tmp_path):
    arguments = ("--repository", URL, "--publisher", "someone")
    assert run("package", "--into", tmp_path / "again", *arguments)[0] == 0
    first, again = every_byte(built), every_byte(tmp_path / "again")
    assert first == again and len(first) > 30
    assert not any("__pycache__" in name or name.endswith((".pyc", "requirements.txt")) for name in first)
    assert all(b"\r\n" not in data for name, data in first.items() if not name.endswith((".png", ".jpg")))


def test_the_root_is_the_extension(built):
    webui, comfyui = built / "webui", built / "comfyui"
    assert (webui / "scripts" / "pair_network.py").is_file()
    metadata = configparser.ConfigParser()
    metadata.read(webui / "metadata.ini")
    assert metadata["Extension"]["Name"] == "sd-webui-pair-network"
    project = tomllib.loads((comfyui / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == "comfyui-pair-network" and project["project"]["dependencies"] == []
    assert project["project"]["version"] == pair_network.__version__
    assert project["project"]["urls"]["Repository"] == URL
    comfy = project["tool"]["comfy"]
    assert comfy["PublisherId"] == "someone" and comfy["DisplayName"] and comfy["Icon"] == f"{URL}/raw/comfyui/icon.png"
    with Image.open(comfyui / "icon.png") as icon:
        assert icon.size == (400, 400)
    for folder in (webui, comfyui):
        assert (folder / "LICENSE").read_bytes() == (HERE.parents[1] / "LICENSE").read_bytes()
        assert "git clone -b" in (folder / "README.md").read_text(encoding="utf-8")
        for path in folder.rglob("*.py"):
            assert not re.search(
                r"^\s*(?:from|import) (?:pair_network|convert)\b(?!_ui)", path.read_text("utf-8"), re.M
            )
    for path in (comfyui / "example_workflows").glob("*.json"):
        nodes = [
            node for node in json.loads(path.read_text("utf-8"))["nodes"] if node["type"].startswith("PairNetwork")
        ]
        assert nodes and all(node["properties"]["aux_id"] == "someone/pair-network" for node in nodes)
        assert all(node["properties"]["ver"] == pair_network.__version__ for node in nodes)
        with Image.open(path.with_suffix(".jpg")) as thumbnail:
            assert thumbnail.width > thumbnail.height


def test_a_clone_works_in_a_web_ui(built, tmp_path):
    """Its library reads a style; the UI itself puts the clone's root on the path."""
    clone = cloned(built, "webui", tmp_path / "ui" / "extensions" / "pair")
    code = "from lib_pair_network import hooks, settings; print(settings.read_request([1, 'a']).styles[0].lora)"
    assert run_python(["-c", code], clone).strip() == "a"
    assert not subprocess.run(["git", "-C", clone, "status", "--porcelain"], capture_output=True).stdout


def test_a_clone_works_in_comfyui(built, tmp_path):
    clone = cloned(built, "comfyui", tmp_path / "ui" / "custom_nodes" / "pair")
    nodes = json.loads(run_python([str(HERE / "comfyui_declared.py")], HERE, PAIR_NODES=str(clone)))
    assert nodes.keys() == {f"PairNetwork{name}" for name in ("Style", "Guider", "Patch", "Guidance")}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--repository", "git@x:y"), "is no address like"),
        (("--repository", 'https://x/a"b/c'), "is no address like"),
        (("--publisher", "Some One"), "small letters"),
    ],
)
def test_what_cannot_be_published_is_refused(run, tmp_path, arguments, words):
    status, _, errors = run("package", "--into", tmp_path / "out", *arguments)
    assert status == 1 and words in errors and len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(run, tmp_path):
    (tmp_path / "out" / "comfyui").mkdir(parents=True)
    (tmp_path / "out" / "comfyui" / "mine").touch()
    status, _, errors = run("package", "--into", tmp_path / "out")
    assert status == 1 and "exists already" in errors
    assert every_byte(tmp_path / "out").keys() == {"comfyui/mine"}


@pytest.mark.comfy_cli
def test_comfyuis_registry_takes_the_folder(built, tmp_path):
    """Its own validator, without the warning that it has for code that calls eval."""
    program = os.environ.get("COMFY_CLI")
    if not program:
        pytest.skip("needs ComfyUI's command line: set COMFY_CLI to comfy-cli's program")
    command = [program, "--skip-prompt", "--no-enable-telemetry", "node", "validate"]
    home = {**os.environ, "HOME": str(tmp_path), "DO_NOT_TRACK": "1"}
    done = subprocess.run(command, cwd=built / "comfyui", env=home, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "passed" in said and "warning" not in said, said
    (built / "comfyui" / "extra.py").write_text("eval('1')\n", encoding="utf-8")
    done = subprocess.run(command, cwd=built / "comfyui", env=home, capture_output=True, text=True, check=False)
    assert "S307" in done.stdout + done.stderr
