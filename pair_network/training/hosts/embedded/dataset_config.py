"""sd-scripts' dataset TOML (DreamBooth subsets), checked key by key and merged with the command line's defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pair_network.errors import PairError, nearest
from pair_network.images import Size
from pair_network.reading import read_toml

from ...pairs import SHARED_BRANCH, check_branch
from .config import EmbeddedOptions

VAE_FACTOR = 8  # Stable Diffusion's pixels per latent

SUBSET_KEYS: dict[str, type] = {
    "class_tokens": str,
    "num_repeats": int,
    "flip_aug": bool,
    "caption_extension": str,
    "caption_separator": str,
    "shuffle_caption": bool,
    "keep_tokens": int,
    "caption_prefix": str,
    "caption_suffix": str,
    "custom_attributes": dict,
}
DATASET_KEYS: dict[str, type] = {
    "resolution": list,
    "batch_size": int,
    "enable_bucket": bool,
    "min_bucket_reso": int,
    "max_bucket_reso": int,
    "bucket_reso_steps": int,
    "bucket_no_upscale": bool,
}
OPTION_OF = {"batch_size": "train_batch_size", "num_repeats": "dataset_repeats"}
CONTENT_KEYS = ("content_dir", "content_class_tokens", "content_branch")
REFUSED = {
    "is_reg": "a regularisation image has no content image",
    "random_crop": "the images of a pair must be cut alike",
    "face_crop_aug_range": "the images of a pair must be cut alike",
    "color_aug": "it changes colours, which are part of the style",
    "conditioning_data_dir": "the content images are named by custom_attributes = { content_dir = … }",
}
WORDS = {str: "a text in quotes", int: "a whole number", bool: "true or false", dict: "a table { … }", list: "a list"}
LARGEST_COUNT = 1_000_000
LARGEST_SIDE = 16_384  # pixels


@dataclass(frozen=True)
class SubsetConfig:
    """One folder of style images, and the folder of their content images when ``content_dir`` names one.

    The caption settings hold for both images of a pair; a caption file beside an image wins over the tokens.
    """

    image_dir: Path
    class_tokens: str | None = None
    num_repeats: int = 1
    flip_aug: bool = False
    caption_extension: str = ".caption"
    caption_separator: str = ","
    shuffle_caption: bool = False
    keep_tokens: int = 0
    caption_prefix: str | None = None
    caption_suffix: str | None = None
    custom_attributes: dict[str, object] = field(default_factory=dict)

    @property
    def content_dir(self) -> Path | None:
        name = self.custom_attributes.get("content_dir")
        return Path(str(name)) if name else None

    @property
    def shares_content_branch(self) -> bool:
        """Whether the subset's pairs have one content branch in common."""
        return self.custom_attributes.get("content_branch") == SHARED_BRANCH

    @property
    def content_class_tokens(self) -> str | None:
        tokens = self.custom_attributes.get("content_class_tokens")
        return None if tokens is None else str(tokens)


@dataclass(frozen=True)
class DatasetConfig:
    """Subsets that share a training size (pixels) and a batch size (pairs per step and process)."""

    subsets: tuple[SubsetConfig, ...]
    resolution: Size
    batch_size: int = 1
    enable_bucket: bool = False
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False


def read_dataset_config(source: str | Path | Mapping[str, object], args: EmbeddedOptions) -> tuple[DatasetConfig, ...]:
    """Datasets of a TOML file, or of the same structure as a mapping; ``args`` gives what it leaves out.

    Raises:
        PairError: A key is unknown, refused, missing, of the wrong type or out of range.
    """
    if isinstance(source, Mapping):
        content, where = source, "the dataset settings"
    else:
        content, where = read_toml(Path(source)), str(source)
    for key in content:
        if key not in ("general", "datasets"):
            raise PairError(f"{where}: unknown key {key!r}{nearest(key, ('general', 'datasets'))}")
    general = _section(content.get("general", {}), {**DATASET_KEYS, **SUBSET_KEYS}, f"{where}: [general]")
    entries = content.get("datasets")
    if not isinstance(entries, Sequence) or not entries:
        raise PairError(f"{where}: no [[datasets]] in it; see docs for an example")
    defaults = _option_defaults(args)
    return tuple(
        _dataset(entry, {**defaults, **general}, f"{where}: [[datasets]] {number}")
        for number, entry in enumerate(entries, start=1)
    )


def _option_defaults(args: EmbeddedOptions) -> dict[str, object]:
    values, accepted = {}, {**DATASET_KEYS, **SUBSET_KEYS}
    for key in accepted:
        value = getattr(args, OPTION_OF.get(key, key), None)
        if value is not None:
            values[key] = _typed(_parsed_resolution(value) if key == "resolution" else value, key, f"--{key}", accepted)
    return values


def _parsed_resolution(text: str) -> list[int]:
    try:
        return [int(part) for part in str(text).split(",")]
    except ValueError as cause:
        raise PairError(f"--resolution must be SIZE or WIDTH,HEIGHT in pixels, not {text!r}") from cause


