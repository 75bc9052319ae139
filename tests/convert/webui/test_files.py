"""Files from anywhere: which are offered, what their cards say, and that a hostile one is one line and no more."""

import json
import random
import traceback

import pytest
import torch
from safetensors.torch import save_file

LAYER = "lora_unet_conv_in"


@pytest.fixture
def files(monkeypatch, tmp_path, standins):
    """The module, over stand-ins of a UI with two LoRA folders: tmp_path / a and tmp_path / b."""
    import importlib
    from pathlib import Path

    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    ui = standins.install(monkeypatch, folders[0])
    ui.shared.cmd_opts.lora_dirs = [str(folders[1]), str(folders[0])]
    ui.shared.walk_files = lambda path, allowed_extensions: map(str, Path(path).rglob("*.safetensors"))
    module = importlib.import_module("pair_network_ui.files")
    module.ui = ui
    return module


def test_every_folder_is_read_and_coupled_checkpoints_are_not_offered(files, tmp_path):
    for name in ("a/one", "a/one.pair", "b/two", "a/same", "b/same", "a/below/again", "b/below/again"):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names = files.style_names()
    assert {"one", "two"} <= set(names) and not any("pair" in name for name in names)
    assert len(names) == len(set(names)) == 6
    every = {path for path in tmp_path.rglob("*") if path.suffix == ".safetensors"}
    assert set(files.find(names).values()) == every - {tmp_path / "a" / "one.pair.safetensors"}
    # Asked for by name, as a plot or an API client may, it is found and read, and then refused with the remedy.
    assert files.find(["one.pair"])


def test_one_folder_as_text_is_enough(files, tmp_path):
    (tmp_path / "a" / "one.safetensors").touch()
    del files.ui.shared.cmd_opts.lora_dirs
    assert files.style_names() == ["one"]
    files.ui.shared.cmd_opts.lora_dirs = None
    assert files.style_names() == ["one"]


@pytest.mark.parametrize(
    "card, trigger, wanted",
    [
        ({"activation text": "in ink style", "style guidance scale": 4}, None, ("in ink style", 4.0)),
        ({"activation text": "in ink", "preferred weight": 0.7}, "in oil", ("in ink", 3.0)),
        ({}, "in oil style", ("in oil style", 3.0)),
        (None, "in oil style", ("in oil style", 3.0)),
        ({"activation text": "<lora:ink:1> in ink,"}, None, ("in ink", 3.0)),
        ({"activation text": "a AND b"}, None, ("own", 3.0)),
        ({"activation text": ["in ink"], "style guidance scale": "4"}, None, ("own", 3.0)),
        ({"activation text": 7, "style guidance scale": True}, None, ("own", 3.0)),
        ({"style guidance scale": 1e9}, None, ("own", 3.0)),
        ({"style guidance scale": float("nan")}, None, ("own", 3.0)),
        ({"activation text": "in\nink\tstyle"}, None, ("in ink style", 3.0)),
        ({"activation text": "x" * 5000}, None, ("x" * 300, 3.0)),
        ({"activation text": "<script>alert(1)</script> ink"}, None, ("<script>alert(1)</script> ink", 3.0)),
        ("[1, 2]", None, ("own", 3.0)),
        ("[" * 100_000, None, ("own", 3.0)),
        ("{", None, ("own", 3.0)),
        ("\ufeff" + '{"activation text": "in ink"}', None, ("in ink", 3.0)),
    ],
)
def test_the_card_fills_words_and_scale(files, tmp_path, card, trigger, wanted):
    """Words are plain text of a text field; what a card cannot mean leaves the field as it was."""
    tensors = {f"{LAYER}.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "a" / "ink.safetensors", {"modelspec.trigger_phrase": trigger} if trigger else None)
    if card is not None:
        text = card if isinstance(card, str) else json.dumps(card)
        (tmp_path / "a" / "ink.json").write_text(text, encoding="utf-8")
    assert files.from_card("ink", "own", 3.0) == wanted
    assert files.from_card("None", "own", 3.0) == ("own", 3.0)


def test_a_card_that_is_no_text_is_none(files, tmp_path):
    (tmp_path / "a" / "ink.safetensors").write_bytes(b"\x00" * 40)
    (tmp_path / "a" / "ink.json").write_bytes(b"\xff\xfe\x00\x01")
    assert files.from_card("ink", "own", 3.0) == ("own", 3.0)
    (tmp_path / "a" / "ink.json").write_bytes(b'{"activation text": "' + b"x" * (2 << 20) + b'"}')
    assert files.from_card("ink", "own", 3.0) == ("own", 3.0)


def test_hostile_files_are_one_line(load, tmp_path, standins):
    """3,000 seeded files: each is read, bound to a model and run, or refused with one line that names it."""
    from lib_pair_network.card import Card, read_card
    from lib_pair_network.errors import GuidanceError
    from lib_pair_network.hooks import LoraHooks
    from lib_pair_network.lora_file import read_style

    files = load("../hostile_loras")
    generator, unet, refused = random.Random(20), standins.TinyUnet(), 0
    x = torch.zeros(1, 4, 4, 4, dtype=torch.float64), torch.ones(1, dtype=torch.float64), torch.zeros(1, 2, 6).double()
    path = tmp_path / "hostile.safetensors"
    for number in range(3000):
        path.write_bytes(files.hostile(generator))
        assert isinstance(read_card(path), Card)
        try:
            hooks = LoraHooks(unet, read_style(path), path.name)
            with hooks.active():
                unet(*x)
        except GuidanceError as cause:
            refused += 1
            line = str(cause)
            assert path.name in line and line.isprintable() and len(line) <= 600, (number, line)
        except BaseException:
            raise AssertionError(f"case {number}: {traceback.format_exc()}") from None
    assert 1000 < refused < 2700
    assert not any(module._forward_hooks for module in unet.modules())
