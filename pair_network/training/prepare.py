"""The images of pairs, copied into the run's own dataset folder as every trainer reads them alike.

Trainers differ in what they do with EXIF rotation, transparency, 16 bits and palettes, and none expects a pair whose
sides differ by a few pixels. So the files of --content and --style are copied once, made upright, opaque and equal in
shape; a file that needs nothing is copied byte for byte.
"""

from __future__ import annotations

import functools
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageOps

from pair_network.errors import PairError
from pair_network.files import atomic_file, write_text
from pair_network.images import CAPTION_SUFFIXES, UNREAD, by_name, caption_file, list_images
from pair_network.reading import is_utf16, read_text
from pair_network.upright import Upright, background_colour, open_upright

logger = logging.getLogger(__name__)

NAMED = (".gif", *UNREAD)  # of a folder of pairs: read, or refused by name, never left out
SMALL_MISMATCH = 0.02  # a crop of this share is made without being asked for


@dataclass(frozen=True)
class Pair:
    """Two files of one name, and that name."""

    name: str
    content: Path
    style: Path


def check_sides(content: str | None, style: str | None) -> tuple[Path, Path]:
    """What --content and --style name: two files, or two folders.

    Raises:
        PairError: One names nothing, or nothing that is there, or they name a file and a folder.
    """
    named = {"--content": content or "", "--style": style or ""}
    for flag, name in named.items():
        if not name.strip():
            raise PairError(f"{flag} is empty: name an image or a folder of them")
        if not Path(name).exists():
            raise PairError(f"{flag} {name}: no such file or folder")
    paths = Path(named["--content"]), Path(named["--style"])
    if paths[0].is_dir() != paths[1].is_dir():
        raise PairError("--content and --style must both be images or both be folders")
    return paths


def find_pairs(content: Path, style: Path) -> list[Pair]:
    """The pairs of two images, or of two folders whose files match by name.

    Names match as they look: composed and decomposed letters (macOS) are the same. Hidden files, AppleDouble's ``._x``
    among them, are no images.

    Raises:
        PairError: A folder is empty or holds an image that has no twin, or several.
    """
    if style.is_file():
        return [Pair("pair", content, style)]
    sides = {folder: by_name(list_images(folder, also=NAMED)) for folder in (content, style)}
    for folder, other in ((content, style), (style, content)):
        for name, files in sides[folder].items():
            if len(files) > 1:
                raise PairError(f"{files[0]}: {files[1].name} has the same name; keep one of them")
            if name not in sides[other]:
                missing = "no content image" if folder == style else "no style image"
                raise PairError(f"{files[0]}: {missing} named {name}.* in {other}; pairs match by name")
    return [Pair(name, sides[content][name][0], files[0]) for name, files in sides[style].items()]


