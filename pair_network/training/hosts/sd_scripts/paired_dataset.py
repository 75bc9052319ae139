"""Aligned pairs through sd-scripts' own dataset and caching code.

The style side is an ordinary DreamBooth subset whose ``custom_attributes`` name the folder of its content images. Each
dataset object gets a subclass that runs kohya's own code a second time with the content images' records in place of
its own: for the latents, for cached text-encoder outputs, and for every batch, from the same state of the random
stream.
"""

from __future__ import annotations

import copy
import random
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

from library.strategy_base import LatentsCachingStrategy  # of the checkout
from library.train_util import DreamBoothDataset

from pair_network.errors import PairError, nearest
from pair_network.images import Size, list_images
from pair_network.reading import read_text

from ...batch import CONTENT, PAIR_INDICES
from ...pairs import SHARED_BRANCH, check_branch, check_no_orphans, check_pair, find_content_image
from ...replaced import replaced
from .protocols import Attributes, Dataset, DatasetGroup, ImageInfo, LatentsStrategy, Subset

ATTRIBUTES = ("content_dir", "content_class_tokens", "content_branch")
_PER_IMAGE_CACHES = (
    "latents", "latents_flipped", "latents_npz", "latents_original_size", "latents_crop_ltrb", "image",
    "text_encoder_outputs", "text_encoder_outputs_npz", "alpha_mask",
)  # fmt: skip


class PairedDataset(DreamBoothDataset):
    """A DreamBooth dataset whose batches carry their content images. Made by changing an instance's class."""

    image_data: dict[str, ImageInfo]
    content_data: dict[str, ImageInfo]
    pair_numbers: dict[str, int]
    image_in_two_sizes: str | None

    def _content_in_place(self) -> AbstractContextManager[None]:
        return replaced(self, {"image_data": self.content_data})

    def new_cache_latents(self, model: object, accelerator: object) -> None:
        if self.image_in_two_sizes and _one_size_per_cache_file(LatentsCachingStrategy.get_strategy()):
            raise PairError(
                f"{self.image_in_two_sizes} is trained in two sizes, and this sd-scripts keeps one size on disk for "
                "each image of this model family: leave --cache_latents_to_disk out (--cache_latents works), or use "
                "sd-scripts 0.11 or later"
            )
        super().new_cache_latents(model, accelerator)
        with self._content_in_place():
            super().new_cache_latents(model, accelerator)

    def new_cache_text_encoder_outputs(self, models: list[object], accelerator: object) -> None:
        super().new_cache_text_encoder_outputs(models, accelerator)
        with self._content_in_place():
            super().new_cache_text_encoder_outputs(models, accelerator)

    def process_caption(self, subset: Subset, caption: str) -> str:
        """kohya's caption processing on a stream of its own.

        Shuffling and dropout draw as often as a caption has tags; one draw from the shared stream, whatever the
        caption, keeps the flips that follow it equal for both images of a pair.
        """
        seed = random.random()
        state = random.getstate()
        random.seed(seed)
        try:
            return super().process_caption(subset, caption)
        finally:
            random.setstate(state)

    def __getitem__(self, index: int) -> dict[str, object]:
        before = random.getstate()
        example = super().__getitem__(index)
        after = random.getstate()
        random.setstate(before)
        with self._content_in_place():
            example[CONTENT] = super().__getitem__(index)
        random.setstate(after)
        if example["flippeds"] != example[CONTENT]["flippeds"]:
            raise RuntimeError(
                "the images of a pair were flipped differently: this sd-scripts draws flips in a new way"
            )
        place = self.buckets_indices[index]
        first = place.batch_index * place.bucket_batch_size
        keys = self.bucket_manager.buckets[place.bucket_index][first : first + place.bucket_batch_size]
        example[PAIR_INDICES] = [self.pair_numbers.get(self.image_data[key].absolute_path, -1) for key in keys]
        return example


def attach_content(train_group: DatasetGroup, val_group: DatasetGroup | None = None) -> list[tuple[str, str]]:
    """Makes the groups' datasets carry content images; returns (content caption, style caption) of every training pair.

    Pairs are numbered by the style image's path, so that a run on the same files numbers them alike. A validation
    pair that is not trained on has no content branch and gets the number -1.

    Raises:
        PairError: A subset without content_dir or with an option that would break the alignment, a content image that
            is missing, or images that do not fit together.
    """
    datasets = [dataset for group in (train_group, val_group) if group is not None for dataset in group.datasets]
    for dataset in datasets:
        _check_dataset(dataset)
    _check_orphans([subset for dataset in datasets for subset in dataset.subsets])
    infos: dict[str, tuple[str, str]] = {}
    branches: dict[str, str] = {}
    for dataset in train_group.datasets:
        infos.update(_attach(dataset))
        branches.update(_branches(dataset))
    of_branch = {branches[path]: infos[path] for path in sorted(infos)}
    places = {branch: number for number, branch in enumerate(sorted(of_branch))}
    numbers = {path: places[branch] for path, branch in branches.items()}
    for dataset in val_group.datasets if val_group is not None else []:
        _attach(dataset)
    twice = _image_in_two_sizes(datasets)
    for dataset in datasets:
        dataset.pair_numbers = numbers
        dataset.image_in_two_sizes = twice
    return [of_branch[branch] for branch in sorted(of_branch)]


