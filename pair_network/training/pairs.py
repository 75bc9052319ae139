"""The image files of pairs: matching them by name, and refusing pairs that cannot be trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pair_network.errors import PairError
from pair_network.images import by_name, image_size, images_by_name, list_images, same_text

SHARED_BRANCH = "shared"


def check_branch(attributes: Mapping[str, object], where: str) -> None:
    """Raises PairError where a subset's ``content_branch`` is neither left out nor "shared"."""
    branch = attributes.get("content_branch", SHARED_BRANCH)
    if branch != SHARED_BRANCH:
        raise PairError(
            f'{where}: content_branch = {branch!r}: write "shared" for one content branch for all pairs of the subset, '
            "or leave it out for one each"
        )


def find_content_image(style_image: str | Path, content_folder: str | Path) -> Path:
    """The content image with the same base name as the style image, whatever its suffix and Unicode form.

    Raises:
        PairError: There is none, or more than one.
    """
    style_image, content_folder = Path(style_image), Path(content_folder)
    if not content_folder.is_dir():
        raise PairError(f"{content_folder}: no such folder (content_dir of {style_image.parent})")
    found = images_by_name(content_folder).get(same_text(style_image.stem), [])
    if not found:
        raise PairError(
            f"{style_image}: no content image named {style_image.stem}.* in {content_folder}; pairs match by name"
        )
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise PairError(f"{style_image}: {len(found)} content images have this name ({names}); keep one")
    return found[0]


def check_pair(content: str | Path, style: str | Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sizes of both images, which were decoded to their ends.

    Raises:
        PairError: One is unreadable, or they differ in aspect ratio by more than a pixel's rounding.
    """
    (cw, ch), (sw, sh) = image_size(content), image_size(style)
    # Resizing w × h to another size of the same shape rounds each side by at most half a pixel.
    if abs(cw * sh - sw * ch) > max(cw + ch, sw + sh) / 2:
        raise PairError(f"{content} is {cw}x{ch}, but {style} is {sw}x{sh}: a pair needs one aspect ratio; crop one")
    return (cw, ch), (sw, sh)


def check_no_orphans(style_images: Iterable[Path], content_folder: str | Path) -> None:
    """Raises PairError when a content image has no style image: its pair would silently be missing."""
    names = by_name(style_images)
    for image in list_images(content_folder):
        if same_text(image.stem) not in names:
            raise PairError(f"{image}: no style image has this name; add it in the style or move it away")
