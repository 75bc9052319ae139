"""The training set: scenes rendered once into memory-mapped files, then encoded once into latents."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from demo import parallel
from demo.scenes import BACKGROUNDS, COLOURS, SIZE, Scene, render_scene
from demo.style_family import random_style
from demo.styles import BASE_STYLES
from demo.subjects import SUBJECTS
from demo.textures import random_texture

NAMES: tuple[tuple[str, ...], ...] = (tuple(SUBJECTS), tuple(COLOURS), tuple(BACKGROUNDS), ("photo", *BASE_STYLES))
STYLE_SHARE = 0.3
CHUNK = 500
# Seeds from here on belong to held-out pictures: evaluation, bundled pairs.
HELD_OUT_SEED = 1_000_000_000
FAMILY_SEED = 500_000_000
# In place of an index into `NAMES`.
FAMILY_LABEL = -1


@dataclass(frozen=True)
class Scenes:
    """Rendered pictures and what they show.

    Attributes:
        images: (count, size, size, 3) uint8.
        labels: (count, 4) int64: subject, colour, background, style as indices into `NAMES`; a style of the family
            has `FAMILY_LABEL`.
        words: by picture the words for its style, none for a photo.
    """

    images: np.ndarray
    labels: np.ndarray
    words: list[list[str]]


Picture = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


def styled_scene(seed: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """One training picture, 30 % of them in a base style: image (size, size, 3) uint8 and its four labels."""
    scene = render_scene(seed, size=size)
    rng = np.random.default_rng([seed, 1])
    style = int(rng.integers(len(BASE_STYLES))) + 1 if rng.random() < STYLE_SHARE else 0
    image = scene.image if style == 0 else BASE_STYLES[NAMES[3][style]](scene.image)
    return _to_bytes(image), _labels(scene, style)


def family_scene(seed: int, size: int = SIZE) -> Picture:
    """One training picture in a style of its own: image (size, size, 3) uint8, its four labels, the style's words."""
    # Other scenes than `styled_scene` draws from the same seeds.
    scene = render_scene(FAMILY_SEED + seed, size=size)
    style = random_style(np.random.default_rng([seed, 3]))
    return _to_bytes(style(scene.image)), _labels(scene, FAMILY_LABEL), style.words


def _labels(scene: Scene, style: int) -> np.ndarray:
    return np.array(
        [NAMES[0].index(scene.subject), NAMES[1].index(scene.colour), NAMES[2].index(scene.background), style]
    )


def _base_picture(seed: int, size: int) -> Picture:
    image, labels = styled_scene(seed, size)
    return image, labels, () if labels[3] == 0 else (NAMES[3][labels[3]],)


def _texture_picture(seed: int, size: int) -> Picture:
    rng = np.random.default_rng([seed, 2])
    return _to_bytes(random_texture(rng, render_scene(seed, size=size).image)), np.zeros(4, int), ()


# What a pool of pictures may hold.
KINDS: dict[str, Callable[[int, int], Picture]] = {
    "scenes": _base_picture,
    "family": family_scene,
    "textures": _texture_picture,
}


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _chunk(kind: str, size: int, first_seed: int) -> tuple[np.ndarray, np.ndarray, list[tuple[str, ...]]]:
    pictures = [KINDS[kind](first_seed + i, size) for i in range(CHUNK)]
    return np.stack([one[0] for one in pictures]), np.stack([one[1] for one in pictures]), [one[2] for one in pictures]


def load_scenes(
    work: Path, count: int, processes: int, kind: str = "scenes", size: int = SIZE, first: int = 0
) -> Scenes:
    """`count` training pictures of a kind, rendered at the first call.

    Args:
        work: folder that keeps them.
        count: how many; rounded up to a multiple of `CHUNK`.
        processes: how many render side by side.
        kind: key of `KINDS`: photos with base styles, styles of the family, or random textures with labels of zeros.
        size: side of the square pictures, in pixels.
        first: seed of the first one; another start gives other pictures.
    """
    chunks = -(-count // CHUNK)
    name = "_".join(
        [kind, str(chunks * CHUNK), *([f"from{first}"] if first else []), *([f"{size}px"] if size != SIZE else [])]
    )
    image_file, label_file, word_file = (work / f"{name}{end}" for end in (".npy", "_labels.npy", "_words.json"))
    if not word_file.exists():
        work.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(image_file, "w+", np.uint8, (chunks * CHUNK, size, size, 3))
        labels, words = np.zeros((chunks * CHUNK, 4), np.int64), []
        with get_context("spawn").Pool(processes) as pool:
            parts = pool.imap(partial(_chunk, kind, size), range(first, first + chunks * CHUNK, CHUNK))
            for i, (part, part_labels, part_words) in enumerate(tqdm(parts, f"render {kind}", chunks)):
                images[i * CHUNK : (i + 1) * CHUNK] = part
                labels[i * CHUNK : (i + 1) * CHUNK] = part_labels
                words += part_words
        images.flush()
        np.save(label_file, labels)
        # Written last: its presence says that the pictures are complete.
        word_file.write_text(json.dumps(words), encoding="utf-8")
    return Scenes(np.load(image_file, mmap_mode="r"), np.load(label_file), json.loads(word_file.read_text("utf-8")))


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Bytes (batch, height, width, 3) as the autoencoder wants them: (batch, 3, height, width) float32 in [-1, 1]."""
    return to_pixels(torch.from_numpy(np.array(images)))


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """The same of a tensor of bytes, on its device."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def load_latents(work: Path, scenes: Scenes, vae: AutoencoderKL, device: torch.device) -> np.ndarray:
    """The scenes' latent means, scaled for the U-Net, encoded at the first call; the processes share the work.

    Args:
        work: folder that keeps them.
        scenes: what to encode.
        vae: on `device`.
        device: where to compute.

    Returns:
        (count, channels, height, width) float16, memory-mapped.
    """
    count, batch = len(scenes.images), 250
    # Named after the autoencoder too: another one has other latents.
    weights = vae.quant_conv.weight.float().cpu().numpy().tobytes()
    file = work / f"latents_{Path(scenes.images.filename).stem}_{hashlib.sha256(weights).hexdigest()[:8]}.npy"
    if file.exists():
        return np.load(file, mmap_mode="r")
    part = file.with_suffix(".part")
    side = scenes.images.shape[1] // 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (count, vae.config.latent_channels, side, side)
    if parallel.rank() == 0:
        np.lib.format.open_memmap(part, "w+", np.float16, shape).flush()
    parallel.wait_for_all()
    latents = np.lib.format.open_memmap(part, "r+")
    starts = range(parallel.rank() * batch, count, parallel.world_size() * batch)
    for i in tqdm(starts, "encode", disable=parallel.rank() > 0):
        pixels = to_tensor(scenes.images[i : i + batch]).to(device)
        with parallel.autocast():
            means = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        latents[i : i + batch] = means.float().half().cpu().numpy()
    latents.flush()
    parallel.wait_for_all()
    if parallel.rank() == 0:
        os.replace(part, file)
    parallel.wait_for_all()
    return np.load(file, mmap_mode="r")
