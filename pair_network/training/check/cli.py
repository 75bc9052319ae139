"""``python -m pair_network check``: what a training would say about its pictures, without training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pair_network.errors import PairError
from pair_network.images import caption_file
from pair_network.options import one_line, option, read
from pair_network.reading import read_text
from pair_network.training.one_command import spelled
from pair_network.training.options import FITS
from pair_network.training.prepare import check_sides, find_pairs

from .run import run_findings
from .sheet import write_sheet


@dataclass(frozen=True)
class CheckOptions:
    """The options of the verb; most are those of a training under the same names."""

    files: Sequence[Path] = option(
        (), "models, LoRAs, .toml files, checkouts", Path, is_positional=True, nargs="*", metavar="FILE"
    )
    content: str | None = option(None, "the photo, or a folder", metavar="IMAGE_OR_DIR")
    style: str | None = option(None, "the same, painted", metavar="IMAGE_OR_DIR")
    content_prompt: str | None = option(None, "what the photo shows", one_line)
    style_prompt: str | None = option(None, "words of the style", one_line)
    learning_rate: float | None = option(None, "that of the training, which is judged too", float)
    optimizer_type: str = option("", "that of the training")
    pretrained_model_name_or_path: str | None = option(None, "the model that is to be trained on")
    fit: str = option("error", "what to do with two images of different shapes", choices=FITS)
    background: str = option("white", "colour under transparent parts")
    sheet: Path = option(Path("pairs.png"), "picture of the pairs side by side", Path)


def run(argv: Sequence[str]) -> int:
    """Prints the findings and writes the sheet; returns 1 when there is an error among them, 0 otherwise.

    Raises:
        PairError: An image cannot be read, or two do not fit together.
    """
    args = read("pair-network check", __doc__, CheckOptions, spelled(argv))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.files:
        from .diagnose import diagnosis  # reads configurations as the embedded host does, which takes torch

        for path in args.files:
            for sentence in diagnosis(path):
                print(sentence)
    if args.content is None and args.style is None and args.files:
        return 0
    if args.content is None or args.style is None:
        raise PairError("check needs a pair, --content and --style, or files to look at")
    pairs = find_pairs(*check_sides(args.content, args.style))
    for pair in pairs:
        print(f"{pair.name}: {pair.content} + {pair.style}")
        print(f"  {_caption(pair.content, args.content_prompt)!r}")
        print(f"  {_caption(pair.style, ' '.join(filter(None, (args.content_prompt, args.style_prompt))))!r}")
    findings = run_findings(
        pairs, args.content_prompt, args.style_prompt, args.learning_rate, args.optimizer_type,
        args.pretrained_model_name_or_path, args.fit, args.background,
    )  # fmt: skip
    for finding in findings:
        print(finding)
    write_sheet(pairs, args.sheet, args.fit, args.background)
    print(f"{len(pairs)} pair(s); to look at: {args.sheet}")
    return int(any(finding.level == "error" for finding in findings))


def _caption(image: Path, prompt: str | None) -> str:
    file = caption_file(image)
    return read_text(file).strip() if file else prompt or "(no caption)"
