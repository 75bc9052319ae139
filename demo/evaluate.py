"""Measures how well generated pictures obey their prompts: `python -m demo.evaluate`.

A small classifier is trained on rendered scenes to name subject, colour, background and style; it then reads what the
model draws for random prompts. Its own accuracy on unseen scenes is printed beside, as the ceiling of the figure.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import trange

from demo.data import HELD_OUT_SEED, NAMES, Scenes, load_scenes, styled_scene, to_tensor
from demo.model_config import MODEL_DIR, load_pipeline
from demo.sample_sheet import generate
from demo.scenes import SIZE, caption

# cross_entropy's mark of a question without an answer.
IGNORED = -100
QUESTIONS = ("subject", "colour", "background", "style")


class Classifier(nn.Module):
    """Convolutions at falling resolution, pooled over the picture, and one linear head per question."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 96)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(2 * channels, len(names)) for names in NAMES)

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Logits per question, each (batch, answers), of pixels (batch, 3, height, width) in [-1, 1]."""
        features = self.trunk(pixels)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return [head(pooled) for head in self.heads]


def visible(labels: np.ndarray) -> np.ndarray:
    """Which questions the picture itself can answer, (count, 4) bool: a sketch shows neither colour nor background."""
    answerable = np.ones(labels.shape, bool)
    answerable[labels[:, 3] == NAMES[3].index("sketch"), 1:3] = False
    return answerable


def train_classifier(scenes: Scenes, steps: int, seed: int, batch_size: int = 64) -> Classifier:
    """A classifier trained on `scenes` with a one-cycle learning rate; deterministic for a seed on one thread."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in trange(steps, desc="classifier", mininterval=10):
        picked = np.sort(rng.integers(len(scenes.images), size=batch_size))
        targets = np.where(visible(scenes.labels[picked]), scenes.labels[picked], IGNORED)
        pixels, labels = to_tensor(scenes.images[picked]), torch.from_numpy(targets)
        # Generated pictures are a little softer or noisier than drawn ones; neither should decide.
        pixels = pixels + 0.06 * torch.rand(()) * torch.randn_like(pixels)
        answers = model(pixels)
        losses = [
            functional.cross_entropy(answer, labels[:, i], ignore_index=IGNORED) for i, answer in enumerate(answers)
        ]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: Classifier, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Share of right answers to what is visible, for images (count, height, width, 3) uint8 and labels (count, 4)."""
    answers = [model(to_tensor(images[i : i + 100])) for i in range(0, len(images), 100)]
    figures = {}
    for question, name in enumerate(QUESTIONS):
        guesses = torch.cat([answer[question].argmax(1) for answer in answers]).numpy()
        counted = visible(labels)[:, question]
        figures[name] = round(float((guesses == labels[:, question])[counted].mean()), 4)
    return figures


def random_prompts(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Full captions, 30 % of them in a base style, and their labels (count, 4)."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(len(names), size=count) for names in NAMES], axis=1)
    labels[:, 3] = np.where(rng.random(count) < 0.3, 1 + rng.integers(len(NAMES[3]) - 1, size=count), 0)
    prompts = []
    for row in labels:
        subject, colour, background, style = (names[i] for names, i in zip(NAMES, row, strict=True))
        prompts.append(caption(subject, colour, background, None if style == "photo" else style))
    return prompts, labels


def load_classifier(
    work: Path, scene_count: int, steps: int, processes: int, size: int
) -> tuple[Classifier, dict[str, float]]:
    """The classifier of pictures of `size` px, trained at the first call, and its accuracy on 1,000 unseen scenes."""
    file = work / (f"classifier_{steps}.pt" if size == SIZE else f"classifier_{steps}_{size}px.pt")
    model = Classifier()
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
    else:
        model = train_classifier(load_scenes(work, scene_count, processes, size=size), steps, seed=0)
        torch.save(model.state_dict(), file)
    unseen = [styled_scene(HELD_OUT_SEED + 10_000 + i, size) for i in range(1000)]
    images, labels = np.stack([image for image, _ in unseen]), np.stack([label for _, label in unseen])
    return model.eval(), accuracy(model.eval(), images, labels)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / ".work")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance_scale", type=float, default=3.0)
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--classifier_steps", type=int, default=3000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file too")
    args = parser.parse_args()
    pipeline = load_pipeline(args.model)
    size = pipeline.vae.config.sample_size
    classifier, ceiling = load_classifier(args.work, args.scenes, args.classifier_steps, args.processes, size)
    prompts, labels = random_prompts(args.prompts, args.seed)
    images = generate(pipeline, prompts, args.seed, args.steps, args.guidance_scale)
    figures = {
        "classifier_on_unseen_scenes": ceiling,
        "generated": accuracy(classifier, np.rint(images * 255).astype(np.uint8), labels),
        "prompts": args.prompts,
        "sampling_steps": args.steps,
        "guidance_scale": args.guidance_scale,
    }
    print(json.dumps(figures, indent=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
