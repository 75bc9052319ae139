"""The short command: what it leaves out is found and said, and what was given stays as it is."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pair_network import PairError
from pair_network.files import with_home
from pair_network.training import finish, launch, one_command
from pair_network.training.hosts import embedded, musubi, sd_scripts
from pair_network.training.preview_prompts import default_prompts
from pair_network.training.report.record import Record, read_record

ROOT = Path(__file__).parents[2]
SDXL, FLUX = "model.diffusion_model.label_emb.0.0.weight", "double_blocks.0.img_mod.lin.weight"


@pytest.fixture
def started(monkeypatch, tmp_path):
    """(host, arguments) of every training that was started, in an empty folder without checkouts or GPU."""
    calls = []
    for name in ("SD_SCRIPTS_DIR", "MUSUBI_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "usual_places", lambda: [tmp_path])
    monkeypatch.setattr(one_command, "free_gpu_memory", lambda: 11.4)
    monkeypatch.setattr(sd_scripts, "train", lambda *args: calls.append(("sd-scripts", *args)))
    monkeypatch.setattr(musubi, "train", lambda *args: calls.append(("musubi", *args)))
    monkeypatch.setattr(embedded, "train", lambda args: calls.append(("embedded", args)) or 0)
    return calls


def checkpoint(path, *names):
    header = json.dumps({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 200_000_000)  # of a model's usual size, and sparse on the disk
    return str(path)


def short(model, *more):
    return ["--model", model, "--content", "photo.png", "--style", "painted.png", "--words", "in ink wash style", *more]


def value(argv, option):
    """The last value of an option, as parsers take it."""
    return argv[len(argv) - argv[::-1].index(option)]


def test_four_options_are_enough(started, tmp_path, capsys):
    launch.train(short(checkpoint(tmp_path / "xl.safetensors", SDXL)))
    host, argv = started[0]
    shown = capsys.readouterr().out
    assert host == "embedded" and value(argv, "--config_file").endswith("sdxl_12gb.toml")
    assert value(argv, "--output_name") == "ink_wash" and value(argv, "--output_dir") == "output/ink_wash"
    assert value(argv, "--style_prompt") == "in ink wash style"
    assert value(argv, "--content_prompt") == one_command.CONTENT_PROMPT
    assert "preset sdxl_12gb" in shown and "11.4 GB" in shown and "output/ink_wash/ink_wash.safetensors" in shown


def test_without_a_gpu_nothing_is_halved(started, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(one_command, "free_gpu_memory", lambda: None)
    launch.train(short(checkpoint(tmp_path / "xl.safetensors", SDXL)))
    assert value(started[0][1], "--mixed_precision") == "no" and "no GPU" in capsys.readouterr().out
    assert value(started[0][1], "--optimizer_type") == "AdamW"  # bitsandbytes has 8 bits for CUDA alone


def test_what_was_given_wins(started, tmp_path):
    model = checkpoint(tmp_path / "xl.safetensors", SDXL)
    launch.train(short(model, "--output_name", "mine", "--output_dir", "there", "--content_prompt", "a photo of a dog"))
    argv = started[0][1]
    assert (value(argv, "--output_name"), value(argv, "--output_dir")) == ("mine", "there")
    assert value(argv, "--content_prompt") == "a photo of a dog"


def test_a_model_of_musubi_tuner_needs_its_checkout_and_then_no_more(started, tmp_path):
    model = checkpoint(tmp_path / "z.safetensors", "layers.0.adaLN_modulation.0.weight")
    with pytest.raises(PairError, match=r"a model of type z_image, which needs --musubi DIR.*docs/musubi\.md"):
        launch.train(short(model))
    launch.train([*short(model), "--musubi", "M"])
    host, checkout, argv = started[0]
    assert (host, checkout, value(argv, "--dit")) == ("musubi", "M", model)
    assert value(argv, "--config_file").endswith("z_image.toml") and not {"--model", "--model_version"} & set(argv)
    with pytest.raises(PairError, match="--model and --dit are two names of one option"):
        launch.train([*short(model), "--dit", model, "--musubi", "M"])


def test_of_a_model_in_several_sizes_the_files_own_is_taken(started, tmp_path):
    model = checkpoint(
        tmp_path / "f.safetensors", "double_stream_modulation_img.lin.weight", "double_blocks.7.a", "single_blocks.47.a"
    )
    launch.train([*short(model), "--musubi", "M"])
    assert value(started[0][2], "--model_version") == "dev"


def test_a_caption_beside_the_photo_is_its_caption(started, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    (tmp_path / "photo.txt").write_text("a photo of a boat", encoding="utf-8")
    launch.train(short(checkpoint(tmp_path / "xl.safetensors", SDXL)))
    assert value(started[0][1], "--content_prompt") == ""


def test_a_run_of_that_name_is_not_overwritten(started, tmp_path):
    model = checkpoint(tmp_path / "xl.safetensors", SDXL)
    (tmp_path / "output/ink_wash").mkdir(parents=True)
    (tmp_path / "output/ink_wash/ink_wash.safetensors").touch()
    launch.train(short(model))
    assert value(started[0][1], "--output_dir") == "output/ink_wash-2"
    launch.train(short(model, "--resume", "auto"))
    assert value(started[1][1], "--output_dir") == "output/ink_wash"


def test_another_family_goes_to_sd_scripts_where_it_is_found(started, tmp_path):
    model = checkpoint(tmp_path / "flux.safetensors", FLUX)
    with pytest.raises(PairError, match="neither kohya_ss/sd-scripts nor sd-scripts is in"):
        launch.train(short(model))
    (tmp_path / "kohya_ss/sd-scripts").mkdir(parents=True)
    (tmp_path / "kohya_ss/sd-scripts/train_network.py").touch()
    launch.train(short(model))
    assert started[0][:2] == ("sd-scripts", str(tmp_path / "kohya_ss/sd-scripts"))


def test_a_command_with_settings_of_its_own_is_left_alone(started):
    given = ["--pretrained_model_name_or_path", "m", "--content", "a", "--style", "b", "--resolution", "64"]
    launch.train(given)
    assert started == [("embedded", given)]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--content", "a", "--style", "b", "--words", "w"], "--model is missing"),
        (["--model", "no.safetensors", "--content", "a", "--style", "b"], "no.safetensors: no such file"),
        (["--words", "a", "--style_prompt", "b"], "--words and --style_prompt are two names of one option"),
        (["--webui", "nowhere"], "--webui nowhere: holds no models and extensions folders"),
        (["--comfyui", "nowhere"], "--comfyui nowhere: holds no models and custom_nodes folders"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_starts(started, argv, words):
    with pytest.raises(PairError, match=words):
        launch.train(argv)
    assert not started


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("in ink wash style", "ink_wash"), ("in the style of Hokusai", "style_of_hokusai"), ("", "style"),
        ("in style", "style"), ("CON", "con_style"), ("墨絵", "墨絵"), ("a/b\\c: d?", "a_b_c_d"), ("x" * 90, "x" * 40),
    ],
)  # fmt: skip
def test_names_from_words_are_file_names_everywhere(words, name):
    assert one_command.name_of(words) == name


def test_resume_auto_takes_the_newest_state_of_this_name_alone(tmp_path):
    for number, name in enumerate(("ink-step00000040-state", "ink-000002-state", "ink2-state", "ink-other-state")):
        (tmp_path / name).mkdir()
        state = tmp_path / name / "train_state.json"
        state.touch()
        os.utime(state, (1000 + number, 1000 + number))
    assert one_command.newest_state(str(tmp_path), "ink") == tmp_path / "ink-000002-state"
    assert one_command.newest_state(str(tmp_path), "none") is None
    for name in ("ink-step00000100-state", "ink-step00000099-state", "ink-state"):  # some drives count seconds
        (tmp_path / name).mkdir()
        (tmp_path / name / "train_state.json").touch()
        os.utime(tmp_path / name / "train_state.json", (5000, 5000))
    assert one_command.newest_state(str(tmp_path), "ink") == tmp_path / "ink-state"
    (tmp_path / "ink-state" / "train_state.json").unlink()
    assert one_command.newest_state(str(tmp_path), "ink") == tmp_path / "ink-step00000100-state"
    assert one_command.resumed([], str(tmp_path), "none") == ["--resume", ""]


def test_home_is_written_out_in_quotes_and_after_an_equals_sign(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    found = with_home(["--model=~/m", "--content", "~/p.png", "--words", "a ~ b", "--x=~y"])
    assert found == ["--model=/home/me/m", "--content", "/home/me/p.png", "--words", "a ~ b", "--x=~y"]


def test_preview_prompts_are_of_other_subjects():
    assert default_prompts("a photo of a sbu Cat") == ["a photo of a house", "a photo of a flower", "a photo of a car"]


def test_the_uis_get_lora_and_extension(tmp_path):
    uis = finish.Uis(tmp_path / "webui", tmp_path / "comfy")
    commands = uis.commands(tmp_path / "ink.safetensors")
    assert [command[0] for command in commands] == ["a1111", "a1111", "comfyui"]
    assert commands[1][-2] == str(tmp_path / "comfy/models/loras/ink.safetensors")


def test_installers_need_the_standard_library_alone(tmp_path):
    code = (
        "import sys; sys.modules.update({n: None for n in ('torch', 'safetensors', 'PIL', 'numpy', 'toml')});"
        "import runpy; sys.argv = ['convert', 'webui', '--into', sys.argv[1]];"
        "runpy.run_module('convert', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sd-webui-pair-network/scripts").is_dir()


def test_a_record_survives_and_forgets_what_came_after_a_resumed_state(tmp_path):
    record = Record("ink", str(tmp_path), started=0.0)
    for step in range(1, 5):
        record.note_losses(step, {"content": step / 10})
        record.note_previews(step, [Path(f"{step}.png")], ["a cat"])
    record.write()
    found = read_record(record.path)
    found.go_back_to(2)
    assert [step for step, _ in found.losses["content"]] == [1, 2]
    assert [entry["step"] for entry in found.previews] == [1, 2]
    (tmp_path / "bad-record.json").write_text('{"x": 1}', encoding="utf-8")
    assert read_record(tmp_path / "bad-record.json") is None
