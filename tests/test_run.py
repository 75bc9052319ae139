"""run.py: sets up once, passes arguments through, and needs the standard library alone."""

import ast
import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The module with its virtual environment in a temporary folder, and the commands it would call."""
    spec = importlib.util.spec_from_file_location("run_script", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.VENV = tmp_path / ".venv"
    module.STAMP = module.VENV / "stamp"
    module.PYTHON = module.VENV / "python"
    module.REQUIREMENTS = tmp_path / "requirements.txt"
    module.REQUIREMENTS.write_text("torch==1\n")
    module.calls, module.status = [], {}

    def call(command, folder=None):
        module.calls.append(command)
        kind = next((name for name in module.status if name in command), None)
        if "venv" in command and kind is None:
            module.VENV.mkdir()
            module.PYTHON.touch()
        return module.status.get(kind, 0)

    module.call = module.become = call
    return module


def test_set_up_happens_once_and_again_when_the_requirements_change(run):
    assert run.main(["setup"]) == 0
    assert [any(word in command for command in run.calls) for word in ("venv", "pip")] == [True, True]
    run.calls.clear()
    assert run.main(["setup"]) == 0 and run.calls == []
    run.REQUIREMENTS.write_text("torch==2\n")
    assert run.main(["setup"]) == 0
    assert len(run.calls) == 1 and "pip" in run.calls[0]


def test_a_failed_installation_is_not_taken_for_done(run, capsys):
    run.status["pip"] = 1
    assert run.main(["demo"]) == 1
    assert "run this again" in capsys.readouterr().err and not run.STAMP.exists()
    run.status.clear()
    run.calls.clear()
    assert run.main(["demo"]) == 0 and len(run.calls) == 2


def test_further_arguments_reach_the_command_and_its_status_comes_back(run):
    run.main(["setup"])
    run.calls.clear()
    assert run.main(["test", "-k", "layer"]) == 0
    assert run.calls == [[str(run.PYTHON), "-m", "pytest", "-k", "layer"]]
    run.status["pytest"] = 5
    assert run.main(["test"]) == 5
    run.status["check"] = 3  # ruff check: what follows it is not run
    run.calls.clear()
    assert run.main(["lint"]) == 3 and len(run.calls) == 1


def test_an_empty_entry_of_the_search_path_is_left_out(run, monkeypatch):
    """``export PYTHONPATH=$PYTHONPATH:DIR`` leaves one, and it means the current folder."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep + "elsewhere")
    assert run.environment()["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "elsewhere"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to end a process with")
def test_a_command_ended_by_a_signal_gives_128_plus_n():
    spec = importlib.util.spec_from_file_location("run_script", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ended = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert module.call([sys.executable, "-c", ended]) == 137


def test_usage_names_every_verb(run, capsys):
    assert run.main([]) == 2 and run.main(["dmeo"]) == 2
    shown = capsys.readouterr().err
    assert all(verb in shown for verb in run.VERBS)
    assert run.main(["--help"]) == 0


def test_only_the_standard_library_is_imported():
    tree = ast.parse((ROOT / "run.py").read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert names and {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)
