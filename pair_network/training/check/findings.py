"""What is wrong, or looks wrong, with a pair and with the settings it is to be trained with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pair_network.errors import PairError
from pair_network.images import opened
from pair_network.training.prepare import Pair, fitted
from pair_network.upright import READ, Upright

from .relation import Relation, flat_share, relate

LEAST = 8  # pixels of a side: one of a latent
SMALL = 160  # pixels of the longer side below which edges are too few to tell pictures apart for sure
# Peaks in deviations; measured: pairs of photos 7 and more, 99 % of photos that are no pair below 4.9.
UNRELATED, UNRELATED_SMALL = 4.5, 2.5
SHIFTED = 9  # shifted pairs of photos 17 and more, 99 % of photos that are no pair below 7.2
CAMERA_TAGS = (0x010F, 0x0110, 0x829A)  # maker, model, exposure time
OF_A_STYLE = re.compile(r"paint|styl|draw|sketch|ink|after|result|art\b|cartoon|anime|render", re.IGNORECASE)
OF_A_PHOTO = re.compile(r"photo|before|orig|source|content|input|img_\d|dsc", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """One sentence for the user.

    Attributes:
        level: "error": training would be pointless; "warning": probably not what is meant; "note": what will be done.
        text: What was found, where, and what to do.
    """

    level: str
    text: str

    def __str__(self) -> str:
        return self.text if self.level == "note" else f"{self.level}: {self.text}"


def pair_findings(pair: Pair, fit: str = "error", background: str = "white") -> list[Finding]:
    """What there is to say about a pair's two images.

    Raises:
        PairError: One cannot be read, or their shapes differ.
    """
    content, style = fitted(pair, fit, background)
    found = [
        Finding("note", f"{path}: {change}")
        for path, picture in ((pair.content, content), (pair.style, style))
        for change in picture.changes
    ]
    for path, picture in ((pair.content, content), (pair.style, style)):
        if min(picture.image.size) < LEAST:
            width, height = picture.image.size
            text = f"{path} is {width}x{height}: less than {LEAST} pixels show nothing; name the picture in full size"
            return [*found, Finding("error", text)]
    found += _alpha_on_one_side(pair, content, style)
    relation = relate(content.image, style.image)
    if relation.difference < 0.5 / 255:
        text = f"{pair.content} and {pair.style} are the same picture: there is no style to learn; name the painted one"
        return [*found, Finding("error", text)]
    found += _relation_findings(pair, relation, max(content.image.size))
    found += _swapped(pair, content, style)
    return found


def _alpha_on_one_side(pair: Pair, content: Upright, style: Upright) -> Iterator[Finding]:
    has = ["transparent" in " ".join(picture.changes) for picture in (content, style)]
    if has[0] != has[1]:
        which, other = (pair.content, pair.style) if has[0] else (pair.style, pair.content)
        text = f"{which} has transparent parts, {other} has none: the background will be learnt as a part of the style"
        yield Finding("warning", f"{text}; give both the same background, or choose its colour with --background")


def _relation_findings(pair: Pair, relation: Relation, side: int) -> Iterator[Finding]:
    both = f"{pair.content} and {pair.style}"
    if relation.mirrored_peak > max(1.4 * relation.peak + 3, SHIFTED):
        yield Finding("warning", f"{both}: one is the mirror image of the other; mirror one of them back")
    elif relation.shifted_peak > max(1.4 * relation.peak + 3, SHIFTED) and max(map(abs, relation.shift)) > 0.02:
        across, down = (f"{abs(share):.0%}" for share in relation.shift)
        text = f"{both} do not lie on each other: shifted by about {across} of the width and {down} of the height"
        yield Finding("warning", f"{text}; align them, as the shift would be learnt as a part of the style")
    elif relation.peak < (UNRELATED if side >= SMALL else UNRELATED_SMALL):
        text = f"{both} do not look like one scene: hardly an edge of the one lies on an edge of the other"
        yield Finding("warning", f"{text}; a pair is a picture and the same picture in the style")


def _swapped(pair: Pair, content: Upright, style: Upright) -> Iterator[Finding]:
    reasons = []
    if is_of_a_camera(pair.style) and not is_of_a_camera(pair.content):
        reasons.append(f"{pair.style.name} comes from a camera, {pair.content.name} does not")
    if OF_A_STYLE.search(pair.content.stem) and OF_A_PHOTO.search(pair.style.stem):
        reasons.append("so their names say")
    flat = flat_share(content.image), flat_share(style.image)
    if flat[0] > 2.5 * flat[1] and flat[0] > flat[1] + 0.25:
        reasons.append(f"{flat[0]:.0%} of {pair.content.name} is flat colour, {flat[1]:.0%} of {pair.style.name}")
    if reasons:
        text = f"--content {pair.content} and --style {pair.style} look exchanged ({'; '.join(reasons)})"
        yield Finding("warning", f"{text}: --content is the photo, --style the painting")


def is_of_a_camera(path: Path) -> bool:
    """Whether the file's EXIF names a camera."""
    try:
        with opened(path, READ) as image:
            exif = image.getexif()
            return any(tag in exif or tag in exif.get_ifd(0x8769) for tag in CAMERA_TAGS)
    except Exception:  # whatever damaged marks make of Pillow; the picture itself is read elsewhere
        return False


def words_findings(content_prompt: str | None, style_prompt: str | None) -> Iterator[Finding]:
    """Captions that will not do what is meant."""
    content, style = (content_prompt or "").strip(), (style_prompt or "").strip()
    if not content or not style:
        return
    if style.casefold().startswith(content.casefold()):
        rest = style[len(content) :].strip(" ,") or "in digital art style"
        text = f"--style_prompt {style!r} repeats --content_prompt, which is put before it"
        yield Finding("warning", f'{text}; give the style\'s own words alone: --style_prompt "{rest}"')
    elif style.casefold() in content.casefold():
        text = f"--style_prompt {style!r} stands in --content_prompt already: both images would have the style's words"
        yield Finding("warning", f"{text}; describe the photo without them")


def rate_findings(learning_rate: float | None, optimizer: str, usual: float = 5e-5) -> Iterator[Finding]:
    """A learning rate ten times off what the optimizer is used with.

    Args:
        learning_rate: As given, None: the host's default.
        optimizer: As given; those that find their own rate want 1.
        usual: A rate that the presets use with AdamW.
    """
    if learning_rate is None:
        return
    finds_its_own = re.search(r"prodigy|dadapt", optimizer or "", re.IGNORECASE)
    wanted = 1.0 if finds_its_own else usual / 4 if re.search("lion", optimizer or "", re.IGNORECASE) else usual
    low, high = (wanted / 10, wanted * 10) if finds_its_own else (wanted / 50, wanted * 200)
    if not low <= learning_rate <= high:
        side = "large: expect noise instead of pictures" if learning_rate > high else "small: expect no effect"
        yield Finding("warning", f"--learning_rate {learning_rate:g} is very {side}; about {wanted:g} is usual here")


def raise_first_error(findings: list[Finding]) -> None:
    """Raises the first error among findings as PairError."""
    for finding in findings:
        if finding.level == "error":
            raise PairError(finding.text)
