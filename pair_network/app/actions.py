"""What the page's buttons do, without the page: scripts call the same functions through its API.

Every path that comes in is one of the choices that the page offers, or a picture that it was sent.
"""

from __future__ import annotations

import re
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

from pair_network import starting
from pair_network.errors import PairError, printable
from pair_network.training.check.run import run_findings
from pair_network.training.check.sheet import write_sheet
from pair_network.training.finish import Uis
from pair_network.training.one_command import CONTENT_PROMPT, name_of
from pair_network.training.prepare import find_pairs

from .queue import Queue, Run

BUNDLED = starting.PROJECT / "demo" / "model"
# Share of the preset's steps.
TIMES = {"quick look": 0.1, "normal": 1.0, "thorough": 2.0}
PRESET_STEPS = {"embedded": 120}
USUAL_STEPS = 750
MORE_PAIRS = 24
BUNDLED_PROMPTS = starting.PROJECT / "demo" / "prompts.txt"  # of what the small model can draw
MOST_TEXT = 300
FORMATS = ("a1111", "diffusers", "peft", "kohya")
TIMEOUT = 3600  # seconds for a picture or a conversion


@dataclass
class Workplace:
    """The folders that the page may read and write.

    Attributes:
        folder: Of the queue, its outputs, and what the page is sent.
        models: Folders whose models are offered.
        uis: Folders of UIs that a LoRA may be put into.
    """

    folder: Path
    models: tuple[Path, ...] = ()
    uis: Uis = field(default_factory=Uis)

    def __post_init__(self) -> None:
        self.folder = self.folder.expanduser().resolve()
        self.queue = Queue(self.folder)
        self.busy = threading.Lock()  # one picture at a time: a model fills a card

    def model_choices(self) -> list[str]:
        """The models in the folders: checkpoints, diffusers folders, and the bundled small one."""
        found = [BUNDLED] if (BUNDLED / "model_index.json").is_file() else []
        for place in self.models:
            is_model = (place / "model_index.json").is_file()
            inside = [] if is_model else [p for p in sorted(place.iterdir()) if is_offered(p)]
            found += [place] if is_model else inside
        return list(dict.fromkeys(str(path.resolve()) for path in found))

    def model(self, choice: str | None) -> str:
        """The choice, if it is one.

        Raises:
            PairError: It is not.
        """
        if choice not in self.model_choices():
            raise PairError(f"{printable(choice or 'no model')}: choose a model from the list")
        return str(choice)

    def lora_choices(self) -> list[str]:
        """Names of the runs that have made a LoRA."""
        return [run.name for run in reversed(self.queue.runs) if run.lora.is_file()]

    def lora(self, choice: str | None) -> Run:
        """The run of a LoRA.

        Raises:
            PairError: There is no such LoRA yet.
        """
        if choice not in self.lora_choices():
            raise PairError(
                f"{printable(choice or 'no LoRA')}: choose a style from the list; a finished training adds one"
            )
        return self.queue.run(str(choice))


def is_offered(path: Path) -> bool:
    is_folder = path.is_dir() and (path / "model_index.json").is_file()
    return is_folder or (path.is_file() and path.suffix == ".safetensors" and path.stat().st_size > 50_000_000)


def text_of(value: str | None, what: str, needed: str = "") -> str:
    """A line of text that a user gave.

    Raises:
        PairError: It is empty where it is needed, or too long for a prompt.
    """
    text = " ".join((value or "").split())
    if needed and not text:
        raise PairError(f'{what}: nothing is there; write, for example, "{needed}"')
    if len(text) > MOST_TEXT:
        raise PairError(f"{what}: {len(text)} characters are no prompt; use at most {MOST_TEXT}")
    return text


def pictures(photo: str | None, painting: str | None) -> tuple[Path, Path]:
    """Both pictures of the pair.

    Raises:
        PairError: One is missing.
    """
    for path, name in ((photo, "photo"), (painting, "painting")):
        if not path:
            raise PairError(f"the {name} is missing: drop a picture into its field")
    return Path(str(photo)), Path(str(painting))


def check(work: Workplace, photo: str | None, painting: str | None, words: str | None) -> tuple[list[str], Path]:
    """What there is to say about a pair, the worst first, and both sides in one picture."""
    content, style = pictures(photo, painting)
    pairs = find_pairs(content, style)
    found = run_findings(pairs, None, text_of(words, "the style's words") or None, fit="crop")
    order = {"error": 0, "warning": 1, "note": 2}
    sheet = work.folder / "check.png"
    write_sheet(pairs, sheet, "crop")
    lines = [str(finding) for finding in sorted(found, key=lambda finding: order[finding.level])]
    return [in_words(line, content, style) for line in lines], sheet


def in_words(line: str, content: Path, style: Path) -> str:
    """A finding with "the photo" and "the painting" in place of the files that the page keeps them in."""
    # The page keeps equal pictures in one file: the first mention is the photo.
    line = line.replace(str(content), "the photo", 1 if content == style else -1)
    line = line.replace(str(style), "the painting")
    if content.name != style.name:  # pasted pictures have one name
        line = line.replace(content.name, "the photo").replace(style.name, "the painting")
    return line


