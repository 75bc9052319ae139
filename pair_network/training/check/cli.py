"""``python -m pair_network check``: what a training would say about its pictures, without training."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from pair_network.errors import PairError
from pair_network.images import caption_file
from pair_network.reading import read_text
from pair_network.training.one_command import spelled
from pair_network.training.options import FITS
from pair_network.training.prepare import find_pairs

from .diagnose import diagnosis
from .run import run_findings
from .sheet import write_sheet


def run(argv: Sequence[str]) -> int:
    """Prints the findings and writes the sheet; returns 1 when there is an error among them, 0 otherwise.

    Raises:
        PairError: An image cannot be read, or two do not fit together.
    """
    args = _parser().parse_args(spelled(argv))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for path in args.files:
        for sentence in diagnosis(path):
            print(sentence)
    if args.content is None and args.style is None and args.files:
        return 0
    if args.content is None or args.style is None:
        raise PairError("check needs a pair, --content and --style, or files to look at")
    for option, path in (("--content", args.content), ("--style", args.style)):
        if not path.exists():
            raise PairError(f"{option} {path}: no such file or folder")
    if args.content.is_dir() != args.style.is_dir():
        raise PairError("--content and --style must both be images or both be folders")
    pairs = find_pairs(args.content, args.style)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pair-network check", description=__doc__, allow_abbrev=False)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="models, LoRAs, .toml files, checkouts")
    parser.add_argument("--content", type=Path, metavar="IMAGE_OR_DIR", help="the photo, or a folder")
    parser.add_argument("--style", type=Path, metavar="IMAGE_OR_DIR", help="the same, painted")
    parser.add_argument("--content_prompt", help="what the photo shows")
    parser.add_argument("--style_prompt", help="words of the style")
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--optimizer_type", default="")
    parser.add_argument("--pretrained_model_name_or_path", help="the model that is to be trained on")
    parser.add_argument("--fit", choices=FITS, default="error", help="what to do with two images of different shapes")
    parser.add_argument("--background", default="white", help="colour under transparent parts")
    parser.add_argument("--sheet", type=Path, default=Path("pairs.png"), help="picture of the pairs side by side")
    return parser
