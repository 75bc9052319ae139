"""Imports point one way, in no circle, and the network module needs torch and safetensors alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each room may import rooms of its own line or of the lines above it.
ORDER = [
    ["errors", "files", "images", "leftovers", "options", "reading", "signals", "starting", "upright"],
    ["families"],
    ["network"],
    ["__init__"],  # the network module that hosts load
    ["sampling"],
    ["pipelines"],  # the door to sampling's pipelines
    ["training"],
    ["pseudo_pairs"],
    ["app"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
OF_HOSTS_ONLY = {"library", "train_network", "diffusers", "accelerate", "networks"}
OF_UIS_ONLY = {"gradio", "modules", "comfy", "backend"}
MAY_USE_HOST_PARTS = ("pair_network.training.hosts", "pair_network.sampling.cli", "pair_network.sampling.pipelines",
                      "pair_network.sampling.modular")  # fmt: skip


def sources():
    found = [*(ROOT / "pair_network").rglob("*.py"), *(ROOT / "convert").rglob("*.py")]
    # What is installed into the UIs is no part of this package: it may not import it.
    return sorted(p for p in found if not {"webui", "comfyui"} & set(p.relative_to(ROOT).parts[:2]))


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sources()}


def imports_of(path):
    """Names of the modules that a file imports: at its top, inside functions, and for type checking."""
    package = path.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = [*package[: -node.level]] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def room_of(module):
    """pair_network.training.hosts.embedded.loop -> training."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def violations(module, names):
    found = []
    for name in names:
        top = name.split(".")[0]
        if module.startswith("pair_network"):
            if top == "convert":
                found.append(f"{module} imports {name}; only convert may import the other")
            if top == "pair_network" and RANK[room_of(name)] > RANK[room_of(module)]:
                found.append(f"{module} imports {name}")
            if top in OF_HOSTS_ONLY and not module.startswith(MAY_USE_HOST_PARTS):
                found.append(f"{module} imports {top}, which only hosts may")
        if top in OF_UIS_ONLY and not (top == "gradio" and module.startswith("pair_network.app.")):
            found.append(f"{module} imports {top}, which only UI extensions may")
    return found


def circles(graph):
    """Sets of modules that reach each other: strongly connected components of more than one module (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            place = stack.index(node)
            found.append(set(stack[place:]))
            del stack[place:]

    for node in graph:
        if node not in index:
            visit(node)
    return [component for component in found if len(component) > 1]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_one_way(module):
    assert not violations(module, imports_of(MODULES[module]))


def test_a_wrong_import_is_noticed():
    wrong = violations("pair_network.network.layer", ["pair_network.training.trainer"])
    assert wrong == ["pair_network.network.layer imports pair_network.training.trainer"]
    assert violations("pair_network.network.layer", ["diffusers"]) and violations(
        "pair_network.errors", ["convert.cli"]
    )
    assert violations("convert.cli", ["gradio"]) and violations("pair_network.training.launch", ["gradio"])
    assert not violations("pair_network.app.page", ["gradio"])
    assert not violations("pair_network.training.hosts.sd_scripts.entry", ["library.train_util", "pair_network.errors"])


def test_nothing_imports_in_a_circle():
    graph = {module: {n for n in imports_of(path) if n in MODULES} - {module} for module, path in MODULES.items()}
    assert circles(graph) == []


def test_a_circle_is_noticed():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


def test_the_network_module_needs_torch_and_safetensors_only():
    heavy = "diffusers transformers accelerate peft PIL toml matplotlib"
    code = f"import sys, pair_network; print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
