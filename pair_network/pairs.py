"""The image files of pairs: finding twins, and refusing pairs that cannot be trained on."""

from __future__ import annotations

from collections.abc import Iterable
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


def find_twin(style_image: str | Path, content_folder: str | Path) -> Path:
    """The content image with the same base name as the style image, whatever its suffix.

    Raises:
        PairError: There is none, or more than one.
    """
    style_image, content_folder = Path(style_image), Path(content_folder)
    if not content_folder.is_dir():
        raise PairError(f"{content_folder}: no such folder (content_dir of {style_image.parent})")
    twins = [path for path in list_images(content_folder) if path.stem == style_image.stem]
    if not twins:
        raise PairError(
            f"{style_image}: no content image named {style_image.stem}.* in {content_folder}; pairs match by name"
        )
    if len(twins) > 1:
        names = ", ".join(map(str, twins))
        raise PairError(f"{style_image}: {len(twins)} content images have this name ({names}); keep one")
    return twins[0]


def check_pair(content: str | Path, style: str | Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sizes of both images, which were decoded to their ends.

    Raises:
        PairError: One is unreadable, or they differ in aspect ratio by more than a pixel's rounding.
    """
    (cw, ch), (sw, sh) = image_size(content), image_size(style)
    # Resizing w × h to another size of the same shape rounds each side by at most half a pixel.
    if abs(cw * sh - sw * ch) > max(cw + ch, sw + sh) / 2:
        raise PairError(
            f"{content} is {cw}x{ch}, but its twin {style} is {sw}x{sh}: a pair needs one aspect ratio; crop one"
        )
    return (cw, ch), (sw, sh)


def check_no_orphans(style_images: Iterable[Path], content_folder: str | Path) -> None:
    """Raises PairError when a content image has no stylised twin: its pair would silently be missing."""
    names = {path.stem for path in style_images}
    for image in list_images(content_folder):
        if image.stem not in names:
            raise PairError(f"{image}: no style image has this name; add its stylised twin or move it away")
