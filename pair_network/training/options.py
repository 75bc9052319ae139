"""The plug-in's own options, the same on every host."""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import toml

from pair_network.errors import PairError
from pair_network.files import atomic_file
from pair_network.options import add_options, option

from .objective import SCHEDULES
from .pairs import check_pair

CAPTION_SUFFIXES = (".txt", ".caption")
pair_training = partial(option, group="pair training")


@dataclass(frozen=True)
class PairOptions:
    """The plug-in's own options, the same on every host."""

    content: str | None = pair_training(
        None, "content image, or a folder of them (needs --style)", metavar="IMAGE_OR_DIR"
    )
    style: str | None = pair_training(
        None, "the same image in the style, or a folder of them (needs --content)", metavar="IMAGE_OR_DIR"
    )
    content_prompt: str | None = pair_training(
        None, 'caption of the content images, e.g. "a photo of a sbu dog"; caption files win over it'
    )
    style_prompt: str | None = pair_training(
        None, 'words added to the content caption for the style, e.g. "in digital art style"; also the trigger words'
    )
    style_start_step: int | None = pair_training(
        None, "number of content-only steps at the start", int, default="a third of the run"
    )
    pair_schedule: str = pair_training(
        "joint",
        "after the start: both losses in every step, or style and content steps in turn (about half the memory)",
        choices=SCHEDULES,
    )
    sample_style_scale: float = pair_training(
        3.0, "style guidance scale of the previews (the paper's lambda_style)", float
    )
    sample_style_start: float = pair_training(
        0.2, "share of the previews' sampling steps that run without style (0 to 1; the paper: 10 of 50)", float
    )
    sample_cfg_end: float = pair_training(
        1.0,
        "share of the previews' sampling steps after which style guidance runs without CFG (0 to 1; 1: never)",
        float,
    )


class HostOptions(Protocol):
    """What pair training reads of the options of any host."""

    @property
    def content(self) -> str | None: ...
    @property
    def style(self) -> str | None: ...
    @property
    def content_prompt(self) -> str | None: ...
    @property
    def style_prompt(self) -> str | None: ...
    @property
    def output_dir(self) -> str: ...
    @property
    def output_name(self) -> str | None: ...
    @property
    def dataset_config(self) -> object: ...
    @property
    def dataset_repeats(self) -> int: ...
    @property
    def network_module(self) -> str: ...
    @property
    def network_args(self) -> Sequence[str] | None: ...
    @property
    def network_weights(self) -> str | None: ...
    @property
    def dim_from_weights(self) -> bool: ...
    @property
    def style_start_step(self) -> int | None: ...
    @property
    def pair_schedule(self) -> str: ...
    @property
    def max_train_steps(self) -> int: ...
    @property
    def sample_style_scale(self) -> float: ...


def add_pair_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of pair training to a host's parser."""
    add_options(parser, PairOptions)


def check_preview_options(args: HostOptions) -> None:
    """Raises PairError where an option of the previews has no meaning, before anything is loaded."""
    for name in ("sample_style_start", "sample_cfg_end"):
        if not 0 <= getattr(args, name) <= 1:
            raise PairError(f"--{name} {getattr(args, name)}: a share of the steps, from 0 to 1")
    if not math.isfinite(args.sample_style_scale):
        raise PairError(f"--sample_style_scale {args.sample_style_scale}: a number is needed")


def write_pair_dataset(args: HostOptions) -> Path | None:
    """Writes the dataset TOML that --content/--style stand for; returns its path, or None when they are not used.

    Single images are copied beside it under one name, because datasets are folders whose pairs match by file name.

    Raises:
        PairError: One of the options is missing, or the images do not exist or do not fit together.
    """
    if args.content is None and args.style is None:
        return None
    _check_quick_form(args)
    content, style = Path(args.content or ""), Path(args.style or "")
    folder = Path(args.output_dir) / f"{args.output_name or 'last'}-dataset"
    if style.is_file():
        check_pair(content, style)
        content, style = (copied_alone(path, folder / side) for path, side in ((content, "content"), (style, "style")))
    subset: dict[str, Any] = {
        "image_dir": style.as_posix(),  # a backslash would start an escape in the TOML
        "num_repeats": args.dataset_repeats,
        "caption_extension": _caption_suffix(style) or CAPTION_SUFFIXES[0],
        "custom_attributes": {"content_dir": content.as_posix()},
    }
    if args.content_prompt and args.style_prompt:
        subset["class_tokens"] = f"{args.content_prompt} {args.style_prompt}"
        subset["custom_attributes"]["content_class_tokens"] = args.content_prompt
    path = folder / "dataset.toml"
    with atomic_file(path) as temporary:
        temporary.write_text(toml.dumps({"datasets": [{"subsets": [subset]}]}), encoding="utf-8")
    return path


def _check_quick_form(args: HostOptions) -> None:
    for given, other in (("content", "style"), ("style", "content")):
        if getattr(args, other) is None:
            raise PairError(f"--{given} needs --{other}: the two images of a pair go together")
    if args.dataset_config:
        raise PairError("--content/--style and --dataset_config both name the training images; use one of them")
    images = {"--content": Path(args.content or ""), "--style": Path(args.style or "")}
    for flag, path in images.items():
        if not path.exists():
            raise PairError(f"{flag} {path}: no such file or folder")
    if len({path.is_dir() for path in images.values()}) > 1:
        raise PairError("--content and --style must both be images or both be folders")
    has_captions = all(_caption_suffix(path) for path in images.values())
    for flag, example in (("content_prompt", "a photo of a sbu dog"), ("style_prompt", "in digital art style")):
        if not getattr(args, flag) and not has_captions:
            raise PairError(f'--content/--style need --{flag}, for example --{flag} "{example}"')
    if not args.output_dir:
        raise PairError("--output_dir is missing: name the folder for the LoRA files")


def _caption_suffix(path: Path) -> str:
    """The suffix of the caption files beside an image, or of those in a folder; "" when there are none."""
    if path.is_file():
        return next((suffix for suffix in CAPTION_SUFFIXES if path.with_suffix(suffix).is_file()), "")
    return next((suffix for suffix in CAPTION_SUFFIXES if any(path.glob(f"*{suffix}"))), "")


def copied_alone(image: Path, folder: Path) -> Path:
    """The folder, holding a copy of the image named pair.* and its caption file, and nothing else of that name.

    The processes of a distributed run all do this at once: every file is replaced whole, none is ever half there.
    """
    files = (image, *(image.with_suffix(suffix) for suffix in CAPTION_SUFFIXES))
    copies = {folder / f"pair{source.suffix.lower()}": source for source in files if source.is_file()}
    for copy, source in copies.items():
        with atomic_file(copy) as temporary:
            shutil.copyfile(source, temporary)
    # Latents and text that kohya cached beside the images of an earlier run know neither their image nor their caption.
    for old in (*folder.glob("pair.*"), *folder.glob("pair*.npz")):
        if old not in copies:
            old.unlink(missing_ok=True)
    return folder


def style_words(style_caption: str, content_caption: str) -> str:
    """What the style caption adds to the content caption, or "" when it is not an addition."""
    if style_caption.startswith(content_caption):
        return style_caption.removeprefix(content_caption).strip(" ,")
    return ""