def fitted(pair: Pair, fit: str = "error", background: str = "white") -> tuple[Upright, Upright]:
    """Both images of a pair, upright and of one shape.

    Args:
        fit: What is done where the shapes differ by more than 2 %: "crop" cuts the wider one, "pad" fills up the
            narrower one with the background, "error" refuses. Less is always cropped.

    Raises:
        PairError: One cannot be read, or the shapes differ and ``fit`` is "error".
    """
    stamps = tuple((path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
                   for path in (pair.content, pair.style))  # fmt: skip
    return _fitted(pair, fit, background, stamps)


@functools.lru_cache(maxsize=2)  # check, copy and sheet look at the same pictures
def _fitted(pair: Pair, fit: str, background: str, stamps: tuple[object, ...]) -> tuple[Upright, Upright]:
    content, style = open_upright(pair.content, background), open_upright(pair.style, background)
    (cw, ch), (sw, sh) = content.image.size, style.image.size
    # Scaling w × h to another size of the same shape rounds each side by at most half a pixel.
    if abs(cw * sh - sw * ch) <= max(cw + ch, sw + sh) / 2:
        return content, style
    mismatch = max(cw * sh, sw * ch) / min(cw * sh, sw * ch) - 1
    if mismatch > SMALL_MISMATCH and fit == "error":
        raise PairError(
            f"{pair.content} is {cw}x{ch}, but its twin {pair.style} is {sw}x{sh}: a pair needs one aspect ratio; "
            "--fit crop cuts the wider one, --fit pad fills up the narrower one"
        )
    shape = _padded_shape if fit == "pad" and mismatch > SMALL_MISMATCH else _cropped_shape
    return (
        _reshaped(content, shape(content.image.size, style.image.size), background),
        _reshaped(style, shape(style.image.size, content.image.size), background),
    )


def _cropped_shape(own: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """Width and height of an image cut to the other's shape; the narrower of two stays as it is."""
    (w, h), (ow, oh) = own, other
    return (round(h * ow / oh), h) if w * oh > ow * h else own


def _padded_shape(own: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """Width and height of an image filled up to the other's shape; the wider of two stays as it is."""
    (w, h), (ow, oh) = own, other
    return (round(h * ow / oh), h) if w * oh < ow * h else own


def _reshaped(picture: Upright, size: tuple[int, int], background: str) -> Upright:
    (w, h), (new_w, new_h) = picture.image.size, size
    if (w, h) == size:
        return picture
    if new_w <= w and new_h <= h:
        left, top = (w - new_w) // 2, (h - new_h) // 2
        image = picture.image.crop((left, top, left + new_w, top + new_h))
        return Upright(image, (*picture.changes, f"cropped from {w}x{h} to {new_w}x{new_h}"))
    image = ImageOps.pad(picture.image, size, color=background_colour(background))
    return Upright(image, (*picture.changes, f"padded from {w}x{h} to {new_w}x{new_h}"))


def copy_pairs(
    pairs: list[Pair], folder: Path, fit: str = "error", background: str = "white", style_words: str = ""
) -> None:
    """Writes content/NAME.* and style/NAME.* with their captions below the folder; what lay there before goes.

    A style image without a caption gets its content image's, with the style words behind it.

    Every file is replaced whole, so that the processes of a distributed run may all do this at once.

    Raises:
        PairError: As in ``fitted``; nothing was written for that pair.
    """
    kept: set[Path] = set()
    for pair in pairs:
        pictures = fitted(pair, fit, background)
        for source, picture, side in zip((pair.content, pair.style), pictures, ("content", "style"), strict=True):
            kept |= _copy(source, picture, folder / side / pair.name)
        if lacks_caption(pair, style_words):
            kept.add(_write_caption(folder / "style" / pair.name, pair.content, style_words))
            for change in picture.changes:
                logger.info("%s: %s", source, change)
    # Latents and text that kohya cached beside the images of an earlier run know neither their image nor their caption.
    for old in (*folder.glob("content/*"), *folder.glob("style/*")):
        if old not in kept and old.is_file() and not old.name.startswith("."):
            old.unlink(missing_ok=True)


def _copy(source: Path, picture: Upright, target: Path) -> set[Path]:
    """The files written: the image and, as .txt, its caption."""
    image = target.with_name(target.name + (".png" if picture.changes else source.suffix.lower()))
    with atomic_file(image) as temporary:
        if picture.changes:
            picture.image.save(temporary, format="PNG")
        else:
            shutil.copyfile(source, temporary)
    caption = caption_file(source)
    if caption is None:
        return {image}
    copied = target.with_name(target.name + CAPTION_SUFFIXES[0])
    logger.info("%s: taken as the caption of %s", caption, source.name)
    with atomic_file(copied) as temporary:
        temporary.write_text(read_text(caption), encoding="utf-8", newline="\n")
    return {image, copied}


def lacks_caption(pair: Pair, style_words: str) -> bool:
    """Whether the style image's caption follows from the content image's and the style words."""
    return bool(style_words) and caption_file(pair.style) is None and caption_file(pair.content) is not None


def _write_caption(target: Path, content: Path, style_words: str) -> Path:
    source, copied = caption_file(content), target.with_name(target.name + CAPTION_SUFFIXES[0])
    assert source is not None
    write_text(copied, f"{first_line(source)} {style_words}".strip())
    return copied


def first_line(caption: Path) -> str:
    """The first line of a caption file that is not empty, "" where there is none."""
    return next((line.strip() for line in read_text(caption).splitlines() if line.strip()), "")


def is_readable_in_place(
    pairs: list[Pair], fit: str = "error", background: str = "white", style_words: str = ""
) -> bool:
    """Whether every trainer reads all images and captions alike where they lie, and no caption has to be made.

    Raises:
        PairError: As in ``fitted``.
    """
    captions = [caption_file(image) for pair in pairs for image in (pair.content, pair.style)]
    if any(caption is not None and is_utf16(caption) for caption in captions):
        return False
    suffixes = {caption.suffix for caption in captions if caption is not None}
    if any(lacks_caption(pair, style_words) for pair in pairs):
        return False
    if len(suffixes) > 1 or any(pair.content.stem != pair.style.stem for pair in pairs):
        return False
    if any(path.name.startswith("._") for pair in pairs[:1] for path in pair.style.parent.iterdir()):
        return False
    return not any(picture.changes for pair in pairs for picture in fitted(pair, fit, background))
