"""Pictures as people have them: turned upright, made opaque and 8 bits, or refused by what they are."""

import numpy as np
import pytest
from PIL import Image

from pair_network import PairError
from pair_network.upright import open_upright


def colours(size=(48, 32), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


def test_a_plain_picture_needs_nothing(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    found = open_upright(tmp_path / "a.png")
    assert found.changes == () and (np.asarray(found.image) == colours()).all()


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(colours()).save(tmp_path / "a.png", exif=exif)
    found = open_upright(tmp_path / "a.png")
    assert "EXIF" in found.changes[0]
    assert (np.asarray(found.image) == np.rot90(colours(), -1)).all()


def test_sixteen_bits_keep_their_brightness(tmp_path):
    values = np.linspace(0, 65535, 48 * 32).reshape(32, 48).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    found = open_upright(tmp_path / "a.png")
    assert found.changes == ("16 bits made 8",) and found.image.mode == "RGB"
    assert np.abs(np.asarray(found.image)[..., 0] - values / 257.0).max() <= 0.5


@pytest.mark.parametrize(
    ("mode", "scale", "change"), [("I", 1, "16 bits made 8"), ("F", 1, "floats"), ("F", 1 / 255, "floats")]
)
def test_eight_bits_that_are_kept_in_32_keep_their_brightness(tmp_path, mode, scale, change):
    grey = Image.fromarray(colours()[..., 0])
    kept = Image.fromarray((np.asarray(grey) * np.float32(scale)).astype(np.int32 if mode == "I" else np.float32))
    assert kept.mode == mode
    kept.save(tmp_path / "a.tiff")
    found = open_upright(tmp_path / "a.tiff")
    assert change in found.changes[-1] and (np.asarray(found.image)[..., 0] == np.asarray(grey)).all()


def test_values_of_32_bits_are_refused_by_name(tmp_path):
    Image.fromarray(np.full((32, 48), 70000, np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(PairError, match=r"a\.tiff: has values above 65535; save it with 8 or 16 bits"):
        open_upright(tmp_path / "a.tiff")


@pytest.mark.parametrize(("name", "below"), [("white", 255), ("black", 0), ("#808080", 128)])
def test_transparent_parts_get_the_background(tmp_path, name, below):
    image = np.dstack([colours(), np.zeros((32, 48), np.uint8)])
    image[:16, :, 3] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    found = np.asarray(open_upright(tmp_path / "a.png", name).image)
    assert (found[:16] == colours()[:16]).all() and (found[16:] == below).all()


def test_a_palette_with_a_transparent_entry(tmp_path):
    picture = Image.fromarray(colours()).quantize(8)
    picture.save(tmp_path / "a.png", transparency=0)
    found = open_upright(tmp_path / "a.png", "black")
    expected = np.asarray(picture.convert("RGB")) * (np.asarray(picture) != 0)[..., None]
    assert (np.asarray(found.image) == expected).all()


@pytest.mark.parametrize("suffix", [".tif", ".avif", ".webp", ".gif"])
def test_other_formats_are_read(tmp_path, suffix):
    Image.fromarray(np.full((32, 48, 3), 120, np.uint8)).save(tmp_path / f"a{suffix}")
    found = open_upright(tmp_path / f"a{suffix}")
    assert np.abs(np.asarray(found.image).astype(int) - 120).max() <= 3
    assert (suffix == ".webp") != any("saved as PNG" in change for change in found.changes)


def test_an_animation_is_refused_by_its_name(tmp_path):
    frames = [Image.fromarray(colours(seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(PairError, match=r"a\.gif: an animation of 3 pictures; save the one you want as PNG"):
        open_upright(tmp_path / "a.gif")


def test_an_eps_named_png_starts_no_ghostscript(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(PairError, match=r"a\.png: not a readable image of a kind that is read"):
        open_upright(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"", "the file is empty"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(40), "save it again as PNG or JPEG"),
        ("a.heic", b"ftypheic", "HEIC is not read here"),
        ("a.jxl", b"\xff\x0a", "JPEG XL is not read here"),
        ("b.png", None, "no such image"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PairError, match=message) as caught:
        open_upright(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_unknown_colour_is_named(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    with pytest.raises(PairError, match="--background 'blau': no such colour"):
        open_upright(tmp_path / "a.png", "blau")
