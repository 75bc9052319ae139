"""Imports point one way, and the network module needs torch and safetensors alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pair_network"

# Each module may import modules of its own line or of the lines above it.
ORDER = [
    ["errors"],
    ["config", "guidance", "batch", "absent_pairs"],
    ["orthogonal", "route", "factors", "objective", "checkpoint", "pairs"],
    ["layer", "targets", "previews"],
    ["loading"],
    ["network"],
    ["creation", "__init__"],
    ["options", "pipelines"],
    ["trainer"],
    ["hosts", "cli"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
OF_HOSTS_ONLY = {"library", "train_network", "diffusers", "accelerate", "networks"}
OF_UIS_ONLY = {"gradio", "modules", "comfy", "backend"}


def imports_of(path):
    """Names of the modules that a file imports, in functions too, but not for type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not _is_type_checking(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (".".join([*package, name]) for name in names)


def _is_type_checking(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def part_of(module):
    """pair_network.hosts.embedded.loop -> hosts."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def files():
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in sorted(PACKAGE.rglob("*.py"))]


def violations(path, names):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    found = []
    for name in names:
        top = name.split(".")[0]
        if top == "pair_network" and RANK[part_of(name)] > RANK[own]:
            found.append(f"{own} imports {name}")
        if top in OF_HOSTS_ONLY and own not in ("hosts", "cli", "pipelines"):
            found.append(f"{own} imports {top}, which only hosts may")
        if top in OF_UIS_ONLY:
            found.append(f"{own} imports {top}, which only UI extensions may")
    return found


@pytest.mark.parametrize("path", files())
def test_imports_point_one_way(path):
    assert not violations(path, imports_of(path))


def test_a_wrong_import_is_noticed():
    assert violations(PACKAGE / "layer.py", ["pair_network.trainer"]) == ["layer imports pair_network.trainer"]
    assert violations(PACKAGE / "network.py", ["diffusers"]) and violations(PACKAGE / "trainer.py", ["gradio"])
    assert not violations(PACKAGE / "hosts" / "sd_scripts.py", ["library.train_util", "pair_network.trainer"])


def test_the_network_module_needs_torch_and_safetensors_only():
    heavy = "diffusers transformers accelerate peft PIL toml matplotlib"
    code = f"import sys, pair_network; print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
