"""The script that the UIs load: which adapter it takes, and what it shows in a UI that it does not know."""

import importlib
import importlib.util
import sys
import types

import pytest


class Block:
    def __init__(self, gradio, *arguments, **settings):
        self.gradio, self.arguments = gradio, arguments

    def __enter__(self):
        return self

    def __exit__(self, *cause):
        return None


@pytest.fixture
def load_script(monkeypatch, tmp_path, standins, extension):
    """Function: the script's module in a stand-in UI whose Script class has ``hooks``, and what its page shows."""

    def loaded(*hooks, prepare=None):
        ui = standins.install(monkeypatch, tmp_path)
        if prepare:
            prepare(ui)
        shown = []
        gradio = types.ModuleType("gradio")
        gradio.Accordion = lambda *a, **k: Block(gradio)
        gradio.HTML = shown.append
        scripts = types.ModuleType("modules.scripts")
        scripts.AlwaysVisible, scripts.Script = object(), type("Script", (), dict.fromkeys(hooks))
        callbacks = sys.modules["modules.script_callbacks"]
        callbacks.on_before_ui = lambda function: None
        standins.put(monkeypatch, "gradio", gradio)
        standins.put(monkeypatch, "modules.scripts", scripts)
        sys.modules["modules"].scripts = scripts
        specification = importlib.util.spec_from_file_location("script", extension / "scripts" / "pair_network.py")
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module, shown

    return loaded


HOOK = "process_before_every_sampling"


def forget(*names):
    def prepare(ui):
        for name in names:
            sys.modules.pop(f"modules.{name}", None)

    return prepare


@pytest.mark.parametrize(
    "hooks, prepare, words",
    [
        ((), None, "this UI is too old; style guidance works in A1111 1.10"),
        ((HOOK,), forget("sd_samplers_cfg_denoiser"), "this UI's sampling is not known"),
        ((HOOK,), forget("ui_components"), "modules.ui_c"),
    ],
)
def test_an_unknown_ui_gets_one_line_in_its_own_page(load_script, hooks, prepare, words):
    script, shown = load_script(*hooks, prepare=prepare)
    page = script.StyleGuidanceScript()
    assert page.ui(False) == [] and len(shown) == 1
    assert words in shown[0].replace("&#x27;", "'") and "\n" not in shown[0]
    # The stations of a generation are there and do nothing.
    page.process(None)
    page.process_before_every_sampling(None)
    page.postprocess_batch(None)
    page.postprocess(None, None)


def test_what_the_line_quotes_is_text(load_script):
    def prepare(ui):
        class Hostile:
            def find_spec(self, name, path=None, target=None):
                if name == "modules.ui_common":
                    raise ImportError("<script>alert(1)</script>")

        ui.finder = Hostile()
        sys.meta_path.insert(0, ui.finder)

    try:
        script, shown = load_script(HOOK, prepare=prepare)
        script.StyleGuidanceScript().ui(False)
        assert "<script>" not in shown[0] and "&lt;script&gt;" in shown[0]
    finally:
        sys.meta_path.pop(0)


@pytest.mark.parametrize("lacks", ["calc_cond_uncond_batch", "ModelPatcher"])
def test_a_patcher_without_its_parts_is_told(monkeypatch, tmp_path, standins, lacks):
    """As a future version may be: its own names moved."""
    standins.install(monkeypatch, tmp_path)
    standins.install_reforge(monkeypatch)
    if lacks == "ModelPatcher":
        monkeypatch.setattr(sys.modules["ldm_patched.modules.model_patcher"], "ModelPatcher", object)
    else:
        del sys.modules["ldm_patched.modules.samplers"].calc_cond_uncond_batch
    detect = importlib.import_module("pair_network_ui.detect")
    from lib_pair_network.errors import GuidanceError

    with pytest.raises(GuidanceError, match="lacks what style guidance needs"):
        detect.find_sampling()


def test_a_foreign_backend_package_is_not_forge(monkeypatch, tmp_path, standins):
    standins.install(monkeypatch, tmp_path)
    standins.fill(monkeypatch, {"backend": {}})
    detect = importlib.import_module("pair_network_ui.detect")
    assert detect.find_sampling().__name__ == "pair_network_ui.a1111"
