"""Preview pictures: labelled grids that show a prompt without and with the style."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from pair_network.files import atomic_file

MARGIN = 8
BACKGROUND, INK = (255, 255, 255), (30, 30, 30)


def grid(
    rows: Sequence[Sequence[Image.Image | None]],
    column_labels: Sequence[str],
    row_labels: Sequence[str] = (),
    title: str = "",
    tile: int = 256,
) -> Image.Image:
    """One picture of all images, each scaled to fit a square tile, with labels above the columns and left of the rows.

    Args:
        rows: Images by row; rows may be shorter than the labels, and None leaves a tile empty.
        column_labels: One for each column.
        row_labels: One for each row, or none.
        title: Line above the columns.
        tile: Side of a tile in pixels; small images are enlarged without smoothing.
    """
    font = ImageFont.load_default(size=16)
    left = MARGIN + max((int(font.getlength(label)) + MARGIN for label in row_labels), default=0)
    head = MARGIN + 24 * (1 + bool(title))
    width = max(left + len(column_labels) * (tile + MARGIN), left + int(font.getlength(title)) + MARGIN)
    sheet = Image.new("RGB", (width, head + len(rows) * (tile + MARGIN)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((left, MARGIN), title, INK, font)
    for column, label in enumerate(column_labels):
        x = left + column * (tile + MARGIN) + tile // 2
        draw.text((x, head - 14), label, INK, font, anchor="mm")
    for number, images in enumerate(rows):
        y = head + number * (tile + MARGIN)
        if row_labels:
            draw.text((MARGIN, y + tile // 2), row_labels[number], INK, font, anchor="lm")
        for column, image in enumerate(images):
            if image is not None:
                sheet.paste(_fitted(image, tile), (left + column * (tile + MARGIN), y))
    return sheet


def tiles_of(sheet: Image.Image, tile: int = 256) -> list[Image.Image]:
    """The pictures of a sheet of one row that ``grid`` made with a title and without row labels."""
    top = sheet.height - tile - MARGIN
    lefts = range(MARGIN, sheet.width - tile, tile + MARGIN)
    tiles = [sheet.crop((left, top, left + tile, top + tile)) for left in lefts]
    while tiles and not ImageChops.invert(tiles[-1]).getbbox():  # white: a long title makes a sheet wider
        tiles.pop()
    return tiles


def save_picture(path: str | Path, picture: Image.Image) -> None:
    """Writes a PNG whole or not at all."""
    with atomic_file(Path(path)) as temporary:
        picture.save(temporary, format="PNG")


def _fitted(image: Image.Image, tile: int) -> Image.Image:
    """The image scaled into a tile, centred on the background."""
    scale = tile / max(image.size)
    resampling = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    fitted = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)), resampling)
    canvas = Image.new("RGB", (tile, tile), BACKGROUND)
    canvas.paste(fitted, ((tile - fitted.width) // 2, (tile - fitted.height) // 2))
    return canvas
