"""The check before a run, on pictures and styles whose right answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from demo import styles
from pair_network import PairError
from pair_network.__main__ import main
from pair_network.training.check.findings import pair_findings, rate_findings, words_findings
from pair_network.training.check.relation import relate
from pair_network.training.check.run import say
from pair_network.training.prepare import Pair

ROOT = Path(__file__).parents[2]
STYLES = ("watercolour", "duotone", "pastel")
SIZE = 256


def photo(seed):
    """Edges of all sizes, as a photo has them: discs that hide each other ("dead leaves"), some light and grain."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    picture = np.empty((SIZE, SIZE, 3), np.float32)
    picture[:] = generator.uniform(size=3)
    for radius in np.sort(20 + 60 * generator.power(0.5, 60))[::-1]:
        centre = generator.uniform(0, SIZE, 2)
        picture[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = generator.uniform(size=3)
    picture = styles.blur(picture) * (0.8 + 0.2 * x / SIZE)[..., None]
    return np.clip(picture + generator.normal(0, 0.01, picture.shape), 0, 1).astype(np.float32)


def image(values):
    return Image.fromarray((np.clip(values, 0, 1) * 255).round().astype(np.uint8))


def pair_of(tmp_path, content, style, names=("a.png", "b.png")):
    paths = [tmp_path / name for name in names]
    for path, values in zip(paths, (content, style), strict=True):
        image(values).save(path)
    return Pair("pair", *paths)


def texts(findings, level="warning"):
    return " ".join(finding.text for finding in findings if finding.level == level)


@pytest.mark.parametrize("style", STYLES)
def test_a_true_pair_is_not_complained_about(tmp_path, style):
    for seed in range(3):
        pair = pair_of(tmp_path, photo(seed), getattr(styles, style)(photo(seed)))
        assert texts(pair_findings(pair)) == ""


def test_the_same_picture_twice_is_an_error(tmp_path):
    found = pair_findings(pair_of(tmp_path, photo(0), photo(0)))
    assert "the same picture: there is no style to learn" in texts(found, "error")
    with pytest.raises(PairError, match="same picture"):
        say(found)


@pytest.mark.parametrize("style", STYLES)
def test_pictures_of_two_scenes_are_noticed(tmp_path, style):
    pair = pair_of(tmp_path, photo(1), getattr(styles, style)(photo(2)))
    assert "do not look like one scene" in texts(pair_findings(pair))


@pytest.mark.parametrize("style", STYLES)
def test_a_shifted_pair_is_noticed_with_its_shift(tmp_path, style):
    painted = getattr(styles, style)(photo(3))
    pair = pair_of(tmp_path, photo(3)[:, 20:], painted[:, :-20])
    assert "shifted by about 8% of the width and 0% of the height" in texts(pair_findings(pair))


def test_a_mirrored_pair_is_noticed(tmp_path):
    pair = pair_of(tmp_path, photo(4), styles.duotone(photo(4))[:, ::-1])
    assert "mirror image" in texts(pair_findings(pair))


def test_an_exchanged_pair_is_noticed_by_flat_colours_and_by_names(tmp_path):
    swapped = pair_of(tmp_path, styles.poster(photo(5)), photo(5))
    assert "look exchanged" in texts(pair_findings(swapped)) and "flat colour" in texts(pair_findings(swapped))
    named = pair_of(tmp_path, styles.watercolour(photo(5)), photo(5), ("painted.png", "photo.png"))
    assert "so their names say" in texts(pair_findings(named))
    right = pair_of(tmp_path, photo(5), styles.poster(photo(5)), ("photo.png", "painted.png"))
    assert texts(pair_findings(right)) == ""


def test_transparency_on_one_side_is_noticed(tmp_path):
    pair = pair_of(tmp_path, photo(6), styles.poster(photo(6)))
    layered = image(styles.poster(photo(6))).convert("RGBA")
    layered.putalpha(Image.linear_gradient("L").resize(layered.size))
    layered.save(pair.style)
    assert "transparent parts" in texts(pair_findings(pair))


@pytest.mark.parametrize(
    ("content", "style", "message"),
    [
        ("a photo of a dog", "a photo of a dog in ink style", '--style_prompt "in ink style"'),
        ("a photo of a dog in ink style", "in ink style", "stands in --content_prompt already"),
        ("a photo of a dog", "in ink style", ""),
    ],
)
def test_words(content, style, message):
    found = texts(words_findings(content, style))
    assert message in found and bool(found) == bool(message)


@pytest.mark.parametrize(
    ("rate", "optimizer", "message"),
    [
        (5e-5, "AdamW", ""), (1e-3, "AdamW", ""), (0.5, "AdamW", "very large"), (1e-8, "AdamW8bit", "very small"),
        (1.0, "Prodigy", ""), (1e-4, "Prodigy", "very small"), (None, "AdamW", ""),
    ],
)  # fmt: skip
def test_rates(rate, optimizer, message):
    found = texts(rate_findings(rate, optimizer))
    assert message in found and bool(found) == bool(message)


def test_the_shift_is_where_the_second_picture_lies():
    first, second = photo(7)[:, :-26], styles.duotone(photo(7))[:, 26:]
    assert relate(image(first), image(second)).shift[0] == pytest.approx(-26 / 230, abs=0.02)


def test_the_verb_prints_captions_and_writes_the_sheet(tmp_path, capsys):
    pair = pair_of(tmp_path, photo(8), styles.ink(photo(8)))
    options = ["--content", pair.content, "--style", pair.style, "--sheet", tmp_path / "sheet.png"]
    words = ["--content_prompt", "a photo of a sbu cat", "--style_prompt", "in ink style"]
    assert main(["check", *map(str, options), *words]) == 0
    assert "'a photo of a sbu cat in ink style'" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.png").width > 300
    image(photo(8)).save(pair.style)
    assert main(["check", *map(str, options)]) == 1
    assert "error: " in capsys.readouterr().out


def test_a_lora_a_model_and_settings_are_told_apart(tmp_path, capsys):
    from safetensors.torch import save_file

    lora = tmp_path / "ink.safetensors"
    save_file({"lora_unet_x.alpha": torch.ones(())}, lora, {"modelspec.trigger_phrase": "in ink style"})
    assert main(["check", str(lora), str(ROOT / "demo/model"), str(ROOT / "presets/sd15.toml")]) == 0
    shown = capsys.readouterr().out
    assert "a LoRA, 1 tensors" in shown and "trigger words: in ink style" in shown
    assert "a model of type sd; trained on the embedded host or sd-scripts" in shown and "preset sd15" in shown
    assert "every key and value is understood" in shown


def test_a_checkout_of_musubi_tuner_is_known_and_an_old_one_is_named(tmp_path, capsys):
    (tmp_path / "src/musubi_tuner").mkdir(parents=True)
    assert main(["check", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "a checkout of musubi-tuner" in shown.out
    assert shown.err.count("\n") == 1 and "a musubi-tuner checkout, of April 2026 or later" in shown.err
