"""Style hooks on the UIs' own SDXL and FLUX modules, made tiny, against merged weights; run by the UIs' own Python."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODELS = {"a1111": ["sdxl"], "forge": ["sdxl", "flux"]}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in MODELS])
def test_hooks_reach_every_layer_of_the_uis_own_models(kind, extension):
    name = kind.upper()
    checkout = os.environ.get(f"{name}_DIR")
    if not checkout:
        pytest.skip(f"set {name}_DIR to a checkout, and {name}_PYTHON to its Python")
    python = os.environ.get(f"{name}_PYTHON", sys.executable)
    command = [python, str(HERE / "model_check.py"), kind, checkout, str(extension)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.findall(r"^(\w+): \d+ layers, difference", done.stdout, re.M) == MODELS[kind]
