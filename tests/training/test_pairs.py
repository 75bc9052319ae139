"""Image pairs that cannot be trained on are refused with file, cause and remedy."""

import os

import pytest
from PIL import Image

from pair_network import PairError
from pair_network.images import caption_file, image_size, list_images
from pair_network.training.pairs import check_no_orphans, check_pair, find_content_image


def picture(path, size=(64, 48)):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, (10, 200, 30)).save(path)
    return path


@pytest.mark.parametrize(("content", "style"), [((64, 48), (64, 48)), ((128, 96), (64, 48)), ((513, 384), (683, 512))])
def test_pairs_of_one_shape_fit(tmp_path, content, style):
    check_pair(picture(tmp_path / "a.png", content), picture(tmp_path / "b.png", style))


@pytest.mark.parametrize("style", [(64, 64), (64, 46), (48, 64)])
def test_pairs_of_different_shape_are_refused(tmp_path, style):
    with pytest.raises(PairError, match=r"a\.png is 64x48, but .*b\.png is \d+x\d+: .* crop one"):
        check_pair(picture(tmp_path / "a.png"), picture(tmp_path / "b.png", style))


def test_unreadable_images_are_named(tmp_path):
    good = picture(tmp_path / "good.png")
    assert image_size(good) == (64, 48)
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:60])
    empty = tmp_path / "empty.png"
    empty.touch()
    text = tmp_path / "text.png"
    text.write_text("no image")
    for path, message in (
        (cut, "cut.png: not a readable image"),
        (empty, "empty.png: the file is empty"),
        (text, "text.png: not a readable image"),
        (tmp_path / "none.png", "none.png: no such image"),
    ):
        with pytest.raises(PairError, match=message.replace(".", r"\.")) as caught:
            check_pair(good, path)
        assert "\n" not in str(caught.value)


def test_rotated_photos_and_deep_images_are_refused(tmp_path):
    """Trainers ignore the rotation that a phone stores, and would cut 16-bit images to black."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "phone.jpg", exif=exif)
    Image.new("I;16", (64, 48)).save(tmp_path / "deep.png")
    with pytest.raises(PairError, match=r"phone\.jpg: the camera stored it rotated .* save it upright"):
        image_size(tmp_path / "phone.jpg")
    with pytest.raises(PairError, match=r"deep\.png: more than 8 bits"):
        image_size(tmp_path / "deep.png")


def test_content_images_match_by_name_whatever_the_suffix(tmp_path):
    style = picture(tmp_path / "style" / "dog.png")
    with pytest.raises(PairError, match=r"content: no such folder"):
        find_content_image(style, tmp_path / "content")
    other = picture(tmp_path / "content" / "cat.jpg")
    with pytest.raises(PairError, match=r"style.dog\.png: no content image named dog\.\*"):
        find_content_image(style, tmp_path / "content")
    with pytest.raises(PairError, match=r"cat\.jpg: no style image has this name"):
        check_no_orphans([style], tmp_path / "content")
    other.unlink()
    content = picture(tmp_path / "content" / "dog.jpg")
    assert find_content_image(style, tmp_path / "content") == content
    check_no_orphans([style], tmp_path / "content")
    picture(tmp_path / "content" / "dog.webp")
    with pytest.raises(PairError, match="2 content images have this name"):
        find_content_image(style, tmp_path / "content")


def test_empty_folders_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(PairError, match="no image in this folder"):
        list_images(tmp_path)


def test_thousands_of_pairs_take_no_more_listings_than_a_few(tmp_path, monkeypatch):
    """Each image asks for its twin and its caption; a folder that is listed for each of them takes minutes."""
    styles = [picture(tmp_path / "style" / f"{number}.png") for number in range(60)]
    for style in styles:
        picture(tmp_path / "content" / style.name)
    for folder in ("style", "content"):
        os.utime(tmp_path / folder, (1e9, 1e9))
    listed = []
    for module, name in ((os, "listdir"), (os, "scandir")):
        listing = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, listing=listing: listed.append(args) or listing(*args))
    assert all(find_content_image(style, tmp_path / "content").name == style.name for style in styles)
    assert not any(caption_file(style) for style in styles)
    assert 1 < len(listed) < 6
    (tmp_path / "style" / "7.TXT").write_text("a cat")  # seen at once, though the folder was listed before
    assert caption_file(styles[7]) == tmp_path / "style" / "7.TXT"
    (tmp_path / "content" / "7.png").rename(tmp_path / "content" / "seven.png")
    with pytest.raises(PairError, match="no content image named 7"):
        find_content_image(styles[7], tmp_path / "content")
