"""What the page's buttons do, without the page: choices that are none and input that is none are one sentence."""

from pathlib import Path

import pytest

pytest.importorskip("psutil")

from pair_network import PairError
from pair_network.app import actions
from pair_network.app.actions import Workplace
from pair_network.app.queue import Queue
from pair_network.training.finish import Uis

ROOT = Path(__file__).parents[2]
PAIR = str(ROOT / "demo/pairs/content/house.png"), str(ROOT / "demo/pairs/ink/house.png")


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A workplace whose queue starts nothing."""
    monkeypatch.setattr(Queue, "tick", lambda self: None)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/small.safetensors").write_bytes(b"too small for a model")
    return Workplace(tmp_path / "work", (tmp_path / "models",))


def ask(work, **changes):
    given = {"photo": PAIR[0], "painting": PAIR[1], "words": "in ink style", "shows": "", "model": str(actions.BUNDLED),
             "time": "normal", "more": True}  # fmt: skip
    return actions.train(work, *{**given, **changes}.values())


def test_a_training_is_queued_with_copies_of_the_pictures(work):
    run = ask(work)
    options = dict(zip(run.options[::2], run.options[1::2], strict=True))
    assert run.name == "ink" and options["--max_train_steps"] == "120" and options["--style_start_step"] == "40"
    assert Path(options["--content"]).read_bytes() == Path(PAIR[0]).read_bytes()
    assert all(Path(options[side]).is_relative_to(work.folder) for side in ("--content", "--style"))
    assert options["--output_dir"] == str(work.folder / "ink")
    assert ask(work).name == "ink-2"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"words": " "}, 'the style\'s words: nothing is there; write, for example, "in ink wash style"'),
        ({"words": "x" * 400}, "400 characters are no prompt; use at most 300"),
        ({"photo": None}, "the photo is missing: drop a picture into its field"),
        ({"painting": PAIR[0]}, "the same picture: there is no style to learn"),
        ({"painting": str(ROOT / "run.py")}, "run.py: not a readable image"),
        ({"model": "/etc/passwd"}, "/etc/passwd: choose a model from the list"),
        ({"model": None}, "no model: choose a model from the list"),
        ({"time": "forever"}, "forever: choose one of quick look, normal, thorough"),
    ],
)
def test_what_cannot_be_trained_is_said_and_not_queued(work, changes, words):
    with pytest.raises(PairError, match=words):
        ask(work, **changes)
    assert work.queue.runs == []


def test_only_models_are_offered(work):
    assert work.model_choices() == [str(actions.BUNDLED)]


@pytest.mark.parametrize("name", ["../../etc/passwd", None, "ink"])
def test_only_finished_styles_of_this_folder_can_be_used(work, name):
    ask(work)
    for use in (lambda: actions.send(work, name), lambda: actions.convert(work, name, "peft"),
                lambda: actions.compare(work, name, str(actions.BUNDLED), "a cat", "guidance", 2, 1, 0)):  # fmt: skip
        with pytest.raises(PairError, match="choose a style from the list; a finished training adds one"):
            use()


def test_sending_needs_a_ui_and_a_format_is_one_of_the_list(work):
    run = ask(work)
    run.lora.parent.mkdir(parents=True)
    run.lora.touch()
    with pytest.raises(PairError, match="start the page with --webui DIR or --comfyui DIR, or download the file"):
        actions.send(work, "ink")
    with pytest.raises(PairError, match="x; rm: choose one of a1111"):
        actions.convert(work, "ink", "x; rm")
    assert Uis().commands(run.lora) == []


def test_a_command_that_fails_hands_on_its_own_sentence():
    with pytest.raises(PairError, match=r"no\.safetensors: no such file"):
        actions.call("convert", "info", "no.safetensors")
