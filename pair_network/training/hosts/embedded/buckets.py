"""Which training size an image gets: sd-scripts' aspect-ratio buckets, in whole numbers of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pair_network.images import Size


@dataclass(frozen=True)
class Frame:
    """How an image becomes a training image: it is resized to ``resized``, then ``bucket`` is cut from its middle."""

    resized: Size
    bucket: Size

    @property
    def left_top(self) -> tuple[int, int]:
        """Pixels cut off on the left and at the top."""
        return (self.resized[0] - self.bucket[0]) // 2, (self.resized[1] - self.bucket[1]) // 2


def bucket_sizes(resolution: Size, smallest: int, largest: int, step: int) -> list[Size]:
    """Sizes with sides in [smallest, largest], multiples of ``step``, and no more pixels than ``resolution``."""
    area = resolution[0] * resolution[1]
    square = int(math.sqrt(area) // step) * step
    sizes = {(square, square)}
    for width in range(smallest, largest + 1, step):
        height = min(largest, area // width // step * step)
        if height >= smallest:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def cover(image: Size, bucket: Size) -> Frame:
    """The image scaled so that it just covers the bucket."""
    scale = max(bucket[0] / image[0], bucket[1] / image[1])
    resized = tuple(max(side, int(length * scale + 0.5)) for length, side in zip(image, bucket, strict=True))
    return Frame((resized[0], resized[1]), bucket)


def nearest_bucket(image: Size, sizes: list[Size]) -> Frame:
    """The image in the bucket of the nearest aspect ratio, or in the one of its own size."""
    if image in sizes:
        return Frame(image, image)
    aspect = image[0] / image[1]
    return cover(image, min(sizes, key=lambda size: abs(size[0] / size[1] - aspect)))


def shrunk_bucket(image: Size, resolution: Size, step: int) -> Frame:
    """The image in a bucket of its own that is never larger than the image (``bucket_no_upscale``).

    Images of more pixels than ``resolution`` are shrunk so that one side becomes a multiple of ``step``.
    """
    width, height = image
    if width * height > resolution[0] * resolution[1]:
        width, height = _shrunk(image, resolution[0] * resolution[1], step)
    return Frame((width, height), (width // step * step, height // step * step))


def _shrunk(image: Size, area: int, step: int) -> Size:
    aspect = image[0] / image[1]
    width = math.sqrt(area * aspect)
    by_width = _rounded(width, step)
    by_height = _rounded(area / width, step)
    height_of = _rounded(by_width / aspect, step)
    width_of = _rounded(by_height * aspect, step)
    width_error = abs(by_width / height_of - aspect) if height_of else math.inf
    height_error = abs(width_of / by_height - aspect) if by_height else math.inf
    if width_error < height_error:
        return by_width, int(by_width / aspect + 0.5)
    return int(by_height * aspect + 0.5), by_height


def _rounded(length: float, step: int) -> int:
    return int(length + 0.5) // step * step
