"""The extension's own packages, and live UIs where the environment names them."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EXTENSION = HERE.parents[2] / "convert" / "webui"


def load(name):
    """A helper module of this folder: test modules cannot import each other here."""
    specification = importlib.util.spec_from_file_location(f"webui_{Path(name).name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def extension(monkeypatch):
    """The extension's folder on the path, as a UI puts it there; its modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(EXTENSION))
    yield EXTENSION
    for name in [name for name in sys.modules if name.split(".")[0] in ("lib_pair_network", "pair_network_ui")]:
        del sys.modules[name]


@pytest.fixture(name="load")
def load_fixture(extension):
    return load


@pytest.fixture
def standins():
    return load("standins")


KINDS = ["a1111", "forge", "forge_neo", "forge_classic", "reforge"]


@pytest.fixture(scope="session", params=[pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in KINDS])
def backend(request, tmp_path_factory):
    """A live UI: the one at A1111_URL, FORGE_URL, …, or one started from the checkout A1111_DIR, FORGE_DIR, …."""
    kind = request.param
    live, name = load("live"), kind.upper()
    if os.environ.get(f"{name}_URL"):
        yield live.Backend(kind, os.environ[f"{name}_URL"])
        return
    if not os.environ.get(f"{name}_DIR"):
        pytest.skip(f"set {name}_DIR to a checkout (and {name}_PYTHON to its Python), or {name}_URL to a live UI")
    data, port = tmp_path_factory.mktemp(kind), 7891 + KINDS.index(kind)
    live.make_data(kind, data, int(os.environ.get("WEBUI_WIDTH", "320")), os.environ.get("CLIP_TOKENIZER"))
    python = os.environ.get(f"{name}_PYTHON", sys.executable)
    process = live.start(kind, Path(os.environ[f"{name}_DIR"]), python, data, port)
    yield live.Backend(kind, f"http://127.0.0.1:{port}")
    process.terminate()
    process.wait(60)
