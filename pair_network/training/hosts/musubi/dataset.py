"""The dataset of a run on musubi-tuner: what the user names, as the plain TOML that its caching and training read.

Its format knows no pairs. A style dataset names the folder of its content images with ``content_directory`` (and, if
their caches are not to lie among them, ``content_cache_directory``); the plain file holds the style datasets, then
their content datasets.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, cast

import toml

from pair_network.errors import PairError, printable
from pair_network.families import Musubi
from pair_network.files import write_text
from pair_network.images import caption_file, list_images
from pair_network.reading import read_json_table, read_text, read_toml

from ...options import NOT_ON_MUSUBI
from ...pair_dataset import prepared_folders
from ...pairs import check_no_orphans, check_pair, find_content_image
from ..kohya_checks import check_resolution

logger = logging.getLogger(__name__)

CACHES = {"content": "cache-content", "style": "cache-style"}  # of --content and --style, in the run's own folder
# Options that say of --content/--style what a dataset file says of itself -> what they are when they are not given.
OF_QUICK_FORM = {"resolution": None, "train_batch_size": 1, "dataset_repeats": 1}
OWN_KEYS = ("content_directory", "content_cache_directory")


class Dataset(TypedDict, total=False):
    """A [[datasets]] as far as it is read here; other keys pass as they are."""

    image_directory: str
    image_jsonl_file: str
    cache_directory: str
    content_directory: str
    content_jsonl_file: str
    content_cache_directory: str


def prepare_dataset(args: argparse.Namespace) -> list[int]:
    """Writes the plain TOML into the output folder and names it in the options.

    Returns:
        For every style dataset the place of its content dataset in the file.

    Raises:
        PairError: A mistake in the dataset, or images that are no pairs.
    """
    if args.made_pairs:
        raise PairError(f"--made_pairs: {NOT_ON_MUSUBI}")
    folder = Path(args.output_dir) / f"{args.output_name}-dataset"
    config = _quick_form(args, folder) if args.content or args.style else _read(args)
    styles = config.get("datasets")
    if not isinstance(styles, list) or not styles or not all(isinstance(entry, dict) for entry in styles):
        raise PairError(f"{args.dataset_config}: no [[datasets]] in it; one of them names the style images of a style")
    contents = [_content_dataset(entry, args.dataset_config) for entry in styles]
    plain = [{key: value for key, value in entry.items() if key not in OWN_KEYS} for entry in styles]
    path = folder / "musubi.toml"
    write_text(path, toml.dumps({**config, "datasets": [*plain, *contents]}))
    args.dataset_config = str(path)
    return [len(styles) + place for place in range(len(styles))]


def _read(args: argparse.Namespace) -> dict[str, object]:
    """The dataset file as it stands; says which options of --content/--style it takes the place of."""
    if not args.dataset_config:
        raise PairError("there is no dataset: name a dataset TOML with --dataset_config, or use --content and --style")
    path = Path(args.dataset_config)
    unused = [f"--{name}" for name, default in OF_QUICK_FORM.items() if getattr(args, name) != default]
    if unused:
        logger.warning("%s: not used here, the dataset file says it: %s", path, ", ".join(unused))
    return read_json_table(path, "--dataset_config") if path.suffix == ".json" else read_toml(path)


def _content_dataset(style: Dataset, where: str) -> dict[str, object]:
    """The dataset of a style dataset's content images: the same settings over other images."""
    if "video_directory" in style or "video_jsonl_file" in style:
        raise PairError(f"{where}: pairs are images; remove the video dataset")
    if "control_directory" in style:
        raise PairError(
            f"{where}: control_directory belongs to edit models; name the content images with content_directory"
        )
    content: dict[str, object] = {key: value for key, value in style.items() if key not in OWN_KEYS}
    if "content_jsonl_file" in content:  # of the quick form
        content["image_jsonl_file"] = content.pop("content_jsonl_file")
        style.pop("content_jsonl_file")
    elif "content_directory" in style and "image_directory" in style:
        check_images(Path(style["image_directory"]), Path(style["content_directory"]))
        content["image_directory"] = style["content_directory"]
    else:
        raise PairError(
            f'{where}: every [[datasets]] needs image_directory, the style images, and content_directory = "…", the '
            "folder of their content images"
        )
    content.pop("cache_directory", None)
    if style.get("content_cache_directory"):
        content["cache_directory"] = style["content_cache_directory"]
    return content


def check_images(style: Path, content: Path) -> None:
    """Raises PairError unless every image of either folder has its other half in the other, of one shape."""
    images = list_images(style)
    check_no_orphans(images, content)
    for image in images:
        check_pair(find_content_image(image, content), image)


