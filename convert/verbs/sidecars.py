"""What the UIs show beside a LoRA: NAME.json, NAME.png, and the cover picture inside the file."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from convert.formats.layers import Adapter
from convert.formats.metadata import trigger_words
from convert.paths import stem_of
from pair_network.errors import PairError
from pair_network.files import atomic_file, write_text
from pair_network.images import opened
from pair_network.options import option

PICTURES = (".png", ".preview.png", ".jpg", ".jpeg", ".webp")
TEXTS = (
    "activation text",
    "negative text",
    "preferred weight",
    "style guidance scale",
    "notes",
    "description",
    "sd version",
)
NUMBERS = ("preferred weight", "style guidance scale")
MAX_SCALE = 20.0  # of the web UIs' λ
LARGEST_NUMBER = 1e6  # of any in a card; not a comparison with NaN holds
# What runs in a page; a description may have other markup.
ACTIVE_TAGS = r"<\s*/?\s*(script|iframe|object|embed|svg|link|meta|base|form)\b"
ACTIVE_HTML = re.compile(rf"{ACTIVE_TAGS}|\bon\w+\s*=|javascript:", re.IGNORECASE)
of_card = partial(option, group="card in the UI")
COVER_SIZE = 256  # pixels: ComfyUI refuses to show a header above 1 MB


@dataclass(frozen=True)
class CardOptions:
    """What the card says."""

    activation: str | None = of_card(
        None, "text that a click adds to the prompt", metavar="TEXT", default="the trigger words"
    )
    negative: str | None = of_card(None, "text that a click adds to the negative prompt", metavar="TEXT")
    weight: float | None = of_card(None, "preferred weight", float, metavar="W")
    scale: float | None = of_card(
        None, "recommended λ of style guidance, which the extension for the web UIs takes over", float, metavar="L"
    )
    notes: str | None = of_card(None, "notes", metavar="TEXT")
    preview: Path | None = of_card(None, "picture", Path, metavar="IMAGE", default="the one beside the input")
    no_card: bool = of_card(False, "write the .safetensors alone", key="no-card")


@dataclass(frozen=True)
class Card:
    """Texts of the JSON file, and the picture; both may be empty."""

    texts: dict[str, object]
    picture: Path | None

    @classmethod
    def of(cls, source: Path, adapter: Adapter, options: CardOptions, strength: float) -> Card:
        """The card that the options ask for, with what the input's own card says beside them.

        Args:
            source: The input.
            adapter: What is in it.
            options: What the card is to say.
            strength: Factor of the LoRA; at another than 1 the own card's weights no longer hold.
        """
        if options.no_card:
            return cls({}, None)
        if options.scale is not None and not abs(options.scale) <= MAX_SCALE:
            raise PairError(f"--scale {options.scale:g}: must lie between −{MAX_SCALE:g} and {MAX_SCALE:g}")
        known = _texts_beside(source)
        if strength != 1:
            known.pop("preferred weight", None)  # it was one for the old strength
            known.pop("style guidance scale", None)
        texts = {
            "activation text": options.activation or known.get("activation text") or trigger_words(adapter.metadata),
            "negative text": options.negative,
            "preferred weight": options.weight,
            "style guidance scale": options.scale,
            "notes": options.notes,
            "sd version": adapter.family.words.ui if adapter.is_sure else None,
        }
        picture = options.preview or _beside(source)
        return cls({**known, **{key: value for key, value in texts.items() if value}}, picture)

    def check(self, target: Path, overwrite: bool) -> None:
        """Refuses, before anything is written, to put the card over files that are not its own.

        Raises:
            PairError: The NAME.json there is no card, or a picture of that name exists already.
        """
        if self.texts:
            _existing(target.with_suffix(".json"))
        file = target.with_suffix(".png")
        if self.picture is not None and file.exists() and not (overwrite or file.samefile(self.picture)):
            raise PairError(f"{file}: exists already; pass --overwrite, or --no-card to write the LoRA alone")

    def embed(self, metadata: dict[str, str]) -> None:
        """Puts a small cover into the file's own metadata (``ssmd_cover_images``)."""
        if self.picture is not None:
            data = base64.b64encode(_png(self.picture, COVER_SIZE)).decode()
            metadata["ssmd_cover_images"] = json.dumps([data])

    def write(self, target: Path) -> list[Path]:
        """NAME.json and NAME.png beside the LoRA; texts that a NAME.json has already and the card has not are kept."""
        written = []
        if self.texts:
            file = target.with_suffix(".json")
            write_text(file, json.dumps({**_existing(file), **self.texts}, indent=4, ensure_ascii=False))
            written.append(file)
        file = target.with_suffix(".png")
        if self.picture is not None and not (file.exists() and file.samefile(self.picture)):
            data = _png(self.picture, None)
            with atomic_file(file) as temporary:
                temporary.write_bytes(data)
            written.append(file)
        return written


def _texts_beside(source: Path) -> dict[str, object]:
    """The texts of the card beside the input; nothing if there is none."""
    file = source.with_name(stem_of(source) + ".json")
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig")) if file.is_file() else {}
    except (ValueError, RecursionError):
        values = {}  # whatever it is, it is no card
    return _harmless(values) if isinstance(values, dict) else {}


def _harmless(values: Mapping[str, object]) -> dict[str, object]:
    """The card's texts and numbers as what they are. A1111 and Forge put the weight into a script as it stands, and the
    description into their page as HTML where a setting says so; they quote all else."""
    kept: dict[str, object] = {}
    for key in TEXTS:
        value = values.get(key)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER
        if value and (is_number if key in NUMBERS else isinstance(value, str)):
            kept[key] = value
    description = kept.get("description")
    if isinstance(description, str) and ACTIVE_HTML.search(description):
        kept["description"] = html.escape(description, quote=False)
    return kept


def _existing(file: Path) -> dict[str, object]:
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as cause:
        raise PairError(f"{file}: is no JSON, so it was left as it is; remove it or pass --no-card") from cause
    if not isinstance(values, dict):
        raise PairError(f"{file}: is no card of a LoRA, so it was left as it is; remove it or pass --no-card")
    return values


def _beside(source: Path) -> Path | None:
    candidates = (source.with_name(stem_of(source) + ending) for ending in PICTURES)
    return next((path for path in candidates if path.is_file()), None)


def _png(path: Path, size: int | None) -> bytes:
    """The picture as PNG; at full size a PNG keeps its bytes, and so the prompt that UIs store in it."""
    try:
        with opened(path) as picture:
            image = picture.convert("RGB")
            if size is None and picture.format == "PNG":
                return path.read_bytes()
    except PairError as cause:
        raise PairError(f"{cause}; give another picture with --preview, or --no-card") from cause
    if size is not None:
        image.thumbnail((size, size))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=size is not None)
    return buffer.getvalue()
