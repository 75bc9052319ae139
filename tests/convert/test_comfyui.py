"""The ComfyUI nodes, through ComfyUI's own sampling (marker ``comfyui``) and through stand-ins with its contracts.

With COMFYUI_DIR, a checkout, the same checks run in COMFYUI_PYTHON (default: this Python), which must have ComfyUI's
requirements. The comparison on a running back end is tests/convert/comfyui_live.py.
"""

import ast
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NODES = HERE.parents[1] / "convert" / "comfyui"
TOLERANCE = 2e-5  # fp32 through at most nine steps of a random model; a missing LoRA or prompt is above 1e-2


def run_checks(python, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    command = [python, str(HERE / "comfyui_checks.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout[done.stdout.index("{") :]), done.stderr


def failures(results):
    return {name: found for name, found in results.items() if not (isinstance(found, float) and found < TOLERANCE)}


def test_the_nodes_against_stand_ins():
    results, log = run_checks(sys.executable)
    assert len(results) > 30 and {"content_cfg_ends[guider]", "content_cfg_ends[patch]"} <= results.keys()
    assert not failures(results), log[-3000:]


@pytest.mark.comfyui
def test_the_nodes_in_comfyui():
    folder = os.environ.get("COMFYUI_DIR")
    if not folder:
        pytest.skip("needs a checkout of ComfyUI: set COMFYUI_DIR, and COMFYUI_PYTHON for its own Python")
    results, log = run_checks(os.environ.get("COMFYUI_PYTHON", sys.executable), folder)
    assert {"sampler uni_pc[guider]", "family flux[patch]", "nothing_is_left[guider]"} <= results.keys()
    assert {"content_cfg_ends[patch]", "declared_the_same[guider]"} <= results.keys()
    assert not failures(results), log[-3000:]


def test_a_wrong_result_is_noticed():
    results = {"a": 1e-6, "b": 3e-2, "c": float("nan"), "d": "ValueError: x"}
    assert failures(results).keys() == {"b", "c", "d"}


def test_the_folder_stands_alone():
    """Nothing but ComfyUI's own environment is imported, and ComfyUI only where it is driven."""

    for path in NODES.glob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
        foreign = names - set(sys.stdlib_module_names) - {"torch", "safetensors"}
        own = {"sampling": {"comfy"}, "nodes": {"folder_paths"}, "extension": {"comfy_api"}}
        assert foreign <= own.get(path.stem, set()), path.name


def test_the_installer_copies_the_nodes(run, tmp_path):
    status, _, errors = run("comfyui", "--into", tmp_path)
    assert status == 0, errors
    installed = tmp_path / "comfyui-pair-network"
    assert (installed / "nodes.py").is_file() and (installed / "pair-network.txt").is_file()
    assert list((installed / "example_workflows").glob("*.json"))


def test_the_example_workflows_use_the_nodes():
    for path in (NODES / "example_workflows").glob("*.json"):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        kinds = {node["type"] for node in workflow["nodes"]}
        chained = "PairNetworkStyle" in kinds and kinds & {"PairNetworkGuider", "PairNetworkPatch"}
        assert chained or "PairNetworkGuidance" in kinds
        # A manager finds a missing node's pack by this; the picture stands beside the workflow's name in the browser.
        packs = {node["properties"]["cnr_id"] for node in workflow["nodes"] if node["type"].startswith("PairNetwork")}
        assert packs == {"comfyui-pair-network"} and path.with_suffix(".jpg").is_file()
        ends = {(node["id"], slot) for node in workflow["nodes"] for slot in range(len(node.get("outputs", [])))}
        assert all((link[1], link[2]) in ends for link in workflow["links"])


def load_reader():
    spec = importlib.util.spec_from_file_location("pair_reader", NODES / "lora.py")
    module = sys.modules["pair_reader"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hostile_files_are_one_line(tmp_path):
    """3,000 seeded files: each is read and matched, or refused with one line that names it."""
    spec = importlib.util.spec_from_file_location("hostile_loras", HERE / "hostile_loras.py")
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
    reader, generator, refused = load_reader(), random.Random(21), 0
    shapes = {files.LAYER: (8, 4, 3, 3), f"{files.ATTENTION}_to_q": (8, 8), f"{files.ATTENTION}_to_v": (8, 6)}
    path = tmp_path / "hostile.safetensors"
    for number in range(3000):
        path.write_bytes(files.hostile(generator))
        assert isinstance(reader.trigger_words(path), str)
        try:
            style = reader.read_style(path, path.name)
            matches = reader.match_layers(style, {key: key for key in shapes}, lambda key: shapes[key])
            assert matches and all(match.layer.down.shape[0] > 0 for match in matches)
        except reader.StyleFileError as cause:
            refused += 1
            line = str(cause)
            assert path.name in line and line.isprintable() and len(line) <= 600, (number, line)
    assert 1000 < refused < 2700


def test_every_input_and_output_is_explained_and_found():
    """Tooltips, a help page and the words that people search for, of each node."""
    declared = (NODES / "nodes.py").read_text(encoding="utf-8")
    mappings = re.findall(r'"(PairNetwork\w+)": (\w+),', declared)
    assert len(mappings) == 4
    for node_id, _ in mappings:
        page = NODES / "web" / "docs" / f"{node_id}.md"
        assert len(page.read_text(encoding="utf-8")) > 300, page
    command = [sys.executable, str(HERE / "comfyui_declared.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    nodes = json.loads(done.stdout)
    assert nodes.keys() == {node_id for node_id, _ in mappings}
    for node_id, node in nodes.items():
        assert "style" in node["name"].lower() and "guidance" in node["name"].lower() and "LoRA" in node["name"]
        assert {"style guidance", "lora", "pair"} <= set(node["aliases"])
        for name, options in node["inputs"].items():
            assert options.get("tooltip"), (node_id, name)
        assert len(node["tooltips"]) == len(node["outputs"]) and all(node["tooltips"])
        page = (NODES / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
        missing = [name for name in node["inputs"] if f"`{name}`" not in page]
        assert not missing, (node_id, missing)
