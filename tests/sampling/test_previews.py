"""The labelled grid: every image where its labels say."""

from PIL import Image

from pair_network.sampling.previews import MARGIN, grid, save_picture


def tile(color):
    return Image.new("RGB", (8, 8), color)


def test_images_stand_in_their_rows_and_columns():
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    sheet = grid([[tile(red), tile(green)], [None, tile(blue)]], ["a", "b"], tile=64)
    centre = lambda column, row: sheet.getpixel((MARGIN + column * 72 + 32, sheet.height - (2 - row) * 72 + 32))  # noqa: E731
    assert [centre(0, 0), centre(1, 0), centre(0, 1), centre(1, 1)] == [red, green, (255, 255, 255), blue]


def test_wide_images_keep_their_shape_and_labels_widen_the_sheet():
    wide = Image.new("RGB", (80, 40), (255, 0, 0))
    sheet = grid([[wide]], ["x"], tile=64)
    pixels = [sheet.getpixel((MARGIN + 32, sheet.height - 72 + y)) for y in (2, 32, 61)]
    assert pixels == [(255, 255, 255), (255, 0, 0), (255, 255, 255)]
    assert (
        grid([[wide]], ["x"], ["a long row label"], "and a title that is far longer than the picture is wide").width
        > 200
    )


def test_pictures_are_written_whole(tmp_path):
    save_picture(tmp_path / "new" / "x.png", tile((1, 2, 3)))
    assert Image.open(tmp_path / "new" / "x.png").getpixel((0, 0)) == (1, 2, 3)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.png"]
