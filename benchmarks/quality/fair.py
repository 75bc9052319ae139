"""A fair comparison in little: `python -m benchmarks.quality.fair`. Writes results/quality/fair.json and fair.md.

The official recipe as released (attention alone) stands beside the one on all layers, the oracle (the same training on
48 true pairs), the map that makes pseudo-pairs, alone, and LoRAs in the prompt's rows alone; all are drawn with the
content's CFG throughout and with CFG that ends. Strength is also given as a share of what the autoencoder allows.
Every row trains on the bench's budget of updates x rows, or on a multiple of it (--budget).
It stops between two trainings after --minutes, and goes on when it is called again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quality import oracle
from benchmarks.quality.__main__ import RESULTS, load_results, save_results
from benchmarks.quality.curves import area, clean_strength, gain
from benchmarks.quality.jobs import PRESET, ROOT, Job, _tools, base_pictures, make_prompts, model_hash, train_on
from benchmarks.quality.measures import Reference, score
from benchmarks.quality.methods import METHODS, length_options
from benchmarks.quality.oracle import LEAST_STRUCTURE, STYLES, through_autoencoder
from benchmarks.quality.plan import CFG_END, RESERVED_OPERATORS, THREE, WAYS
from benchmarks.quality.report import plain_table
from benchmarks.quality.sampler import GUIDANCE_SCALE, STEPS, STYLE_START, Sampler
from demo.far_styles import FAR_STYLES
from demo.make_pairs import CONTENTS, PAIRS_DIR
from demo.one_pair import preset_without_pair
from demo.scenes import caption, to_picture
from pair_network.pseudo_pairs.command import to_image, to_tensor
from pair_network.pseudo_pairs.folder import DATASET, MadePair, write_pairs
from pair_network.pseudo_pairs.gate import Trial, best, try_maps, with_details
from pair_network.pseudo_pairs.options import PairsOptions

# Row of the table -> the method whose options it trains with; the map alone trains nothing.
ROWS = {
    "released": "released", "official": "official", "plain": "plain", "ours": "ours", "ours, pseudo-pairs": "ours",
    "map alone": "ours", "oracle": "ours",
}  # fmt: skip
MADE, MADE_LIMIT, REAL_SHARE = PairsOptions.count, PairsOptions.limit, PairsOptions.real_share


@dataclass(frozen=True)
class Case:
    """One training of a row, or the map alone.

    Attributes:
        budget: a multiple of the bench's updates x rows.
        start: share of the steps without style in guidance.
    """

    row: str
    style: str
    pair: str = "house"
    seed: int = 0
    prompts: int = 20
    budget: int = 1
    start: float = STYLE_START

    @property
    def key(self) -> str:
        longer = f"-x{self.budget}" if self.budget > 1 else ""
        return f"{self.row}-{self.style}-{self.pair}-{self.seed}-{self.prompts}-{self.start:g}{longer}"

    @property
    def updates(self) -> tuple[str, ...]:
        """Options of the training: its updates, a third of them with the content alone."""
        return length_options(self.budget * METHODS[ROWS[self.row]].steps)

    @property
    def job(self) -> Job:
        return Job(ROWS[self.row], self.style, self.pair, self.seed, self.prompts, THREE)


def pair_images(case: Case, folder: Path) -> tuple[Path, Path]:
    """Content and style image of the pair; of far styles, which have no bundled pairs, the true answer is written."""
    content, style = (PAIRS_DIR / place / f"{case.pair}.png" for place in ("content", case.style))
    if not style.exists():
        style = folder / f"{case.pair}.png"
        to_picture(STYLES[case.style](_pixels(content))).save(style)
        text = caption(*CONTENTS[case.pair][1:], case.style)
        style.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    return content, style


def _pixels(file: Path) -> np.ndarray:
    return to_tensor(oracle.Image.open(file).convert("RGB")).movedim(0, -1).numpy()


def fitted_map(case: Case, folder: Path) -> Trial:
    """The map that `python -m pair_network pairs` would take."""
    content, style = (to_tensor(oracle.Image.open(file).convert("RGB")) for file in pair_images(case, folder))
    return with_details(best(try_maps(content, style)), content, style)


def train_row(
    case: Case, folder: Path, sampler: Sampler, work: Path, further: Sequence[str] = ()
) -> tuple[Path, dict[str, Any]]:
    """The style LoRA's file, and what is worth noting of its training; ``further`` are options of it."""
    content, style = pair_images(case, folder)
    if case.row == "oracle":
        return oracle.train(oracle.MODEL_DIR, case.style, folder, case.seed, case.updates), {}
    further = (*case.updates, *further)
    the_pair = ("--content", str(content), "--style", str(style), *further)
    if case.row != "ours, pseudo-pairs":
        return train_on(case.job, folder, PRESET, the_pair), {}
    found = fitted_map(case, folder)
    notes = {"map": found.style_map.name, "blocks": round(found.blocks, 3), "colours": round(found.colours, 3)}
    if found.blocks > MADE_LIMIT:
        return train_on(case.job, folder, PRESET, the_pair), notes
    made = [
        MadePair(to_picture(image), to_image(found.style_map(torch.from_numpy(image).movedim(-1, 0))), text)
        for image, text in other_pictures(sampler, work, CONTENTS[case.pair][1])
    ]
    words = f"in {case.style} style"
    side = made[0].content.width
    text = content.with_suffix(".txt").read_text(encoding="utf-8").strip()
    write_pairs(folder / "pairs", (content, style), text, words, made, side, REAL_SHARE)
    preset = preset_without_pair(folder)
    dataset = ("--dataset_config", str(folder / "pairs" / DATASET), *further)
    return train_on(case.job, folder, preset, dataset), notes


