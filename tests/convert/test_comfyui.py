"""The ComfyUI nodes, through ComfyUI's own sampling (marker ``comfyui``) and through stand-ins with its contracts.

With COMFYUI_DIR, a checkout, the same checks run in COMFYUI_PYTHON (default: this Python), which must have ComfyUI's
requirements. The comparison on a running back end is tests/convert/comfyui_live.py.
"""

import ast
import json
import os
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
    assert len(results) > 30
    assert not failures(results), log[-3000:]


@pytest.mark.comfyui
def test_the_nodes_in_comfyui():
    folder = os.environ.get("COMFYUI_DIR")
    if not folder:
        pytest.skip("needs a checkout of ComfyUI: set COMFYUI_DIR, and COMFYUI_PYTHON for its own Python")
    results, log = run_checks(os.environ.get("COMFYUI_PYTHON", sys.executable), folder)
    assert {"sampler uni_pc[guider]", "family flux[patch]", "nothing_is_left[guider]"} <= results.keys()
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
        assert foreign <= ({"comfy", "folder_paths"} if path.stem in ("sampling", "nodes") else set()), path.name


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
        assert "PairNetworkStyle" in kinds and kinds & {"PairNetworkGuider", "PairNetworkPatch"}
        ends = {(node["id"], slot) for node in workflow["nodes"] for slot in range(len(node.get("outputs", [])))}
        assert all((link[1], link[2]) in ends for link in workflow["links"])
