"""Sees what a picture shows, whatever its style: a small segmentation network trained on scenes whose masks are known.

It gives every pixel a subject or the background. From that follow the subject a person would name, its silhouette, and
the two regions in which a picture is compared with the true answer.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from demo.data import HELD_OUT_SEED
from demo.far_styles import FAR_STYLES
from demo.scenes import render_scene
from demo.styles import STYLES, Style, blur
from demo.subjects import SUBJECTS
from demo.textures import shuffle_colours

CLASSES = ("background", *SUBJECTS)
# All that are ever judged: in a style that it had not seen, it took the true answers themselves for broken pictures.
SEEN_STYLES: dict[str, Style] = STYLES | FAR_STYLES
STEPS = 2000
BATCH = 32
POOL = 8000
FIRST_SEED = HELD_OUT_SEED + 500_000


class Judge(nn.Module):
    """A U-Net of plain convolutions: (batch, 3, SIZE, SIZE) in [0, 1] to logits at half the size."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128)) -> None:
        super().__init__()
        self.stem = _block(3, widths[0], stride=2)
        self.downs = nn.ModuleList(_block(a, b, stride=2) for a, b in itertools.pairwise(widths))
        pairs = list(zip(widths[::-1], widths[::-1][1:], strict=False))
        self.ups = nn.ModuleList(_block(a + b, b) for a, b in pairs)
        self.head = nn.Conv2d(widths[0], len(CLASSES), 1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem(pixels * 2 - 1)
        kept = []
        for down in self.downs:
            kept.append(x)
            x = down(x)
        for up, skip in zip(self.ups, reversed(kept), strict=True):
            x = up(torch.cat([functional.interpolate(x, scale_factor=2), skip], dim=1))
        return self.head(x)

    @torch.no_grad()
    def look(self, images: np.ndarray) -> Seen:
        """What images (count, height, width, 3) in [0, 1] show."""
        parts = [self(torch.from_numpy(images[i : i + 50]).float().movedim(-1, 1)) for i in range(0, len(images), 50)]
        shares = torch.cat(parts).softmax(1)
        cover = functional.interpolate(1 - shares[:, :1], scale_factor=2, mode="bilinear")[:, 0]
        return Seen(cover.numpy(), shares[:, 1:].mean((2, 3)).argmax(1).numpy())


class Seen:
    """Attributes: cover (count, height, width), each pixel's share of subject; subjects (count,), indices of names."""

    def __init__(self, cover: np.ndarray, subjects: np.ndarray) -> None:
        self.cover, self.subjects = cover, subjects

    def overlap(self, other: Seen) -> np.ndarray:
        """Intersection over union of the silhouettes, (count,); 1 where neither picture has a subject."""
        low, high = np.minimum(self.cover, other.cover).sum((1, 2)), np.maximum(self.cover, other.cover).sum((1, 2))
        return np.where(high > 1, low / np.maximum(high, 1), 1.0)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


def styled(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A picture as methods may leave it: in no style, some style or half of one, in odd colours, soft or noisy.

    Args:
        rng: source of every choice.
        image: (height, width, 3) in [0, 1].
    """
    if rng.random() < 0.75:
        share = 1.0 if rng.random() < 0.5 else rng.random()
        image = (1 - share) * image + share * list(SEEN_STYLES.values())[rng.integers(len(SEEN_STYLES))](image)
    if rng.random() < 0.2:
        image = shuffle_colours(rng, image)
    image = blur(image, int(rng.integers(3)))
    noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0, 0.05)
    return np.clip(image + noise, 0, 1).astype(np.float32)


def load_judge(work: Path) -> Judge:
    """The judge, trained at the first call (minutes), kept in `work` under the styles that it was shown."""
    shown = hashlib.sha256(" ".join(SEEN_STYLES).encode()).hexdigest()[:8]
    file = work / f"judge_{shown}.pt"
    if not file.exists():
        work.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        torch.save(_trained().state_dict(), part)
        part.replace(file)
    judge = Judge()
    judge.load_state_dict(torch.load(file, weights_only=True))
    return judge.eval()


def _trained() -> Judge:
    torch.manual_seed(0)
    judge = Judge()
    rng = np.random.default_rng(0)
    scenes = [render_scene(FIRST_SEED + i) for i in range(POOL)]
    names = list(SUBJECTS)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=STEPS)
    for _ in trange(STEPS, desc="judge", mininterval=10):
        chosen = [scenes[i] for i in rng.integers(POOL, size=BATCH)]
        pixels = torch.from_numpy(np.stack([styled(rng, scene.image) for scene in chosen])).movedim(-1, 1)
        covers = functional.avg_pool2d(torch.from_numpy(np.stack([scene.mask for scene in chosen])), 2)
        masks = (covers > 0.5).long()
        numbers = torch.tensor([1 + names.index(scene.subject) for scene in chosen])
        loss = functional.cross_entropy(judge(pixels), masks * numbers[:, None, None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge


def judge_figures(judge: Judge, styles: dict[str, Style], count: int = 200) -> dict[str, dict[str, float]]:
    """By style: how often the judge names the subject of unseen scenes, and its silhouettes' overlap with the masks."""
    scenes = [render_scene(FIRST_SEED + POOL + i) for i in range(count)]
    names = np.array([list(SUBJECTS).index(scene.subject) for scene in scenes])
    truth = Seen(np.stack([scene.mask for scene in scenes]), names)
    figures = {}
    for name, style in {"photo": lambda image: image, **styles}.items():
        seen = judge.look(np.stack([style(scene.image) for scene in scenes]))
        accuracy = float((seen.subjects == names).mean())
        figures[name] = {"subject": round(accuracy, 3), "overlap": round(float(seen.overlap(truth).mean()), 3)}
    return figures
