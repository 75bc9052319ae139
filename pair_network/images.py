"""Image files: listing a folder, and decoding what can be trained on or drawn from."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from .errors import PairError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
EXIF_ORIENTATION = 0x0112


def list_images(folder: str | Path) -> list[Path]:
    """The images of a folder, sorted by name.

    Raises:
        PairError: No such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PairError(f"{folder}: no such folder")
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise PairError(f"{folder}: no image in this folder; put .png, .jpg, .webp or .bmp files there")
    return images


def open_image(path: str | Path) -> Image.Image:
    """The whole image, decoded to RGB.

    Raises:
        PairError: The file is missing, empty, cut off or no image, has more than 8 bits for a colour, or carries a
            rotation that trainers do not apply.
    """
    path = Path(path)
    if not path.is_file():
        raise PairError(f"{path}: no such image")
    if path.stat().st_size == 0:
        raise PairError(f"{path}: the file is empty; save or copy it again")
    try:
        with Image.open(path) as image:
            if image.mode in DEEP_MODES:
                raise PairError(f"{path}: more than 8 bits per pixel (mode {image.mode}); save it as an 8-bit image")
            if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
                raise PairError(f"{path}: the camera stored it rotated (EXIF), which trainers ignore; save it upright")
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as cause:
        if isinstance(cause, PairError):
            raise
        raise PairError(f"{path}: not a readable image ({cause}); save it again as PNG or JPEG") from cause


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels of an image that was decoded to its end; raises as ``open_image`` does."""
    return open_image(path).size