def _dataset(entry: object, inherited: Mapping[str, object], where: str) -> DatasetConfig:
    keys: dict[str, type] = {**DATASET_KEYS, **SUBSET_KEYS, "subsets": list}
    values = {**inherited, **_section(entry, keys, where)}
    subsets = values.pop("subsets", None)
    if not isinstance(subsets, list) or not subsets:
        raise PairError(f"{where}: no [[datasets.subsets]] in it; each names a folder with image_dir")
    subset_values = {key: value for key, value in values.items() if key in SUBSET_KEYS}
    build: Callable[..., DatasetConfig] = DatasetConfig
    dataset = build(
        subsets=tuple(
            _subset(subset, subset_values, f"{where}, subset {number}")
            for number, subset in enumerate(subsets, start=1)
        ),
        **{"resolution": None, **{key: value for key, value in values.items() if key in DATASET_KEYS}},
    )
    _check_sizes(dataset, where)
    return dataset


def _subset(entry: object, inherited: Mapping[str, object], where: str) -> SubsetConfig:
    values = {**inherited, **_section(entry, {**SUBSET_KEYS, "image_dir": str}, where)}
    if not values.get("image_dir"):
        raise PairError(f"{where}: image_dir is missing; name the folder of the style images")
    build: Callable[..., SubsetConfig] = SubsetConfig
    subset = build(**{**values, "image_dir": Path(str(values["image_dir"]))})
    if subset.num_repeats < 1 or subset.keep_tokens < 0:
        raise PairError(f"{where}: num_repeats must be at least 1 and keep_tokens at least 0")
    for key, value in subset.custom_attributes.items():
        if key.startswith("content") and key not in CONTENT_KEYS:
            raise PairError(f"{where}: unknown key {key!r} in custom_attributes{nearest(key, CONTENT_KEYS)}")
        if key in CONTENT_KEYS and not isinstance(value, str):
            raise PairError(f"{where}: {key} must be a text in quotes, not {value!r}")
    check_branch(subset.custom_attributes, where)
    return subset


def _section(entry: object, accepted: Mapping[str, type], where: str) -> dict[str, object]:
    if not isinstance(entry, Mapping):
        raise PairError(f"{where} must be a table of settings, not {entry!r}")
    values = {}
    for key, value in entry.items():
        if key in REFUSED:
            if value:
                raise PairError(f"{where}: {key} cannot be used for pairs: {REFUSED[key]}; remove it")
        elif key in CONTENT_KEYS:
            raise PairError(f"{where}: {key} belongs into custom_attributes = {{ {key} = {value!r} }}; write it so")
        elif key not in accepted:
            raise PairError(
                f"{where}: unknown key {key!r}{nearest(key, accepted)}; if sd-scripts has it, use --host sd-scripts"
            )
        else:
            values[key] = _typed(value, key, f"{where}: {key}", accepted)
    return values


def _typed(value: object, key: str, where: str, accepted: Mapping[str, type]) -> object:
    kind = accepted.get(key)
    if key == "resolution":
        sides = value if isinstance(value, (list, tuple)) else [value, value]
        sides = [sides[0], sides[0]] if len(sides) == 1 else sides
        if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) for side in sides):
            raise PairError(f"{where} must be a size or [width, height] in pixels, not {value!r}")
        return (sides[0], sides[1])
    if kind and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise PairError(f"{where} must be {WORDS[kind]}, not {value!r}")
    if isinstance(value, int) and abs(value) > LARGEST_COUNT:
        raise PairError(f"{where} is {value}: more than {LARGEST_COUNT:,} is no count of pictures or pixels")
    if key == "caption_extension" and isinstance(value, str):
        if not value.strip(".") or any(character in value for character in "/\\"):
            raise PairError(f"{where} is {value!r}: an extension is needed, such as .txt")
        return value if value.startswith(".") else f".{value}"
    return value


def _check_sizes(dataset: DatasetConfig, where: str) -> None:
    if dataset.resolution is None:
        raise PairError(f"{where}: resolution is missing; set it there or with --resolution, for example 512")
    if dataset.batch_size < 1:
        raise PairError(f"{where}: batch_size must be at least 1, not {dataset.batch_size}")
    width, height = dataset.resolution
    if max(width, height) > LARGEST_SIDE:
        raise PairError(f"{where}: resolution {width}x{height} is more than {LARGEST_SIDE} pixels a side")
    if min(width, height) < VAE_FACTOR or width % VAE_FACTOR or height % VAE_FACTOR:
        raise PairError(f"{where}: resolution {width}x{height} is not a multiple of {VAE_FACTOR} pixels")
    if not dataset.enable_bucket:
        return
    step, low, high = dataset.bucket_reso_steps, dataset.min_bucket_reso, dataset.max_bucket_reso
    if step < VAE_FACTOR or step % VAE_FACTOR:
        raise PairError(f"{where}: bucket_reso_steps must be a multiple of {VAE_FACTOR}, not {step}")
    if low < step or low % step or high % step:
        raise PairError(f"{where}: min_bucket_reso {low} and max_bucket_reso {high} must be multiples of {step}")
    if not dataset.bucket_no_upscale and not low <= min(width, height) <= max(width, height) <= high:
        raise PairError(
            f"{where}: resolution {width}x{height} is not between min_bucket_reso {low} and max_bucket_reso {high}"
        )