def _quick_form(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """--content and --style as a dataset of two lists of images and captions."""
    for option in ("content", "style"):
        path = getattr(args, option)
        if path is None:
            raise PairError("--content and --style go together: give both")
        if not Path(path).exists():
            raise PairError(f"--{option} {path}: no such file or folder")
    if args.dataset_config:
        raise PairError("--content/--style and --dataset_config both name the training images; use one of them")
    resolution = check_resolution(args.resolution)
    content, style = prepared_folders(args, folder)
    pairs = [(find_content_image(image, content), image) for image in list_images(style)]
    sides = {}
    for side, images in (("content", [pair[0] for pair in pairs]), ("style", [pair[1] for pair in pairs])):
        sides[side] = folder / f"{side}.jsonl"
        lines = [
            json.dumps({"image_path": image.resolve().as_posix(), "caption": _caption(image, args, side)})
            for image in images
        ]
        write_text(sides[side], "\n".join(lines) + "\n")
    _forget_caches_of_other_images(pairs, list(sides.values()), folder)
    return {
        "datasets": [
            {
                "resolution": resolution if len(resolution) == 2 else resolution * 2,
                "batch_size": args.train_batch_size,
                "num_repeats": args.dataset_repeats,
                "enable_bucket": True,
                "image_jsonl_file": sides["style"].as_posix(),
                "cache_directory": (folder / CACHES["style"]).as_posix(),
                "content_jsonl_file": sides["content"].as_posix(),
                "content_cache_directory": (folder / CACHES["content"]).as_posix(),
            }
        ]
    }


def _forget_caches_of_other_images(pairs: Sequence[tuple[Path, Path]], lists: Sequence[Path], folder: Path) -> None:
    """musubi-tuner's caches are named after the image alone: other images or captions would never be looked at."""
    digest = hashlib.sha256()
    for path in (*lists, *(image for pair in pairs for image in pair)):
        digest.update(path.read_bytes())
    stamp = folder / "images.sha256"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != digest.hexdigest():
        for cache in CACHES.values():
            shutil.rmtree(folder / cache, ignore_errors=True)
        stamp.write_text(digest.hexdigest(), encoding="utf-8")


def _caption(image: Path, args: argparse.Namespace, side: str) -> str:
    """The caption file beside an image, or the prompt of its side."""
    file = caption_file(image)
    if file is not None:
        return read_text(file).strip()
    for option, example in (("content_prompt", "a photo of a sbu dog"), ("style_prompt", "in digital art style")):
        if not getattr(args, option) and (side == "style" or option == "content_prompt"):
            raise PairError(f'{image}: no caption file, so --{option} is needed, for example --{option} "{example}"')
    return args.content_prompt if side == "content" else f"{args.content_prompt} {args.style_prompt}"


def check_caches(args: argparse.Namespace, architecture: str, family: Musubi, checkout: str) -> None:
    """Raises PairError, with the two commands to run, when an image has no cached latents or text yet."""
    written = cast("list[Dataset]", read_toml(Path(args.dataset_config))["datasets"])  # by prepare_dataset
    missing = [name for entry in written for name in _uncached(entry, architecture)]
    if missing:
        commands = " and ".join(
            f"python {script} --dataset_config {Path(args.dataset_config).resolve()} {_options(args, names)}".rstrip()
            for script, names in zip(family.cache_scripts, family.caches, strict=True)
        )
        raise PairError(
            f"{len(missing)} images are not cached for {architecture}, the first is {missing[0]}; musubi-tuner trains "
            f"from caches, so run once, in {checkout}: {commands}"
        )


def _options(args: argparse.Namespace, names: Sequence[str]) -> str:
    return " ".join(f"--{name} {getattr(args, name, None) or name.upper()}" for name in names)


def _listed(file: Path) -> list[Path]:
    """The images that a list in JSON Lines names."""
    try:
        return [Path(json.loads(line)["image_path"]) for line in read_text(file).splitlines() if line.strip()]
    except PairError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        words = "every line must be a JSON object with image_path and caption"
        raise PairError(f"{printable(file)}: {words} ({printable(cause, 80)})") from cause


def _uncached(entry: Dataset, architecture: str) -> list[str]:
    """Images of a dataset without one of their two cache files, which bear their names."""
    if "image_jsonl_file" in entry:
        images = _listed(Path(entry["image_jsonl_file"]))
    else:
        images = list_images(entry["image_directory"])
    folder = Path(entry.get("cache_directory") or entry["image_directory"])
    latents = {path.name.rsplit("_", 2)[0] for path in folder.glob(f"*_{architecture}.safetensors")}
    texts = {path.name.removesuffix(f"_{architecture}_te.safetensors") for path in folder.glob("*_te.safetensors")}
    return [str(image) for image in images if image.stem not in latents & texts]
