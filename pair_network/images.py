"""Image files: listing a folder, and decoding what can be trained on or drawn from."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from .errors import PairError, printable

logger = logging.getLogger(__name__)

# What a picture's bytes may be, whatever its name says: Pillow would also hand an EPS to Ghostscript, which runs it.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF")
Size = tuple[int, int]  # width, height in pixels
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif")
# Kinds that people have and that are not read, by suffix.
UNREAD = {
    ".heic": "HEIC", ".heif": "HEIF", ".jxl": "JPEG XL", ".jp2": "JPEG 2000", ".psd": "Photoshop", ".svg": "SVG",
    ".tga": "TGA", ".dng": "RAW", ".raw": "RAW", ".eps": "EPS",
}  # fmt: skip
MAX_PIXELS = 1 << 27  # decoded to RGB, 400 MB
CAPTION_SUFFIXES = (".txt", ".caption")
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
EXIF_ORIENTATION = 0x0112
SETTLED = 3 * 10**9  # nanoseconds after which no second change hides in a folder's time stamp: FAT's has two seconds
Listing = TypeVar("Listing")


def list_images(folder: str | Path, also: Sequence[str] = ()) -> list[Path]:
    """The images of a folder, sorted by name. Hidden files are none, as macOS' ``._photo.png`` beside ``photo.png``.

    Args:
        folder: Where they are.
        also: Suffixes of further files to list; those of other kinds that are not read are left out with a warning.

    Raises:
        PairError: No such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PairError(f"{printable(folder)}: no such folder")
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    images = [path for path in files if path.suffix.lower() in (*IMAGE_SUFFIXES, *also) and path.is_file()]
    for path in files:
        if path.suffix.lower() in {*UNREAD, ".gif"} - {*also}:
            logger.warning("%s is left out: %s is not read; save it as PNG to use it", path, path.suffix)
    if not images:
        raise PairError(f"{printable(folder)}: no image in this folder; put .png, .jpg, .webp or .bmp files there")
    return images


def same_text(name: str) -> str:
    """A name in the one form that all its Unicode spellings share: macOS writes é as two characters."""
    return unicodedata.normalize("NFC", name)


def by_name(images: Iterable[Path]) -> dict[str, list[Path]]:
    """Images by their name without suffix, in one Unicode form."""
    found: dict[str, list[Path]] = {}
    for image in images:
        found.setdefault(same_text(image.stem), []).append(image)
    return found


def file_beside(image: Path, suffix: str) -> Path | None:
    """The file of the image's name with another suffix, in any Unicode form and any case of the suffix, or None."""
    exact = image.with_name(image.stem + suffix)
    if exact.is_file() or not image.parent.is_dir():
        return exact if exact.is_file() else None
    names = _once(_names, image.parent).get((same_text(image.stem), suffix.lower()), ())
    return next((file for file in map(image.with_name, names) if file.is_file()), None)


def images_by_name(folder: Path) -> Mapping[str, list[Path]]:
    """``by_name`` of a folder's images; raises as ``list_images`` does."""
    return _once(_images, folder)


def _names(folder: Path) -> Mapping[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for name in os.listdir(folder):
        stem, suffix = os.path.splitext(name)
        found.setdefault((same_text(stem), suffix.lower()), []).append(name)
    return found


def _images(folder: Path) -> Mapping[str, list[Path]]:
    return by_name(list_images(folder))


def _once(listing: Callable[[Path], Listing], folder: Path) -> Listing:
    """A listing of a folder, kept until the folder changes: each of thousands of images asks for it."""
    changed = folder.stat().st_mtime_ns
    return _kept(listing, folder, changed) if time.time_ns() - changed > SETTLED else listing(folder)


@functools.lru_cache(maxsize=8)
def _kept(listing: Callable[[Path], Listing], folder: Path, changed: int) -> Listing:
    return listing(folder)


def caption_file(image: Path, preferred: str = CAPTION_SUFFIXES[0]) -> Path | None:
    """The caption file beside an image: of the preferred suffix, else of one of the usual ones; None: there is none."""
    files = (file_beside(image, suffix) for suffix in (preferred, *CAPTION_SUFFIXES))
    return next((file for file in files if file is not None), None)


@contextlib.contextmanager
def opened(path: str | Path, formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """The stored image, of one of the formats, its pixels not yet read.

    Raises:
        PairError: The file is missing, empty, too large, or damaged: also where the block finds that out.
    """
    path = Path(path)
    name = printable(path)
    if not path.is_file():
        raise PairError(f"{name}: no such image")
    if path.stat().st_size == 0:
        raise PairError(f"{name}: the file is empty; save or copy it again")
    if path.suffix.lower() in UNREAD:
        raise PairError(f"{name}: {UNREAD[path.suffix.lower()]} is not read here; save it as PNG or JPEG")
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's about large pictures and damaged marks; the limit is below
            with Image.open(path, formats=[kind for kind in formats if kind in Image.OPEN]) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PairError(
                        f"{name}: {image.width}x{image.height} pixels are more than {MAX_PIXELS // 10**6} million; "
                        "save a smaller copy"
                    )
                yield image
    except PairError:
        raise
    except Image.UnidentifiedImageError as cause:
        kinds = f"not a readable image of a kind that is read ({', '.join(formats)})"
        raise PairError(f"{name}: {kinds}; save it again as PNG or JPEG") from cause
    except OSError as cause:
        if cause.errno is not None:
            raise PairError(f"{name}: cannot be read ({cause.strerror}); check its permissions") from cause
        raise PairError(_damaged(name, cause)) from cause
    except Exception as cause:  # Pillow raises whatever damaged bytes make of it
        raise PairError(_damaged(name, cause)) from cause


def _damaged(name: str, cause: Exception) -> str:
    return f"{name}: not a readable image ({printable(cause, 200)}); save it again as PNG or JPEG"


def orientation(image: Image.Image) -> int:
    """The rotation mark of a camera, 1 to 8; 1 (upright) where there is none or it cannot be read."""
    try:
        mark = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # the marks of a sound picture may be damaged in any way
        return 1
    return mark if mark in range(1, 9) else 1


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its camera's mark says."""
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270"}
    turns |= {7: "TRANSVERSE", 8: "ROTATE_90"}
    turn = turns.get(orientation(image))
    return image if turn is None else image.transpose(Image.Transpose[turn])


def open_image(path: str | Path) -> Image.Image:
    """The whole image, decoded to RGB.

    Raises:
        PairError: The file is missing, empty, cut off or no image, has more than 8 bits for a colour, or carries a
            rotation that trainers do not apply.
    """
    with opened(path) as image:
        name = printable(Path(path))
        if image.mode in DEEP_MODES:
            raise PairError(f"{name}: more than 8 bits per pixel (mode {image.mode}); save it as an 8-bit image")
        if orientation(image) != 1:
            raise PairError(f"{name}: the camera stored it rotated (EXIF), which trainers ignore; save it upright")
        return image.convert("RGB")


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels of an image that was decoded to its end; raises as ``open_image`` does."""
    return open_image(path).size
