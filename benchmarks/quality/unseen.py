"""`python -m benchmarks.quality.unseen`: how well the report's figures, which know no right answer, rank what is known.

On the strips of the bench's own runs: for each method and style six pictures of the base model, their true answers, and
the same by LoRA and by style guidance. The truth: strength of these pictures against their true answers, and the
structure that the judge saw in all pictures of the training at that strength.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from diffusers import AutoencoderKL
from PIL import Image

from benchmarks.quality.jobs import ROOT, model_hash
from benchmarks.quality.measures import all_features, style_gap
from benchmarks.quality.pictures import SHOWN
from benchmarks.quality.sampler import MODES
from demo.make_pairs import PAIRS_DIR
from demo.model_config import MODEL_DIR
from pair_network.images import open_image
from pair_network.training.report.figures import NAMES, Eye, Seen, figures

RESULTS = ROOT / "benchmarks" / "results" / "quality"
SIZE, ROWS = 64, 4  # of a picture, and of a strip: base, truth, LoRA, guidance
# Which truth belongs to which figure; the training subject in other prompts is no figure: 94 % of the points have none.
TRUTHS = dict(zip(NAMES, ("strength", "structure"), strict=True))
CHOSEN_ON = "ink"  # the style on which the features of the first figure were chosen, among 350


def main() -> None:
    results = json.loads((RESULTS / "full_jobs.json").read_text(encoding="utf-8"))
    if results["model"] != model_hash():
        raise SystemExit("full_jobs.json was made with another embedded model: run python -m benchmarks.quality first")
    eye = Eye(AutoencoderKL.from_pretrained(MODEL_DIR / "vae").eval())
    shown = {(operator, pair, seed) for operator, pair, seed in SHOWN}
    jobs = [job for job in results["jobs"].values() if (job["operator"], job["pair"], job["seed"]) in shown]
    points = [point for job in jobs for point in points_of(job, eye)]
    text = table(points)
    (RESULTS / "unseen.md").write_text(text, encoding="utf-8")
    print(text)


def points_of(job: dict[str, Any], eye: Eye) -> list[dict[str, Any]]:
    """Figures and truth of a training, by mode; none where it left no strip."""
    file = RESULTS / "strips" / f"{job['method']}-{job['operator']}.webp"
    if not file.exists():
        return []
    strip = np.asarray(open_image(file), np.float32) / 255
    rows = strip.reshape(ROWS, SIZE, -1, SIZE, 3).transpose(0, 2, 1, 3, 4)
    files = [PAIRS_DIR / side / f"{job['pair']}.png" for side in ("content", job["operator"])]
    content, style = (look(eye, [open_image(file)]) for file in files)
    base, truth = look(eye, pictures(rows[0])), all_features(rows[1])
    own = style_gap(all_features(rows[0]), truth).mean()
    found = []
    for mode, images in zip(MODES, rows[2:], strict=True):
        middle = job["curves"][mode][len(job["curves"][mode]) // 2]
        known = {"strength": 1 - style_gap(all_features(images), truth).mean() / own, "structure": middle["structure"]}
        seen = figures(base, look(eye, pictures(images)), content, style)
        found.append({"operator": job["operator"], "mode": mode, **known, **seen})
    return found


def pictures(images: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray((image * 255).round().astype(np.uint8)) for image in images]


def look(eye: Eye, images: list[Image.Image]) -> Seen:
    return eye.look(images, SIZE)


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's ρ; ties share their mean rank."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: list[float]) -> np.ndarray:
    array = np.asarray(values)
    return np.array([(array < value).sum() + ((array == value).sum() - 1) / 2 for value in array])


def table(points: list[dict[str, Any]]) -> str:
    """The correlations as Markdown, and what the second figure is where the true structure is around .75."""
    operators = sorted({point["operator"] for point in points})
    lines = [
        f"{len(points)} points: {len(points) // len(MODES)} trainings by LoRA and by guidance, six pictures each.",
        f"Spearman's rank correlation with the truth; the features of *{NAMES[0]}* were chosen on {CHOSEN_ON}.",
        "",
        f"| figure | truth | all | {' | '.join((*operators, *MODES))} |",
        f"|---|---|{'---|' * (1 + len(operators) + len(MODES))}",
    ]
    for name, truth in TRUTHS.items():
        groups = [points, *([p for p in points if p["operator"] == o] for o in operators),
                  *([p for p in points if p["mode"] == m] for m in MODES)]  # fmt: skip
        values = [rank_correlation([p[name] for p in group], [p[truth] for p in group]) for group in groups]
        lines.append(f"| {name} | {truth} | {' | '.join(f'{value:.2f}'.replace('0.', '.') for value in values)} |")
    near = [point[NAMES[1]] for point in points if 0.7 <= point["structure"] <= 0.8]
    lines += ["", f"Where the true structure is .7 to .8, *{NAMES[1]}* is {np.mean(near):.2f} ± {np.std(near):.2f}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
