"""Which host a command line starts, and which preset a model and a card get."""

import json
import struct

import pytest
import toml

from pair_network import PairError
from pair_network.signals import Interrupted
from pair_network.training import launch, presets
from pair_network.training.hosts import embedded, musubi, sd_scripts
from pair_network.training.hosts.kohya_config import read_config

SDXL = "model.diffusion_model.label_emb.0.0.weight"


@pytest.fixture(autouse=True)
def no_checkouts(monkeypatch):
    for name in ("SD_SCRIPTS_DIR", "MUSUBI_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started(monkeypatch):
    """(host, arguments) of every training that was started."""
    calls = []
    monkeypatch.setattr(sd_scripts, "train", lambda *args: calls.append(("sd-scripts", *args)))
    monkeypatch.setattr(musubi, "train", lambda *args: calls.append(("musubi", *args)))
    monkeypatch.setattr(embedded, "train", lambda args: calls.append(("embedded", args)) or 0)
    return calls


def config(folder, host):
    path = folder / "run.toml"
    path.write_text(f'[model]\nhost = "{host}"\n' if host else "seed = 1\n", encoding="utf-8")
    return ["--config_file", str(path)]


@pytest.mark.parametrize(
    ("made_for", "options", "host"),
    [
        ("", [], "embedded"),
        ("", ["--sd_scripts", "S"], "sd-scripts"),
        ("any", [], "embedded"),
        ("any", ["--sd_scripts", "S"], "sd-scripts"),
        ("embedded", ["--sd_scripts", "S"], "embedded"),
        ("musubi", ["--musubi", "M", "--sd_scripts", "S"], "musubi"),
        ("sd-scripts", ["--sd_scripts", "S"], "sd-scripts"),
        ("any", ["--host", "embedded", "--sd_scripts", "S"], "embedded"),
    ],
)
def test_the_config_file_and_the_named_checkouts_decide(tmp_path, started, made_for, options, host):
    launch.train([*config(tmp_path, made_for), *options])
    assert [call[0] for call in started] == [host]


def test_a_checkout_of_musubi_alone_is_taken(started):
    launch.train(["--musubi", "M", "--model_type", "z_image"])
    assert started == [("musubi", "M", ["--model_type", "z_image"])]


@pytest.mark.parametrize(
    ("made_for", "options", "words"),
    [
        ("sd-scripts", [], r"run.toml is made for sd-scripts: it needs --sd_scripts DIR \(or SD_SCRIPTS_DIR\)"),
        ("musubi", [], "is made for musubi: it needs --musubi DIR"),
        ("musubi", ["--host", "embedded"], "is made for musubi, not for --host embedded"),
        ("embeded", [], r"did you mean embedded\?"),
        ("", ["--host", "musubi"], "--host musubi needs --musubi DIR"),
        ("", ["--preset", "sd15"], "--preset and --config_file both"),
    ],
)
def test_what_does_not_fit_together_is_one_sentence(tmp_path, started, made_for, options, words):
    with pytest.raises(PairError, match=words) as caught:
        launch.train([*config(tmp_path, made_for), *options])
    assert "\n" not in str(caught.value) and not started


def checkpoint(path, name):
    header = json.dumps({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return str(path)


@pytest.mark.parametrize(
    ("free", "name"),
    [(None, "sdxl_8gb"), (6.0, "sdxl_8gb"), (11.4, "sdxl_12gb"), (23.5, "sdxl_24gb"), (80.0, "sdxl_24gb")],
)
def test_auto_takes_the_largest_preset_that_the_card_affords_and_says_why(
    tmp_path, started, monkeypatch, capsys, free, name
):
    monkeypatch.setattr(launch, "free_gpu_memory", lambda: free)
    model = checkpoint(tmp_path / "xl.safetensors", SDXL)
    launch.train(["--preset", "auto", "--sd_scripts", "S", "--pretrained_model_name_or_path", model])
    shown = capsys.readouterr().out
    assert shown.startswith(f"preset {name} (") and "xl.safetensors is of type sdxl" in shown
    assert ("GB of GPU memory are free" in shown) == (free is not None)
    assert started[0][2][:2] == ["--config_file", str(presets.FOLDER / f"{name}.toml")]


@pytest.mark.parametrize("free", [None, 6.0, 80.0])
def test_auto_without_a_checkout_takes_what_the_embedded_host_runs(tmp_path, started, monkeypatch, free):
    monkeypatch.setattr(launch, "free_gpu_memory", lambda: free)
    model = checkpoint(tmp_path / "xl.safetensors", SDXL)
    launch.train(["--preset", "auto", "--pretrained_model_name_or_path", model])
    assert started[0][0] == "embedded" and read_config(launch.config_path(started[0][1]))["host"] == "any"
    flux = checkpoint(tmp_path / "flux.safetensors", "double_blocks.0.img_attn.qkv.weight")
    with pytest.raises(PairError, match=r"is made for sd-scripts: it needs --sd_scripts DIR"):
        launch.train(["--preset", "auto", "--model_type", "flux", "--pretrained_model_name_or_path", flux])


def test_a_preset_by_name_works_from_any_folder_and_a_slip_is_named(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launch.train(["--preset", "embedded", "--max_train_steps", "3"])
    assert started == [("embedded", ["--config_file", str(presets.FOLDER / "embedded.toml"), "--max_train_steps", "3"])]
    with pytest.raises(PairError, match=r"--preset flux_12: there is none \(did you mean flux_12gb\?\)"):
        launch.train(["--preset", "flux_12"])
    with pytest.raises(PairError, match="does not show what it is; give --model_type, or --preset NAME"):
        launch.train(["--preset", "auto", "--pretrained_model_name_or_path", "someone/something"])


def test_help_begins_with_the_entry_points_own_options(started, capsys):
    launch.train(["--help"])
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--host", "--preset NAME", "--sd_scripts DIR|auto", "--musubi DIR"))
    assert started == [("embedded", ["--help"])]


def test_every_preset_names_its_host_and_its_run():
    found = {
        name: toml.loads(preset.path.read_text(encoding="utf-8")) for name, preset in presets.all_presets().items()
    }
    assert {content["model"]["host"] for content in found.values()} == {"any", "sd-scripts", "musubi", "embedded"}
    names = [content["output"]["output_name"] for content in found.values()]
    assert len(set(names)) == len(names) == len(found)


@pytest.mark.parametrize("text", ['model = "C:\\ai\\models"', 'model = "C:\\new\\train"'])
def test_a_windows_path_in_double_quotes_is_named_before_a_host_is_chosen(tmp_path, text):
    """The file is read first to choose the host: there too the backslashes are what is wrong."""
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    with pytest.raises(PairError, match="in single quotes"):
        read_config(tmp_path / "c.toml")


@pytest.mark.parametrize("is_written", [True, False])
def test_a_signal_after_the_last_step_says_that_all_is_written(tmp_path, monkeypatch, capsys, is_written):
    def stopped_in_its_report(args):
        if is_written:
            (tmp_path / "x.safetensors").touch()
        raise Interrupted(15)

    monkeypatch.setattr(embedded, "train", stopped_in_its_report)
    with pytest.raises(Interrupted):
        launch.train(["--host", "embedded", "--output_dir", str(tmp_path), "--output_name", "x"])
    assert ("all files are written" in capsys.readouterr().out) == is_written
