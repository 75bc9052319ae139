"""Mistakes that people make, each with the one sentence that it gets: what is wrong, where, and what to do.

Nothing is trained in silence: an error ends the command before the model is loaded (or, of the network's settings,
before the first step), a warning stands in the log of the run and in what ``check`` prints.
"""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pair_network.__main__ import main

ROOT = Path(__file__).parents[1]
MODEL = str(ROOT / "demo/model")
HOUSE, INK = ROOT / "demo/pairs/content/house.png", ROOT / "demo/pairs/ink/house.png"


def photo(seed, size=192):
    """Colours of several sizes of spots: a picture with edges everywhere, as a photo has."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray((rng.random((n, n, 3)) * 255).astype(np.uint8)).resize((size, size)) for n in (6, 24, 96)]
    return Image.fromarray(np.mean([np.asarray(layer, float) for layer in layers], 0).astype(np.uint8))


def painted(image):
    return Image.fromarray(255 - np.asarray(image) // 64 * 64)


def lay_out(folder):
    """The files that the commands below name."""
    pictures = {"a": photo(1), "b": painted(photo(1)), "other": painted(photo(2)), "photo": photo(1)}
    pictures["mirrored"] = pictures["b"].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pictures["shifted"] = Image.fromarray(np.roll(np.asarray(pictures["b"]), 16, axis=1))
    pictures["wide"] = pictures["b"].resize((288, 192))
    pictures["painting"] = pictures["b"]
    clear = pictures["b"].convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 60, 60))
    pictures["clear"] = clear
    pictures["dot"] = pictures["a"].resize((1, 1))
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    pictures["a"].save(folder / "camera.jpg", exif=exif)
    pictures["b"].save(folder / "moving.gif", save_all=True, append_images=[pictures["a"]])
    for name in ("x.heic", "x.jxl", "x.psd", "empty.png", "model.ckpt", "lora.pt", "model.txt", "a-file"):
        (folder / name).write_bytes(b"" if name == "empty.png" else b"something")
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:4000])
    for side, names in {"left": ["1", "2"], "right": ["1"], "twice": ["1", "1"], "none": []}.items():
        (folder / side).mkdir()
        for number, name in enumerate(names):
            picture = pictures["b"] if side == "right" else pictures["a"]
            picture.save(folder / side / f"{name}{'.jpg' if number and side == 'twice' else '.png'}")
    header = json.dumps(
        {"lora_unet_x.lora_down.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    ).encode()
    (folder / "lora.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (folder / "broken.safetensors").write_bytes(b"\xff" * 64)
    texts = {
        "backslash.toml": 'content = "C:\\new\\pair.png"\n', "unknown.toml": "learing_rate = 1e-4\n",
        "type.toml": 'max_train_steps = "many"\n', "twice.toml": "[a]\nseed = 1\n[b]\nseed = 2\n",
        "flag.txt": "a photo of a cat --z 3\n", "nothing.txt": "# only a comment\n", "broken.json": "[{",
        "reg.toml": '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "right"\nis_reg = true\n',
        "no.toml": "[general]\nflip_aug = true\n",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


PAIR = ["--content", "a.png", "--style", "b.png"]
OURS = ["--content", str(HOUSE), "--style", str(INK), "--words", "in ink style"]
TRAIN = ["train", "--model", MODEL, *OURS, "--output_dir", "out"]

# name of the mistake: (command, words of the sentence, with the remedy)
ERRORS = {
    "the same picture twice": (["train", "--model", MODEL, "--content", "a.png", "--style", "a.png", "--words", "w"],
                               "the same picture: there is no style to learn; name the painted one"),
    "two shapes": (["check", "--content", "a.png", "--style", "wide.png"], "one aspect ratio; --fit crop cuts"),
    "an animation": (["check", "--content", "a.png", "--style", "moving.gif"],
        "an animation of 2 pictures; save the one"),
    "HEIC of a phone": (["check", "--content", "x.heic", "--style", "b.png"], "HEIC is not read here; save it as PNG"),
    "JPEG XL": (["check", "--content", "x.jxl", "--style", "b.png"], "JPEG XL is not read here; save it as PNG"),
    "a Photoshop file": (["check", "--content", "x.psd", "--style", "b.png"], "Photoshop is not read here; save it"),
    "an empty file": (["check", "--content", "empty.png", "--style", "b.png"],
        "the file is empty; save or copy it again"),
    "a download cut off": (["check", "--content", "cut.png", "--style", "b.png"], "save it again as PNG or JPEG"),
    "text named .png": (["check", "--content", "text.png", "--style", "b.png"], "save it again as PNG or JPEG"),
    "a slip in a name": (["check", "--content", "nope.png", "--style", "b.png"],
        "--content nope.png: no such file or folder"),
    "a file and a folder": (["check", "--content", "a.png", "--style", "right"], "both be images or both be folders"),
    "a picture without its twin": (["check", "--content", "left", "--style", "right"],
        "no style image.*pairs match by name"),
    "one name twice": (["check", "--content", "twice", "--style", "right"], "has the same name; keep one of them"),
    "an empty folder": (["check", "--content", "none", "--style", "right"], "no image in this folder; put .png"),
    "a picture of nothing": ([*TRAIN[:3], "--content", "dot.png", "--style", "dot.png", "--words", "w"],
        "dot.png is 1x1: less than 8 pixels show nothing; name the picture in full size"),
    "a variable that is not set": (["check", "--content", "", "--style", "b.png"], "--content is empty: name an image"),
    "so in a training": ([*TRAIN[:3], "--content", "a.png", "--style", " ", "--words", "w"], "--style is empty"),
    "blank words": ([*TRAIN[:3], *PAIR, "--words", "  "], "need --style_prompt, for example"),
    "a value with a minus": ([*TRAIN, "--learning_rate", "-1e-4"], "stands behind an equals sign: --learning_rate=-1"),
    "a colour that is none": (["check", *PAIR, "--background", "wite"], "no such colour; give a name like white"),
    "a fit that is none": (["train", "--model", MODEL, *OURS, "--fit", "stretch"], "--fit: invalid choice: 'stretch'"),
    "no model": (["train", *OURS], "--model is missing: name the .safetensors checkpoint"),
    "a model that is not there": (["train", "--model", "no.safetensors", *OURS],
        "no.safetensors: no such file or folder"),
    "a pickled model": ([*TRAIN[:2], "model.ckpt", "--preset", "sd15", *OURS], "model.ckpt.*safetensors"),
    "a LoRA as the model": ([*TRAIN[:2], "lora.safetensors", "--preset", "sd15", *OURS], "is a LoRA, not a model"),
    "a damaged model": (["train", "--model", "broken.safetensors", *OURS],
        "not an intact safetensors file; copy or download"),
    "a folder that is no model": ([*TRAIN[:2], "left", "--preset", "sd15", *OURS],
        "not a diffusers model .no model_index"),
    "a preset of another family": ([*TRAIN, "--preset", "sdxl_24gb"], "sdxl"),
    "no words": (["train", "--model", MODEL, *PAIR], "need --style_prompt, for example"),
    "one side alone": ([*TRAIN[:3], "--preset", "embedded", "--dataset_config", "x.toml"],
        "both name the training images"),
    "words under two names": ([*TRAIN, "--style_prompt", "x"], "two names of one option; give one of them"),
    "an option misspelt": ([*TRAIN, "--learing_rate", "1"],
        r"unknown option --learing_rate \(did you mean --learning_rate"),
    "a size that is no number": ([*TRAIN, "--resolution", "big"], "must be SIZE or WIDTH,HEIGHT in pixels"),
    "no steps": ([*TRAIN, "--max_train_steps", "0"], "--max_train_steps must be at least 1"),
    "steps that are no number": ([*TRAIN, "--max_train_steps", "many"], "--max_train_steps: invalid int value"),
    "no step left for the style": ([*TRAIN, "--style_start_step", "500"], "leaves no style step.*lower it"),
    "a folder in the name": ([*TRAIN, "--output_name", "a/b"],
        "holds ./.: give a file name without folders; set --output_dir"),
    "a name of dots": ([*TRAIN, "--output_name", ".."], "'..' has no letter: give a file name without folders"),
    "a blank name": ([*TRAIN, "--output_name", "  "], "has no letter: give a file name"),
    "a name with a line's end": ([*TRAIN, "--output_name", "ink\n"], "holds '.n': give a file name"),
    "a name too long": ([*TRAIN, "--output_name", "x" * 240], "is longer than 200 bytes: give a file name"),
    "a file where the folder goes": ([*TRAIN[:-1], "a-file"], "a-file"),
    "a state that is none": ([*TRAIN, "--resume", "left"], "not a saved state.*name a folder that ends in -state"),
    "no such settings": (["train", "--config_file", "nope.toml"], "nope.toml: .*no such file"),
    "backslashes in quotes": (["train", "--config_file", "backslash.toml"], "backslash.toml"),
    "a key misspelt": (["train", "--config_file", "unknown.toml"],
        r"unknown key .learing_rate. \(did you mean learning_rate\?\); .*remove the key, or use --sd_scripts"),
    "a text for a number": (["train", "--config_file", "type.toml"], "max_train_steps must be a whole number"),
    "a key in two sections": (["train", "--config_file", "twice.toml"], "set twice, in two sections; keep one"),
    "network_args without =": ([*TRAIN, "--network_args", "penalty"], "'penalty' is not KEY=VALUE"),
    "a network_arg misspelt": ([*TRAIN, "--network_args", "orthogonalty=none"], "did you mean orthogonality"),
    "a value of a network_arg": ([*TRAIN, "--network_args", "orthogonality=frozn"], "frozen, penalty"),
    "weights that are not there": ([*TRAIN, "--network_weights", "no.safetensors"],
        "--network_weights no.safetensors: no such file"),
    "pickled weights": ([*TRAIN, "--network_weights", "lora.pt"], "lora.pt.*safetensors"),
    "a preset misspelt": (["train", "--preset", "sdxl_12"],
        r"--preset sdxl_12: there is none \(did you mean sdxl_12gb"),
    "two files of settings": (["train", "--preset", "sd15", "--config_file", "unknown.toml"], "use one of them"),
    "sd-scripts elsewhere": ([*TRAIN, "--preset", "sd15", "--sd_scripts", "left"],
        "name the folder of an sd-scripts checkout"),
    "a host that needs a folder": ([*TRAIN, "--preset", "sd15", "--host", "sd-scripts"], "needs --sd_scripts DIR"),
    "a UI that is none": ([*TRAIN, "--webui", "left"], "name the folder of A1111 or Forge"),
    "a ComfyUI that is none": ([*TRAIN, "--comfyui", "left"], "name the folder of ComfyUI"),
    "prompts that are not there": ([*TRAIN, "--sample_prompts", "no.txt"],
        "--sample_prompts no.txt: no such file; name a text file of prompts"),
    "a flag in the prompts": ([*TRAIN, "--sample_prompts", "flag.txt"], "unknown flag --z.*known are"),
    "prompts without a prompt": ([*TRAIN, "--sample_prompts", "nothing.txt"], "the file holds no prompt"),
    "prompts in broken JSON": ([*TRAIN, "--sample_prompts", "broken.json"], "not a JSON file"),
    "an optimizer that is none": ([*TRAIN, "--optimizer_type", "AdamX"], "AdamX"),
    "a precision that is none": ([*TRAIN, "--mixed_precision", "bf17"], "--mixed_precision: invalid choice: 'bf17'"),
    "CFG beyond the end": ([*TRAIN, "--sample_cfg_end", "2"], "a share of the steps, from 0 to 1"),
    "a regularisation set": (["train", "--model", MODEL, "--dataset_config", "reg.toml", "--output_dir", "out",
                              "--resolution", "64"], "is_reg.*has no content image"),
    "a dataset without datasets": (["train", "--model", MODEL, "--dataset_config", "no.toml", "--output_dir", "out",
                                    "--resolution", "64"], r"no \[\[datasets\]\] in it"),
    "a verb misspelt": (["trian"], r"unknown verb 'trian' \(did you mean train\?\)"),
    "a picture without a style": (["restyle", "a.png", "--model", MODEL], "restyle needs a style: --style FILE"),
    "a style that is not there": (["generate", "--model", MODEL, "--prompt", "x", "--style", "no.safetensors"],
        "no.safetensors"),
    "check of nothing": (["check"], "check needs a pair, --content and --style, or files to look at"),
    "check of a damaged model": (["check", "broken.safetensors"], "not an intact safetensors file"),
    "check of a picture": (["check", "a.png"], "check takes .safetensors and .toml files"),
    "check of settings": (["check", "unknown.toml"], r"unknown key 'learing_rate' \(did you mean"),
    "check of backslashes": (["check", "backslash.toml"], "backslash"),
    "check of an empty folder": (["check", "none"], "neither a diffusers model .model_index.json. nor a checkout"),
    "no port": (["app", "--port", "99999"], "--port 99999: must lie between 1 and 65535"),
    "no folder of models": (["app", "--models", "nowhere"], "--models nowhere: no such folder"),
    "a conversion of nothing": (["convert", "a1111", "no.safetensors"], "no.safetensors: no such file"),
}  # fmt: skip

# name: (options of check, words of the warning, with what helps)
WARNINGS = {
    "unrelated pictures": (["--content", "a.png", "--style", "other.png"], "do not look like one scene"),
    "shifted": (["--content", "a.png", "--style", "shifted.png"], "shifted by about .*; align them"),
    "mirrored": (["--content", "a.png", "--style", "mirrored.png"],
        "mirror image of the other; mirror one of them back"),
    "exchanged, by the camera": (["--content", "b.png", "--style", "camera.jpg"],
        "look exchanged .*comes from a camera"),
    "exchanged, by their names": (["--content", "painting.png", "--style", "photo.png"],
        "look exchanged .*so their names say"),
    "transparent on one side": (["--content", "a.png", "--style", "clear.png"], "transparent parts.*--background"),
    "words that repeat the prompt": ([*PAIR, "--content_prompt", "a dog", "--words", "a dog in ink"],
                                     'repeats --content_prompt.*--style_prompt "in ink"'),
    "words that the photo has": ([*PAIR, "--content_prompt", "a dog in ink", "--words", "in ink"],
                                 "stands in --content_prompt already.*describe the photo without them"),
    "a rate too large": ([*PAIR, "--learning_rate", "0.5"], "very large: expect noise.*about 5e-05 is usual"),
    "a rate too small": ([*PAIR, "--learning_rate", "1e-9"], "very small: expect no effect"),
    "a rate for Prodigy": ([*PAIR, "--learning_rate", "1e-4", "--optimizer_type", "Prodigy"], "about 1 is usual here"),
}  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    lay_out(folder)
    return folder


def run(desk, monkeypatch, capfd, command):
    monkeypatch.chdir(desk)
    for name in ("SD_SCRIPTS_DIR", "MUSUBI_DIR", "KOHYA_SS_DIR"):
        monkeypatch.delenv(name, raising=False)
    try:
        status = main(command)
    except SystemExit as end:
        status = end.code
    return status, *capfd.readouterr()


@pytest.mark.parametrize("mistake", ERRORS)
def test_a_mistake_gets_one_sentence_with_the_remedy(desk, monkeypatch, capfd, mistake):
    command, words = ERRORS[mistake]
    status, _, shown = run(desk, monkeypatch, capfd, command)
    errors = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert status in (1, 2) and len(errors) == 1, shown

    assert re.search(words, errors[0]), errors[0]
    assert "Traceback" not in shown
    assert not list((desk / "out").glob("*.safetensors"))
    assert not [path.name for path in desk.glob("*-dataset")], "written before it was refused"


@pytest.mark.parametrize("mistake", WARNINGS)
def test_what_looks_wrong_is_said_before_a_run(desk, monkeypatch, capfd, mistake):
    options, words = WARNINGS[mistake]
    _, shown, _ = run(desk, monkeypatch, capfd, ["check", *options])
    warnings = [line for line in shown.splitlines() if line.startswith("warning: ")]

    assert any(re.search(words, line) for line in warnings), shown


def test_a_sound_pair_gets_no_warning(desk, monkeypatch, capfd):
    status, shown, _ = run(desk, monkeypatch, capfd, ["check", *PAIR, "--words", "in ink", "--learning_rate", "5e-5"])
    assert status == 0 and "warning" not in shown


def test_there_are_sixty_of_them():
    assert len(ERRORS) + len(WARNINGS) >= 60
