"""Images cut to their training size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pair_network.images import open_image

from .buckets import Frame


def load_pixels(path: Path, frame: Frame, flipped: bool) -> Tensor:
    """The image resized, cut and mirrored: (3, height, width) float32 in [-1, 1]."""
    image = open_image(path)
    if image.size != frame.resized:
        image = image.resize(frame.resized, Image.Resampling.LANCZOS)
    left, top = frame.left_top
    image = image.crop((left, top, left + frame.bucket[0], top + frame.bucket[1]))
    if flipped:
        image = ImageOps.mirror(image)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1.0).permute(2, 0, 1).contiguous()