def train(
    work: Workplace, photo: str | None, painting: str | None, words: str | None, shows: str | None, model: str | None,
    time: str, more: bool,
) -> Run:  # fmt: skip
    """Puts a training into the queue, after the check; returns its run.

    Args:
        more: Whether more pairs are made out of the one first, where the style allows it.

    Raises:
        PairError: Something is missing, or the check found an error.
    """
    words = text_of(words, "the style's words", "in ink wash style")
    shows = text_of(shows, "what the photo shows")
    model = work.model(model)
    if time not in TIMES:
        raise PairError(f"{printable(time)}: choose one of {', '.join(TIMES)}")
    findings, _ = check(work, photo, painting, words)
    if findings and findings[0].startswith("error: "):
        raise PairError(findings[0].removeprefix("error: "))
    content, style = pictures(photo, painting)
    name = name_of(words)
    kept = work.folder / "pictures"
    kept.mkdir(parents=True, exist_ok=True)
    number = len(list(kept.iterdir()))
    files = []
    for path, side in ((content, "photo"), (style, "painted")):
        files.append(kept / f"{number:04d}_{name}_{side}{path.suffix.lower()}")
        files[-1].write_bytes(path.read_bytes())
    steps = PRESET_STEPS["embedded"] if model == str(BUNDLED.resolve()) else USUAL_STEPS
    steps = max(12, round(steps * TIMES[time]))
    run = work.queue.add(
        name,
        ["--model", model, "--content", str(files[0]), "--style", str(files[1]), "--words", words, "--fit", "crop",
         "--content_prompt", shows or CONTENT_PROMPT, "--max_train_steps", str(steps),
         "--style_start_step", str(steps // 3), "--sample_every_n_steps", str(max(1, steps // 2)),
         *more_pairs(model, more)],
    )  # fmt: skip
    work.queue.tick()
    return run


def more_pairs(model: str, wanted: bool) -> list[str]:
    """The options that make more pairs, of what the model can draw."""
    if not wanted:
        return []
    prompts = ["--more_prompts", str(BUNDLED_PROMPTS)] if model == str(BUNDLED.resolve()) else []
    return ["--more_pairs", str(MORE_PAIRS), *prompts]


def compare(
    work: Workplace, lora: str | None, model: str | None, prompt: str | None, way: str, amount: float, cfg_end: float,
    seed: float,
) -> tuple[Path, Path]:  # fmt: skip
    """The base model's picture and the styled one, of one prompt and seed.

    Args:
        way: "guidance" with λ ``amount``, or "LoRA" of that strength.
        cfg_end: Share of the steps after which guidance runs without CFG.
    """
    run, words = work.lora(lora), text_of(prompt, "the prompt", "a photo of a cat")
    where = ["--multiplier", str(float(amount))]
    if way == "guidance":
        where = ["--scale", str(float(amount)), "--cfg_end", str(float(cfg_end))]
    with work.busy:
        made = call(
            "pair_network", "generate", "--model", work.model(model), "--prompt", words, "--style", str(run.lora),
            "--compare", *where, "--seed", str(int(seed)), "--steps", "20", "--out", str(work.folder / "drawn"),
        )  # fmt: skip
    return made[0], made[2] if way == "guidance" else made[1]


def restyle(
    work: Workplace, lora: str | None, model: str | None, photo: str | None, shows: str | None, amount: float
) -> tuple[Path, Path]:
    """A photo and the same in the style."""
    run, (picture, _) = work.lora(lora), pictures(photo, photo)
    with work.busy:
        made = call(
            "pair_network", "restyle", str(picture), "--model", work.model(model), "--style", str(run.lora), "--scale",
            str(float(amount)), "--prompt", text_of(shows, "what the photo shows"), "--steps", "20",
            "--out", str(work.folder / "drawn"),
        )  # fmt: skip
    return picture, made[0]


def convert(work: Workplace, lora: str | None, form: str) -> Path:
    """The LoRA in another format; a folder's file."""
    run = work.lora(lora)
    if form not in FORMATS:
        raise PairError(f"{printable(form)}: choose one of {', '.join(FORMATS)}")
    made = call(
        "convert", form, str(run.lora), "-o", str(Path(run.folder) / f"{run.name}-{form}.safetensors"), "--overwrite"
    )
    return next((path for path in made if path.suffix == ".safetensors"), made[0])


def send(work: Workplace, lora: str | None) -> list[str]:
    """Puts a LoRA and the extension into the UIs' folders that the page was started with; says where."""
    run = work.lora(lora)
    commands = work.uis.commands(run.lora)
    if not commands:
        raise PairError("no UI is known: start the page with --webui DIR or --comfyui DIR, or download the file")
    return [str(path) for command in commands for path in call("convert", *command)]


def call(package: str, *arguments: str) -> list[Path]:
    """Runs a command line of ours in a process of its own; the paths that it prints.

    Raises:
        PairError: It failed; with its own sentence.
    """
    done = subprocess.run(
        starting.command(package, *arguments), env=starting.environment(), capture_output=True, text=True,
        encoding="utf-8", errors="replace", timeout=TIMEOUT, check=False,
    )  # fmt: skip
    if done.returncode:
        said = re.findall(r"^error: (.*)$", done.stderr, re.MULTILINE)
        raise PairError(said[-1] if said else f"{arguments[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return [Path(line) for line in done.stdout.splitlines() if line and Path(line).exists()]
