"""The training set: scenes rendered once into memory-mapped files, then encoded once into latents."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from demo import parallel
from demo.scenes import BACKGROUNDS, COLOURS, SIZE, render_scene
from demo.styles import BASE_STYLES
from demo.subjects import SUBJECTS
from demo.textures import random_texture

NAMES: tuple[tuple[str, ...], ...] = (tuple(SUBJECTS), tuple(COLOURS), tuple(BACKGROUNDS), ("photo", *BASE_STYLES))
STYLE_SHARE = 0.3
CHUNK = 500
# Seeds from here on belong to held-out pictures: evaluation, bundled pairs.
HELD_OUT_SEED = 1_000_000_000


@dataclass(frozen=True)
class Scenes:
    """Rendered pictures and what they show.

    Attributes:
        images: (count, SIZE, SIZE, 3) uint8.
        labels: (count, 4) int64: subject, colour, background, style as indices into `NAMES`.
    """

    images: np.ndarray
    labels: np.ndarray


def styled_scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One training picture, 30 % of them in a base style: image (SIZE, SIZE, 3) uint8 and its four labels."""
    scene = render_scene(seed)
    rng = np.random.default_rng([seed, 1])
    style = int(rng.integers(len(BASE_STYLES))) + 1 if rng.random() < STYLE_SHARE else 0
    image = scene.image if style == 0 else BASE_STYLES[NAMES[3][style]](scene.image)
    labels = [NAMES[0].index(scene.subject), NAMES[1].index(scene.colour), NAMES[2].index(scene.background), style]
    return _to_bytes(image), np.array(labels)


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _scene_chunk(first_seed: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [styled_scene(first_seed + i) for i in range(CHUNK)]
    return np.stack([image for image, _ in pairs]), np.stack([labels for _, labels in pairs])


def _texture_chunk(first_seed: int) -> tuple[np.ndarray, np.ndarray]:
    images = []
    for seed in range(first_seed, first_seed + CHUNK):
        rng = np.random.default_rng([seed, 2])
        images.append(_to_bytes(random_texture(rng, render_scene(seed).image)))
    return np.stack(images), np.zeros((CHUNK, 4), int)


def load_scenes(work: Path, count: int, processes: int, textures: bool = False) -> Scenes:
    """The first `count` training pictures (or random textures), rendered at the first call.

    Args:
        work: folder that keeps them.
        count: how many; rounded up to a multiple of `CHUNK`.
        processes: how many render side by side.
        textures: random textures in place of scenes; their labels are zeros.
    """
    chunks = -(-count // CHUNK)
    name = "textures" if textures else "scenes"
    image_file, label_file = work / f"{name}_{chunks * CHUNK}.npy", work / f"{name}_{chunks * CHUNK}_labels.npy"
    if not label_file.exists():
        work.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(image_file, "w+", np.uint8, (chunks * CHUNK, SIZE, SIZE, 3))
        labels = np.zeros((chunks * CHUNK, 4), np.int64)
        with get_context("spawn").Pool(processes) as pool:
            work_items = pool.imap(_texture_chunk if textures else _scene_chunk, range(0, chunks * CHUNK, CHUNK))
            for i, (part, part_labels) in enumerate(tqdm(work_items, f"render {name}", chunks)):
                images[i * CHUNK : (i + 1) * CHUNK] = part
                labels[i * CHUNK : (i + 1) * CHUNK] = part_labels
        images.flush()
        # Written last: its presence says that the pictures are complete.
        np.save(label_file, labels)
    return Scenes(np.load(image_file, mmap_mode="r"), np.load(label_file))


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Bytes (batch, height, width, 3) as the autoencoder wants them: (batch, 3, height, width) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def load_latents(work: Path, scenes: Scenes, vae: AutoencoderKL, device: torch.device) -> np.ndarray:
    """The scenes' latent means, scaled for the U-Net, encoded at the first call; the processes share the work.

    Returns:
        (count, channels, SIZE / 4, SIZE / 4) float16, memory-mapped.
    """
    count, batch = len(scenes.images), 250
    # Named after the autoencoder too: another one has other latents.
    weights = vae.quant_conv.weight.float().cpu().numpy().tobytes()
    file = work / f"latents_{count}_{hashlib.sha256(weights).hexdigest()[:8]}.npy"
    if file.exists():
        return np.load(file, mmap_mode="r")
    part = file.with_suffix(".part")
    shape = (count, vae.config.latent_channels, SIZE // 4, SIZE // 4)
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