def other_pictures(sampler: Sampler, work: Path, subject: str) -> list[tuple[np.ndarray, str]]:
    """The base model's pictures of prompts that the comparison does not draw, kept in `work`."""
    prompts = [replace(prompt, seed=prompt.seed + 500_000) for prompt in make_prompts(subject, 150)[-MADE:]]
    file = work / f"made_{model_hash()}_{subject}.npy"
    if not file.exists():
        np.save(file, sampler.draw(prompts))
    return [(image, prompt.text) for image, prompt in zip(np.load(file), prompts, strict=True)]


def run_case(case: Case, work: Path) -> dict[str, Any]:
    """Trains, draws in every way, scores."""
    sampler, judge = _tools(work)
    subject = CONTENTS[case.pair][1]
    prompts, base = base_pictures(work, subject, case.prompts)
    reference = Reference.of(judge, base, STYLES[case.style], [prompt.subject for prompt in prompts], subject)
    curves: dict[str, list[dict[str, float]]] = {}
    started = time.process_time()
    notes: dict[str, Any] = {
        "ceiling": reference.strength(through_autoencoder(sampler, reference.truth)),
        "truth_structure": score(reference.truth, reference, judge)["structure"],
    }
    with tempfile.TemporaryDirectory(dir=work) as folder:
        if case.row == "map alone":
            found = fitted_map(case, Path(folder))
            drawn = np.stack([found.style_map(torch.from_numpy(one).movedim(-1, 0)).movedim(0, -1) for one in base])
            notes["map"] = found.style_map.name
            curves["the map"] = [
                {"at": share, **score(base + share * (drawn - base), reference, judge)} for share in (0.5, 1.0)
            ]
        else:
            file, more = train_row(case, Path(folder), sampler, work)
            notes |= more
            for way, (mode, cfg_end, strengths) in WAYS.items():
                curves[way] = []
                for strength in strengths:
                    images = sampler.draw(prompts, f"in {case.style} style", file, mode, strength, cfg_end)
                    curves[way].append({"at": strength, **score(images, reference, judge)})
    seconds = round(time.process_time() - started)
    return {**vars(case), **notes, "base": score(base, reference, judge), "curves": curves, "cpu_seconds": seconds}


def page(results: dict[str, Any]) -> str:
    """The Markdown page: every row and way over its trainings, and its area against the released recipe's."""
    cases = list(results["jobs"].values())
    groups: dict[str, list[dict[str, Any]]] = {}
    for budget in sorted({case["budget"] for case in cases}):
        own = [case for case in cases if case["budget"] == budget]
        title = "" if budget == 1 else f", {budget} times the updates"
        groups[f"All trainings{title}"] = own
        groups[f"Reserved and far styles{title}"] = [case for case in own if is_kept_out(case)]
    text = (
        f"# A fair comparison in little\n\n`python -m benchmarks.quality.fair`, the embedded model {results['model']}, "
        f"{STEPS} steps, CFG {GUIDANCE_SCALE:g}, style from {STYLE_START:g} of the steps on; CFG ends at {CFG_END:g}. "
        f"strength, its share of the autoencoder's and pixel error (base picture: 1) are those of the strongest point "
        f"with structure ≥ {LEAST_STRUCTURE}; area and clean strength as in docs/quality.md; the last column compares "
        "areas with the recipe as released, with guidance, on the trainings that both have. The intervals are "
        "bootstrap intervals over trainings: of few trainings they say little.\n"
    )
    for title, group in groups.items():
        if group:
            # What the judge gives the true answers is the most that a style can have.
            kept = {case["style"]: f" ({case['truth_structure']:.2f})" for case in group}
            styles = ", ".join(style + found for style, found in kept.items())
            text += f"\n## {title}\n\nStyles (structure of T(base)): {styles}.\n\n"
            text += plain_table("row | drawn", _table(group))
    return text


