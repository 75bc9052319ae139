"""The style images of a dataset with their content images: matched by base name, checked before models load."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from pair_network.errors import PairError
from pair_network.images import Size, caption_file, image_size, list_images
from pair_network.reading import read_text

from ...pairs import check_no_orphans, check_pair, find_content_image
from .buckets import Frame, bucket_sizes, cover, nearest_bucket, shrunk_bucket
from .dataset_config import DatasetConfig, SubsetConfig

logger = logging.getLogger(__name__)

MOST_CUT_OFF = 16  # times the training image's pixels


class Latents(Protocol):
    """Latents that lie on disk."""

    def load(self) -> Tensor: ...


@dataclass
class ImageRecord:
    """One image, its caption as written, and its latents (channels, h, w) by flip once they are cached."""

    path: Path
    size: Size
    caption: str
    latents: dict[bool, Tensor | Latents] = field(default_factory=dict)

    def read_latents(self, flipped: bool) -> Tensor:
        """The cached latents, from memory or from the disk."""
        cached = self.latents[flipped]
        return cached if isinstance(cached, Tensor) else cached.load()


@dataclass
class Sample:
    """A style image, its content image when it has one, and the frame both are cut to.

    Attributes:
        pair_index: Number of the pair's content branch in the whole dataset: first come, first numbered, images in
            order of name; pairs of a subset may share one.
    """

    style: ImageRecord
    content: ImageRecord | None
    subset: SubsetConfig
    frame: Frame
    pair_index: int

    @property
    def images(self) -> list[ImageRecord]:
        return [self.style] if self.content is None else [self.style, self.content]


def find_samples(dataset: DatasetConfig, subset: SubsetConfig, indices: dict[tuple[str, str], int]) -> list[Sample]:
    """All samples of a subset, in the order of the style images' names.

    Args:
        indices: Pair numbers given so far, by the two files; the same pair in another subset keeps its number.

    Raises:
        PairError: An image is unreadable, lacks a caption or a content image, or the two differ in shape.
    """
    samples = []
    paths = list_images(subset.image_dir)
    if subset.content_dir is not None:
        check_no_orphans(paths, subset.content_dir)
    for path in paths:
        content_path = None if subset.content_dir is None else find_content_image(path, subset.content_dir)
        caption = read_caption(path, subset, subset.class_tokens, "class_tokens")
        content = None
        if content_path is None:
            style = ImageRecord(path, image_size(path), caption)
        else:
            content_size, style_size = check_pair(content_path, path)
            style = ImageRecord(path, style_size, caption)
            content = _content_record(content_path, content_size, subset)
        key = (str(path.resolve()), str(content_path.resolve()) if content_path else "")
        if subset.shares_content_branch:
            key = (str(subset.image_dir.resolve()), str(subset.content_dir))
        index = indices.setdefault(key, len(indices))
        samples.append(Sample(style, content, subset, choose_frame(style, dataset), index))
    return samples


def choose_frame(image: ImageRecord, dataset: DatasetConfig) -> Frame:
    """Training size and cut of an image under the dataset's bucket settings."""
    if not dataset.enable_bucket:
        return _checked(image, cover(image.size, dataset.resolution))
    step = dataset.bucket_reso_steps
    if dataset.bucket_no_upscale:
        frame = shrunk_bucket(image.size, dataset.resolution, step)
        if min(frame.bucket) < step:
            raise PairError(f"{image.path}: {image.size[0]}x{image.size[1]} pixels are too few for bucket_no_upscale")
        return frame
    sizes = bucket_sizes(dataset.resolution, dataset.min_bucket_reso, dataset.max_bucket_reso, step)
    return _checked(image, nearest_bucket(image.size, sizes))


def _checked(image: ImageRecord, frame: Frame) -> Frame:
    """The frame, unless most of the image would be cut off, after it was enlarged to many times the memory."""
    width, height = frame.resized
    if width * height > MOST_CUT_OFF * frame.bucket[0] * frame.bucket[1]:
        raise PairError(
            f"{image.path}: {image.size[0]}x{image.size[1]} pixels are too long and narrow for a training size of "
            f"{frame.bucket[0]}x{frame.bucket[1]}; crop the pictures of the pair"
        )
    return frame


def read_caption(path: Path, subset: SubsetConfig, tokens: str | None, setting: str) -> str:
    """The first line of the caption file beside the image, else the tokens.

    Raises:
        PairError: There is neither, or the caption file is empty or not UTF-8 text.
    """
    file = caption_file(path, subset.caption_extension)
    if file is not None and file.suffix.lower() != subset.caption_extension.lower():
        logger.warning("%s is read as a caption; caption_extension = %r says so", file, file.suffix)
    if file is None:
        if tokens is None:
            wanted = path.with_suffix(subset.caption_extension).name
            raise PairError(f"{path}: no caption: write one to {wanted} beside it, or set {setting}")
        return tokens
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not lines:
        raise PairError(f"{file}: an empty caption file; write the caption into it or remove it")
    return lines[0]


def _content_record(path: Path, size: Size, subset: SubsetConfig) -> ImageRecord:
    caption = read_caption(path, subset, subset.content_class_tokens, "content_class_tokens in custom_attributes")
    return ImageRecord(path, size, caption)
