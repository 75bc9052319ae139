"""--content/--style: the dataset file they stand for, and mistakes in them."""

import argparse

import pytest
import toml
from PIL import Image

from pair_network import PairError
from pair_network.training.options import add_pair_options, style_words
from pair_network.training.pair_dataset import write_pair_dataset


def parse(tmp_path, *argv):
    parser = argparse.ArgumentParser()
    for name in ("--output_dir", "--output_name", "--dataset_config"):
        parser.add_argument(name)
    parser.add_argument("--dataset_repeats", type=int, default=1)
    add_pair_options(parser)
    return parser.parse_args(["--output_dir", str(tmp_path / "out"), "--output_name", "me", *map(str, argv)])


def picture(path, size=(32, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (40, 90, 160) if "style" in str(path) or path.stem in ("drawing", "s") else (200, 180, 90)
    Image.new("RGB", size, colour).save(path)
    return path


PROMPTS = ("--content_prompt", "a photo of a sbu dog", "--style_prompt", "in digital art style")


def test_single_images_become_folders_that_match_by_name(tmp_path):
    content, style = picture(tmp_path / "photo.jpg"), picture(tmp_path / "drawing.png")
    args = parse(tmp_path, "--content", content, "--style", style, "--dataset_repeats", 5, *PROMPTS)
    (subset,) = toml.load(write_pair_dataset(args))["datasets"][0]["subsets"]
    assert subset["num_repeats"] == 5
    assert subset["class_tokens"] == "a photo of a sbu dog in digital art style"
    assert subset["custom_attributes"]["content_class_tokens"] == "a photo of a sbu dog"
    folders = [subset["image_dir"], subset["custom_attributes"]["content_dir"]]
    assert [[p.stem for p in (tmp_path / f).iterdir()] for f in folders] == [["pair"], ["pair"]]


def test_another_run_leaves_no_image_of_the_last_one(tmp_path):
    for name in ("a.png", "b.jpg"):
        args = parse(tmp_path, "--content", picture(tmp_path / name), "--style", picture(tmp_path / "s.png"), *PROMPTS)
        write_pair_dataset(args)
    assert [p.name for p in (tmp_path / "out/me-dataset/content").iterdir()] == ["pair.jpg"]


def test_folders_are_used_in_place_and_caption_files_make_prompts_optional(tmp_path):
    for side in ("content", "style"):
        picture(tmp_path / side / "dog.png").with_suffix(".txt").write_text("a dog")
    args = parse(tmp_path, "--content", tmp_path / "content", "--style", tmp_path / "style")
    (subset,) = toml.load(write_pair_dataset(args))["datasets"][0]["subsets"]
    assert subset["image_dir"] == str(tmp_path / "style") and subset["caption_extension"] == ".txt"


def test_nothing_is_written_without_the_options(tmp_path):
    assert write_pair_dataset(parse(tmp_path)) is None
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--content", "c.png"], "--content needs --style"),
        (["--style", "s.png"], "--style needs --content"),
        (["--content", "none.png", "--style", "s.png", *PROMPTS], "--content .*none.png: no such file"),
        (["--content", "c.png", "--style", "folder", *PROMPTS], "both be images or both be folders"),
        (["--content", "c.png", "--style", "s.png", "--style_prompt", "x"], "need --content_prompt"),
        (["--content", "c.png", "--style", "s.png", "--content_prompt", "x"], "need --style_prompt"),
        (["--content", "c.png", "--style", "wide.png", *PROMPTS], "a pair needs one aspect ratio"),
        (["--content", "c.png", "--style", "s.png", "--dataset_config", "d.toml", *PROMPTS], "use one of them"),
    ],
)
def test_mistakes_are_one_line_errors_and_nothing_is_written(tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "c.png"), picture(tmp_path / "s.png"), picture(tmp_path / "wide.png", (64, 32))
    (tmp_path / "folder").mkdir()
    with pytest.raises(PairError, match=message) as caught:
        write_pair_dataset(parse(tmp_path, *argv))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_style_words_are_what_the_style_caption_adds():
    assert style_words("a photo of a dog, in ink style", "a photo of a dog") == "in ink style"
    assert style_words("an ink drawing of a dog", "a photo of a dog") == ""