def is_kept_out(case: dict[str, Any]) -> bool:
    """Whether no setting was chosen by the style."""
    return case["style"] in (*RESERVED_OPERATORS, *FAR_STYLES)


def _table(cases: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    released = {_training(case): _area(case, "guidance") for case in cases if case["row"] == "released"}
    table = {}
    for row in ROWS:
        own = [case for case in cases if case["row"] == row]
        for way in dict.fromkeys(way for case in own for way in case["curves"]):
            points = [strongest(_points(case, way)) for case in own]
            shares = [point["strength"] / case["ceiling"] for point, case in zip(points, own, strict=True)]
            both = [case for case in own if _training(case) in released]
            cells = {
                "n": str(len(own)),
                **{name: f"{np.mean([one[name] for one in points]):.2f}" for name in ("strength", "set_strength")},
                "share": f"{np.mean(shares):.2f}",
                "pixel_error": f"{np.mean([one['pixel_error'] for one in points]):.2f}",
                "clean": f"{np.mean([clean_strength(_points(case, way)) for case in own]):.2f}",
                "area: structure": f"{np.mean([_area(case, way) for case in own]):.3f}",
                "against released": _gain(both, way, released) if both else "–",
            }
            table[f"{row} | {way}"] = cells
    return table


def _gain(cases: list[dict[str, Any]], way: str, released: dict[tuple, float]) -> str:
    by, low, high = gain([_area(case, way) for case in cases], [released[_training(case)] for case in cases])
    return f"{1 + by:.2f}× ({1 + low:.2f} to {1 + high:.2f})"


def _training(case: dict[str, Any]) -> tuple:
    return case["style"], case["pair"], case["seed"], case["prompts"], case["budget"]


def _points(case: dict[str, Any], way: str) -> list[dict[str, float]]:
    return [{"at": 0.0, **case["base"]}, *case["curves"][way]]


def _area(case: dict[str, Any], way: str) -> float:
    return area(_points(case, way), "structure")


def strongest(points: list[dict[str, float]]) -> dict[str, float]:
    """The point with the strongest style whose structure is kept; the base picture where none is."""
    kept = [point for point in points if point["structure"] >= LEAST_STRUCTURE]
    return max(kept, key=lambda point: point["strength"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.fair", description=__doc__)
    parser.add_argument("--styles", nargs="+", choices=list(STYLES), default=["poster", "ink", "watercolour", "pixel"])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--pairs", nargs="+", choices=list(CONTENTS), default=["house"])
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--budget", type=int, default=1, help="multiple of the bench's updates x rows")
    parser.add_argument("--minutes", type=float, default=7.0, help="no training is begun after so many")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / ".work")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    cases = [
        Case(row, style, pair, seed, args.prompts, args.budget)
        for seed in range(args.seeds) for pair in args.pairs for style in args.styles for row in args.rows
    ]  # fmt: skip
    file, ends = args.out / "fair.json", time.monotonic() + 60 * args.minutes
    results = load_results(file)
    # Drawn otherwise, they cannot stand in one table.
    results["jobs"] = {key: case for key, case in results["jobs"].items() if case.get("start") == STYLE_START}
    for case in cases:
        if case.key not in results["jobs"] and time.monotonic() < ends:
            results["jobs"][case.key] = run_case(case, args.work)
            save_results(results, file)
            print(case.key, json.dumps(results["jobs"][case.key]["cpu_seconds"]), "CPU seconds", flush=True)
    missing = [case.key for case in cases if case.key not in results["jobs"]]
    (args.out / "fair.md").write_text(page(results), encoding="utf-8")
    print(page(results), f"{len(missing)} of {len(cases)} are not done yet" if missing else "", sep="\n")


if __name__ == "__main__":
    main()
