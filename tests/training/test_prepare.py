"""Pairs found by name and copied as trainers read them."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from pair_network import PairError
from pair_network.training.prepare import Pair, copy_pairs, find_pairs, fitted, is_readable_in_place


def save(path, size=(64, 48), seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(path, **options)
    return path


def test_names_match_as_they_look_and_hidden_files_are_no_images(tmp_path):
    save(tmp_path / "c" / (unicodedata.normalize("NFC", "café") + ".png"))
    save(tmp_path / "s" / (unicodedata.normalize("NFD", "café") + ".png"))
    for side in "cs":
        (tmp_path / side / "._x.png").write_bytes(b"Mac OS X")
    (pair,) = find_pairs(tmp_path / "c", tmp_path / "s")
    assert pair.name == "café"
    assert not is_readable_in_place([pair])
    copy_pairs([pair], tmp_path / "out")
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")) == [
        "content/café.png",
        "style/café.png",
    ]


@pytest.mark.parametrize("missing", ["content", "style"])
def test_an_image_without_a_twin_is_named(tmp_path, missing):
    for side in "cs":
        save(tmp_path / side / "cat.png")
    save(tmp_path / ("s" if missing == "content" else "c") / "dog.png")
    with pytest.raises(PairError, match=f"no {missing} image named dog"):
        find_pairs(tmp_path / "c", tmp_path / "s")


def test_formats_differ_and_captions_have_two_suffixes(tmp_path):
    save(tmp_path / "c" / "cat.avif").with_suffix(".txt").write_text("a cat")
    save(tmp_path / "s" / "cat.png").with_suffix(".caption").write_text("a cat in ink style")
    pairs = find_pairs(tmp_path / "c", tmp_path / "s")
    assert not is_readable_in_place(pairs)
    copy_pairs(pairs, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out/content").iterdir()} == {"cat.png", "cat.txt"}
    assert (tmp_path / "out/style/cat.txt").read_text() == "a cat in ink style"


def test_a_file_that_needs_nothing_is_copied_byte_for_byte(tmp_path):
    pair = Pair("pair", save(tmp_path / "photo.jpg"), save(tmp_path / "drawing.png"))
    copy_pairs([pair], tmp_path / "out")
    assert (tmp_path / "out/content/pair.jpg").read_bytes() == pair.content.read_bytes()
    assert (tmp_path / "out/style/pair.png").read_bytes() == pair.style.read_bytes()


def test_what_an_earlier_run_left_goes(tmp_path):
    for name in ("a.jpg", "b.png"):
        copy_pairs([Pair("pair", save(tmp_path / name), save(tmp_path / "s.png"))], tmp_path / "out")
        (tmp_path / "out/content/pair_0064x0064_sd.npz").write_bytes(b"cached latents")
    copy_pairs([Pair("pair", save(tmp_path / "b.png"), save(tmp_path / "s.png"))], tmp_path / "out")
    assert [p.name for p in (tmp_path / "out/content").iterdir()] == ["pair.png"]


def test_a_small_mismatch_is_cropped_from_the_middle(tmp_path):
    pair = Pair("pair", save(tmp_path / "c.png", (200, 100)), save(tmp_path / "s.png", (203, 100)))
    content, style = fitted(pair)
    assert content.changes == () and style.image.size == (200, 100)
    whole = np.asarray(Image.open(pair.style))
    assert (np.asarray(style.image) == whole[:, 1:201]).all() and "cropped from 203x100" in style.changes[0]


@pytest.mark.parametrize(("fit", "sizes"), [("crop", ((64, 64), (64, 64))), ("pad", ((128, 64), (128, 64)))])
def test_a_large_mismatch_is_fitted_when_asked_for(tmp_path, fit, sizes):
    pair = Pair("pair", save(tmp_path / "c.png", (64, 64)), save(tmp_path / "s.png", (128, 64)))
    with pytest.raises(PairError, match=r"c\.png is 64x64, but its twin .*s\.png is 128x64.*--fit crop"):
        fitted(pair)
    assert tuple(picture.image.size for picture in fitted(pair, fit, "black")) == sizes
