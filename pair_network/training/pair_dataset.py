"""The dataset file that --content and --style stand for."""

from __future__ import annotations

from pathlib import Path

import toml

from pair_network.errors import PairError
from pair_network.files import write_text
from pair_network.images import CAPTION_SUFFIXES, caption_file, list_images

from .check.run import run_findings, say
from .check.sheet import write_sheet
from .options import HostOptions
from .pairs import SHARED_BRANCH
from .prepare import Pair, check_sides, copy_pairs, find_pairs, is_readable_in_place

# Of a folder that the verb pairs writes: the dataset file, and the part with the pairs that it has made.
DATASET, MADE = "dataset.toml", "made"


def write_pair_dataset(args: HostOptions) -> Path | None:
    """Writes the dataset TOML that --content/--style stand for; returns its path, or None when they are not used.

    The pairs are checked and drawn side by side first.

    Raises:
        PairError: One of the options is missing, or the images do not exist or do not fit together.
    """
    if args.content is None and args.style is None:
        if args.made_pairs:
            raise PairError("--made_pairs goes beside the real pair: name that with --content and --style")
        return None
    _check_quick_form(args)
    if args.made_pairs is not None:
        _check_made(Path(args.made_pairs))
    folder = Path(args.output_dir) / f"{args.output_name or 'last'}-dataset"
    content, style = prepared_folders(args, folder)
    attributes = {"content_dir": content.as_posix()}
    subset: dict[str, object] = {
        "image_dir": style.as_posix(),  # a backslash would start an escape in the TOML
        "num_repeats": args.dataset_repeats,
        "caption_extension": _caption_suffix(style) or CAPTION_SUFFIXES[0],
        "custom_attributes": attributes,
    }
    if args.content_prompt and args.style_prompt:
        subset["class_tokens"] = f"{args.content_prompt} {args.style_prompt}"
        attributes["content_class_tokens"] = args.content_prompt
    subsets = [subset]
    if args.made_pairs is not None:  # real and made ones are half of the samples each
        made = Path(args.made_pairs)
        number, pairs = len(list_images(made / MADE / "style")), len(list_images(style))
        subset["num_repeats"] = max(args.dataset_repeats, round(number / pairs))
        subsets.append(made_subset(made))
    path = folder / DATASET
    write_text(path, toml.dumps({"datasets": [{"subsets": subsets}]}))
    return path


def made_subset(folder: Path) -> dict[str, object]:
    """The pairs that the verb pairs makes, as a subset of a dataset.

    They share one content branch: the base model knows such pictures, and a branch each would cost memory.
    """
    content, style = (folder / MADE / side for side in ("content", "style"))
    return {
        "image_dir": style.absolute().as_posix(),
        "num_repeats": 1,
        "caption_extension": CAPTION_SUFFIXES[0],
        "custom_attributes": {"content_dir": content.absolute().as_posix(), "content_branch": SHARED_BRANCH},
    }


def prepared_folders(args: HostOptions, folder: Path) -> tuple[Path, Path]:
    """The folders of content and style images to train on; the pairs are checked and drawn in ``folder``/pairs.png.

    Single images, and files that trainers would read differently, are copied below ``folder``; others are used where
    they lie.

    Raises:
        PairError: The images do not exist, do not fit together, or are no pairs.
    """
    content, style = check_sides(args.content, args.style)
    pairs = find_pairs(content, style)
    _check(args, pairs)
    words = args.style_prompt or ""
    if style.is_file() or not is_readable_in_place(pairs, args.fit, args.background, words):
        copy_pairs(pairs, folder, args.fit, args.background, words)
        content, style = folder / "content", folder / "style"
    write_sheet(pairs, folder / "pairs.png", args.fit, args.background)
    return content, style


def _check_made(folder: Path) -> None:
    """Raises PairError where the folder is none that the verb pairs has written."""
    if not all((folder / MADE / side).is_dir() for side in ("content", "style")):
        raise PairError(
            f"--made_pairs {folder}: holds no {MADE}/content and {MADE}/style; name a folder that pairs wrote"
        )


def _check_quick_form(args: HostOptions) -> None:
    for given, other in (("content", "style"), ("style", "content")):
        if getattr(args, other) is None:
            raise PairError(f"--{given} needs --{other}: the two images of a pair go together")
    if args.dataset_config:
        raise PairError("--content/--style and --dataset_config both name the training images; use one of them")
    content, style = check_sides(args.content, args.style)
    for side, flag, example in (
        (content, "content_prompt", "a photo of a sbu dog"), (style, "style_prompt", "in digital art style")
    ):  # fmt: skip
        if not (getattr(args, flag) or "").strip() and not _caption_suffix(side):
            raise PairError(f'--content/--style need --{flag}, for example --{flag} "{example}"')
    if not args.output_dir:
        raise PairError("--output_dir is missing: name the folder for the LoRA files")


def _caption_suffix(path: Path) -> str:
    """The suffix of the caption files beside an image, or of those in a folder; "" when there are none."""
    if path.is_file():
        beside = caption_file(path)
        return beside.suffix if beside else ""
    return next((suffix for suffix in CAPTION_SUFFIXES if any(path.glob(f"*{suffix}"))), "")


def _check(args: HostOptions, pairs: list[Pair]) -> None:
    found = run_findings(
        pairs, args.content_prompt, args.style_prompt, getattr(args, "learning_rate", None),
        getattr(args, "optimizer_type", None) or "", getattr(args, "pretrained_model_name_or_path", None), args.fit,
        args.background,
    )  # fmt: skip
    say(found, strictly=not args.unchecked)
