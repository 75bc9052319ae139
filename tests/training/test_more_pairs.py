"""``train --more_pairs N``: the verb's command line, what a training gets of it, and pairs that are used again."""

import subprocess
import sys
from pathlib import Path

import pytest
import toml
from PIL import Image

from pair_network import PairError
from pair_network.errors import UNFIT
from pair_network.training import launch, more_pairs
from pair_network.training.hosts import embedded
from pair_network.training.hosts.embedded.config import frozen
from pair_network.training.hosts.embedded.options import training_parser
from pair_network.training.more_pairs import MorePairs
from pair_network.training.one_command import Given
from pair_network.training.pair_dataset import write_pair_dataset


@pytest.fixture
def place(monkeypatch, tmp_path):
    """An empty folder with a pair."""
    monkeypatch.chdir(tmp_path)
    for name in ("SD_SCRIPTS_DIR", "MUSUBI_DIR"):
        monkeypatch.delenv(name, raising=False)
    for colour, name in (("red", "photo"), ("blue", "painted")):
        picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
        Image.blend(picture, Image.new("RGB", (64, 64), colour), 0.3).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def verb(monkeypatch):
    """Calls of the verb pairs, which makes folders, or gives the status that ``verb.status`` says."""

    class Verb(list):
        status = 0

        def call(self, command, env):
            self.append(command)
            if not self.status:
                folder = command[command.index("--out") + 1]
                write_made(folder)
            return self.status

    found = Verb()
    monkeypatch.setattr(subprocess, "call", found.call)
    return found


def write_made(folder, number=3):
    for side in ("content", "style"):
        (Path(folder) / "made" / side).mkdir(parents=True)
        for i in range(number):
            Image.new("RGB", (64, 64)).save(Path(folder) / "made" / side / f"{i}.png")
            (Path(folder) / "made" / side / f"{i}.txt").write_text("a cat")
    (Path(folder) / "dataset.toml").write_text("")


PAIR = ["--content", "photo.png", "--style", "painted.png", "--content_prompt", "a photo of a house",
        "--style_prompt", "in blue style", "--resolution", "64", "--pretrained_model_name_or_path", "model",
        "--output_dir", "out", "--output_name", "blue"]  # fmt: skip


def made(argv=PAIR, values=None, count=24, prompts=None):
    return more_pairs.made("embedded", Given.of(argv).completed_by(values or {}), MorePairs(count, prompts))


def test_the_verb_gets_the_pair_and_the_training_its_folder(place, verb):
    option, folder = made()
    command = verb[0]
    start = command.index("pairs")
    assert command[0] == sys.executable and command[start - 1] == "pair_network"
    given = dict(zip(command[start + 1 :: 2], command[start + 2 :: 2], strict=True))
    assert option == "--made_pairs" and given.pop("--out") == folder
    assert given == {"--content": "photo.png", "--style": "painted.png", "--content_prompt": "a photo of a house",
                     "--style_prompt": "in blue style", "--model": "model", "--count": "24",
                     "--resolution": "64"}  # fmt: skip


def test_the_same_pairs_are_used_again_and_others_made_anew(place, verb):
    first = made()
    assert made() == first and len(verb) == 1
    Image.new("RGB", (64, 64), "green").save(place / "painted.png")
    assert made() != first and len(verb) == 2


def test_other_prompts_make_other_pairs(place, verb):
    found = []
    for text in ("a cat", "a dog"):
        (place / "prompts.txt").write_text(text)
        found += made(prompts=place / "prompts.txt")
    assert found[1] != found[3] and len(verb) == 2


def test_what_only_the_config_file_says_is_read(place, verb):
    argv, values = PAIR[:4], dict(zip((name[2:] for name in PAIR[4::2]), PAIR[5::2], strict=True))
    assert made(argv, {**values, "resolution": "96,64"}) and "96" in verb[0]
    (place / "photo.txt").write_text("a photo of a sbu barn\n")
    made(argv, values)
    assert "a photo of a sbu barn" in verb[1]


def test_a_style_beyond_the_map_is_trained_on_the_pair_alone(place, verb, capsys):
    verb.status = UNFIT
    assert made() == [] and "training on the pair alone" in capsys.readouterr().out


def test_a_failed_verb_ends_the_training_with_its_status(place, verb):
    verb.status = 2
    with pytest.raises(SystemExit) as end:
        made()
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (PAIR[2:], "name its image with --content"),
        (["--content", ".", *PAIR[2:]], "--content . is a folder"),
        (["--content", "none.png", *PAIR[2:]], "--content none.png: no such file"),
        (PAIR[:4] + PAIR[6:], "needs a caption of the photo"),
        (PAIR[:6] + PAIR[8:], "needs the style's words"),
        (PAIR[:8] + PAIR[10:], "needs --resolution"),
    ],
)
def test_a_mistake_is_one_sentence(place, verb, argv, words):
    with pytest.raises(PairError, match=words):
        made(argv)
    assert not verb


def test_counts_and_prompts_that_cannot_be_meant(place):
    with pytest.raises(PairError, match="--more_pairs -3: a number of pairs"):
        MorePairs(-3)
    with pytest.raises(PairError, match="--more_prompts is for --more_pairs"):
        launch.train([*PAIR, "--more_prompts", "x.txt"])


def test_musubi_refuses_before_anything_is_made(place, verb):
    with pytest.raises(PairError, match="on musubi-tuner every pair has a content branch of its own"):
        launch.train([*PAIR, "--musubi", "somewhere", "--more_pairs", "4"])
    assert not verb


def test_the_training_gets_the_option(place, verb, monkeypatch):
    seen = []
    monkeypatch.setattr(embedded, "train", lambda argv: seen.extend(argv) or 1)
    launch.train([*PAIR, "--more_pairs", "4"])
    assert seen[-2] == "--made_pairs" and "--more_pairs" not in seen


def options(*more):
    return frozen(training_parser().parse_args([*PAIR, *more]))


def test_real_and_made_pairs_are_half_of_the_samples_each(place):
    write_made("made-folder", 3)
    dataset = toml.load(write_pair_dataset(options("--made_pairs", "made-folder")))
    real, others = dataset["datasets"][0]["subsets"]
    assert real["num_repeats"] == 3 and others["num_repeats"] == 1
    assert others["custom_attributes"]["content_branch"] == "shared" and "content_branch" not in str(real)
    assert others["image_dir"].endswith("made-folder/made/style")


def test_a_folder_that_pairs_did_not_write_is_refused(place):
    with pytest.raises(PairError, match="name a folder that pairs wrote"):
        write_pair_dataset(options("--made_pairs", "."))