def _image_in_two_sizes(datasets: list[Dataset]) -> str | None:
    """The first image that the datasets' buckets hold in more than one size."""
    sizes: dict[str, Size] = {}
    for dataset in datasets:
        for info in dataset.image_data.values():
            if sizes.setdefault(info.absolute_path, info.bucket_reso) != info.bucket_reso:
                return str(info.absolute_path)
    return None


def _one_size_per_cache_file(strategy: LatentsStrategy) -> bool:
    """Whether latents go to disk under one name for all sizes: families that keep several read them by size."""
    by_size = type(strategy).load_latents_from_disk is not LatentsCachingStrategy.load_latents_from_disk
    return bool(strategy.cache_to_disk) and not by_size


def _attach(dataset: Dataset) -> dict[str, tuple[str, str]]:
    """Captions of both sides by the style image's path."""
    dataset.content_data = {
        key: _content_record(info, dataset.image_to_subset[key]) for key, info in dataset.image_data.items()
    }
    dataset.__class__ = PairedDataset
    return {
        info.absolute_path: (dataset.content_data[key].caption, info.caption)
        for key, info in dataset.image_data.items()
    }


def _branches(dataset: Dataset) -> dict[str, str]:
    """What a content branch is numbered by: the style image's path, or its folder where a subset shares one."""
    shared = {
        key: subset.image_dir
        for key, subset in dataset.image_to_subset.items()
        if subset.custom_attributes.get("content_branch") == SHARED_BRANCH
    }
    return {info.absolute_path: shared.get(key, info.absolute_path) for key, info in dataset.image_data.items()}


def _check_dataset(dataset: Dataset) -> None:
    if type(dataset) is not DreamBoothDataset:
        raise PairError(f"pairs need DreamBooth subsets (image_dir), not a {type(dataset).__name__}")
    for subset in dataset.subsets:
        _check_subset(subset)
        # An inline table of the toml package cannot be pickled: loader workers would wait for it forever.
        subset.custom_attributes = cast(Attributes, _plain(subset.custom_attributes))


def _plain(value: object) -> object:
    return {key: _plain(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def _check_orphans(subsets: list[Subset]) -> None:
    """Every content image has a style image in one of the subsets that name its folder."""
    style_images: dict[str, list[Path]] = {}
    for subset in subsets:
        images = style_images.setdefault(subset.custom_attributes["content_dir"], [])
        images += list_images(subset.image_dir)
    for content_folder, images in style_images.items():
        check_no_orphans(images, content_folder)


def _check_subset(subset: Subset) -> None:
    where = f"subset image_dir = {subset.image_dir!r}"
    if subset.is_reg:
        raise PairError(f"{where}: regularisation images have no content image; remove is_reg")
    if "content_dir" not in (subset.custom_attributes or {}):
        raise PairError(
            f'{where}: name the folder of the content images: custom_attributes = {{ content_dir = "pairs/content" }}'
        )
    for key in subset.custom_attributes:
        if key.startswith("content") and key not in ATTRIBUTES:
            raise PairError(f"{where}: custom_attributes: unknown key {key!r}{nearest(key, ATTRIBUTES)}")
    check_branch(subset.custom_attributes, where)
    if subset.custom_attributes.get("diff_output_preservation"):
        raise PairError(
            f"{where}: diff_output_preservation replaces the target by the base model's output; "
            "pair training keeps content out of the style by itself, remove it"
        )
    for option in ("random_crop", "face_crop_aug_range", "color_aug"):
        if getattr(subset, option):
            what = "recolour" if option == "color_aug" else "crop"
            raise PairError(f"{where}: {option} would {what} the two images of a pair differently; turn it off")


def _content_record(info: ImageInfo, subset: Subset) -> ImageInfo:
    """kohya's record of the content image, in the bucket and at the size of its style image."""
    attributes = subset.custom_attributes
    content = find_content_image(info.absolute_path, attributes["content_dir"])
    content_size, _ = check_pair(content, info.absolute_path)
    record = copy.copy(info)
    for name in _PER_IMAGE_CACHES:
        setattr(record, name, None)
    record.absolute_path = str(content)
    record.image_size = content_size
    record.caption = _content_caption(content, subset, attributes)
    return record


def _content_caption(content: Path, subset: Subset, attributes: Attributes) -> str:
    file = content.with_suffix(subset.caption_extension)
    if file.is_file():
        lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        if not lines:
            raise PairError(f"{file}: the caption file is empty")
        return "\n".join(lines) if subset.enable_wildcard else lines[0]
    if attributes.get("content_class_tokens"):
        return attributes["content_class_tokens"]
    raise PairError(
        f"{content}: no caption; write {file.name} beside it or set content_class_tokens in custom_attributes"
    )
