"""Figures without a right answer, the advice drawn from them, and the report's HTML."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pair_network.sampling.previews import grid, save_picture, tiles_of
from pair_network.training.report import advice as advice_module
from pair_network.training.report.figures import NAMES, Eye, Seen, figures, structure_kept, style_reached
from pair_network.training.report.record import MOST_POINTS, Record
from pair_network.training.report.report import chart, html_of, smoothed, write_report

GENERATOR = torch.Generator().manual_seed(0)


def seen(count=4, scale=1.0, offset=0.0):
    """Features that vary from picture to picture; all channels scaled and moved alike."""
    colours, latents = (torch.randn(count, 3, 8, 8, generator=GENERATOR) for _ in range(2))
    return Seen(colours * scale + offset, latents * scale + offset)


def moved(base, share, content, style):
    """Pictures whose channels have gone a share of the way from the photo's statistics to the painting's."""

    def gone(features, a, b):
        spread, mean = b.std((2, 3)) / a.std((2, 3)), b.mean((2, 3)) - a.mean((2, 3))
        factor = (1 + share * (spread - 1))[..., None, None]
        middle = features.mean((2, 3), keepdim=True)
        return (features - middle) * factor + middle + share * mean[..., None, None]

    return Seen(gone(base.colours, content.colours, style.colours), gone(base.latents, content.latents, style.latents))


def test_style_reached_is_nothing_for_base_and_grows_with_the_style():
    base, content, style = seen(), seen(1), seen(1, 2.0, 5.0)
    values = [style_reached(base, moved(base, share, content, style), content, style) for share in (0, 0.3, 0.6, 1)]
    assert values[0] == pytest.approx(0, abs=1e-6) and values == sorted(values)
    assert values[-1] > 0.8


def test_structure_is_kept_whatever_the_colours_and_lost_in_other_pictures():
    base = seen()
    assert structure_kept(base, Seen(base.colours, base.latents * 3 + 7)) == pytest.approx(1, abs=1e-4)
    assert abs(structure_kept(base, seen())) < 0.3
    shifted = Seen(base.colours, base.latents.roll(3, -1))
    assert structure_kept(base, shifted) < 0.5


def test_a_feature_that_is_no_number_gives_no_figure():
    base = seen()
    broken = Seen(base.colours, base.latents * math.nan)
    assert figures(base, broken, seen(1), seen(1)) == {}
    assert set(figures(base, base, seen(1), seen(1))) == set(NAMES)


def test_the_eye_leaves_the_autoencoder_as_it_was():
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2).eval()  # fmt: skip
    found = Eye(vae).look([Image.new("RGB", (100, 60), colour) for colour in ("red", "blue")], side=128)
    assert found.latents.shape == (2, 4, 32, 64) and found.colours.shape[0] == 2
    assert not vae.encoder.down_blocks[0]._forward_hooks


def measured(style, structure):
    return dict(zip(NAMES, (style, structure), strict=True))


def test_advice_takes_the_strongest_that_keeps_the_picture():
    kept, lost = advice_module.KEPT + 0.1, advice_module.KEPT - 0.1
    lora = {0.6: measured(0.2, kept), 1.0: measured(0.4, kept), 1.3: measured(0.6, lost)}
    found = advice_module.advice(lora, {3.0: measured(0.5, lost), 1.5: measured(0.3, lost - 0.1)})
    assert "strength 1 (style reached 0.40" in found["text"] and "λ 3 (" in found["text"]
    assert len(found["rows"]) == 5
    assert advice_module.advice({1.0: {}}, {}) == {}
    assert "train longer" in advice_module.advice({1.0: measured(0.05, kept)}, {3.0: measured(0.06, kept)})["text"]


def test_a_better_save_is_named_where_its_file_is(tmp_path):
    column = "style guidance 3"
    times = [{"step": step, column: measured(style, 0.9)} for step, style in ((40, 0.5), (80, 0.3))]
    assert advice_module.better_save(times, tmp_path, "ink") == ""
    (tmp_path / "ink-step00000040.safetensors").touch()
    assert (
        advice_module.better_save(times, tmp_path, "ink")
        == "After step 40 it was better: ink-step00000040.safetensors."
    )
    assert advice_module.better_save(list(reversed(times)), tmp_path, "ink") == ""


def test_a_sheet_is_cut_into_its_pictures_again(tmp_path):
    pictures = [Image.new("RGB", (256, 256), colour) for colour in ("red", "green", "blue")]
    for title in ("a cat", "a very long prompt " * 12):
        tiles = tiles_of(grid([pictures], ["base", "style LoRA", "style guidance 3"], title=title))
        assert [tile.getpixel((9, 9)) for tile in tiles] == [picture.getpixel((9, 9)) for picture in pictures]


def record_of(folder):
    sheet = grid([[Image.new("RGB", (64, 64), c) for c in ("red", "green", "blue")]], ["a", "b", "c"], title="a cat")
    save_picture(folder / "sample/ink_000040_00_0.png", sheet)
    Image.new("RGB", (64, 64), "red").save(folder / "photo.png")
    record = Record("ink", str(folder), words="in <b>ink</b> style", command="python x --words 'in <b>ink</b> style'",
                    settings={"seed": 3}, total_steps=80, step=40, pair=[str(folder / "photo.png")] * 2)  # fmt: skip
    for step in range(1, 41):
        record.note_losses(step, {"content": torch.tensor(1 / step), "style": torch.tensor(0.5)})
    record.note_previews(40, [Path("ink_000040_00_0.png")], ["a cat"])
    record.note_figures(40, {"style LoRA": measured(0.4, 0.8)})
    return record


def test_the_report_is_one_file_that_fetches_nothing_and_escapes_what_it_was_given(tmp_path):
    path = write_report(record_of(tmp_path))
    text = path.read_text(encoding="utf-8")
    assert path.name == "report.html" and text.count("data:image/webp;base64,") >= 5
    assert not re.search(r"""(src|href)=(?!"data:)|https?://|url\(""", text)
    assert "<b>ink</b>" not in text and "&lt;b&gt;ink&lt;/b&gt;" in text
    assert "style reached" in text and "0.40" in text and "<polyline" in text


def test_a_report_is_drawn_before_there_is_anything_to_show(tmp_path):
    assert "in training" in html_of(Record("ink", str(tmp_path)))
    assert chart(Record("ink", str(tmp_path))) == ""


def test_a_picture_that_has_gone_is_left_out(tmp_path):
    record = record_of(tmp_path)
    (tmp_path / "sample/ink_000040_00_0.png").unlink()
    assert "What it draws" not in html_of(record)


def test_long_curves_stay_short():
    record = Record("ink", ".")
    for step in range(3 * MOST_POINTS):
        record.note_losses(step, {"style": np.float32(1)})
    assert len(record.losses["style"]) <= MOST_POINTS and record.losses["style"][-1][0] == 3 * MOST_POINTS - 1
    assert len(smoothed(record.losses["style"])) <= 400
