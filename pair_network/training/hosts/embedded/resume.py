"""What a saved state must have in common with the run that continues from it, and what is said where it has not.

``RULES`` is the one list: the comparison follows it, and so does the table in docs/training.md. An option that it does
not name changes nothing that is learned: where files go, what is logged, when previews are made.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pair_network.errors import PairError, printable

from .dataset import DatasetGroup
from .model_files import ModelFiles, find_model
from .session import Session

logger = logging.getLogger(__name__)

REFUSED = "refused"
TAKEN_OVER = "the saved one, unless another is given"
CHANGED = "the new one from there on, with a warning"

# Group, names of its options and facts, what happens to a new value.
RULES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("the base model and what is merged into it", ("model", "base_weights", "base_weights_multiplier"), REFUSED),
    ("the network", ("network_module", "network"), REFUSED),
    ("the optimizer, whose memory the state holds", ("optimizer_type", "optimizer_args"), REFUSED),
    ("the seed, and where the style begins", ("seed", "style_start_step"), TAKEN_OVER),
    ("learning rates", ("learning_rate", "unet_lr", "text_encoder_lr", "max_grad_norm", "scale_weight_norms"), CHANGED),
    ("their schedule", ("lr_scheduler", "lr_warmup_steps", "lr_scheduler_num_cycles", "lr_scheduler_power"), CHANGED),
    ("the length, under a schedule that ends with it", ("max_train_steps",), CHANGED),
    ("the pairs: pictures and captions, by their content", ("pairs",), CHANGED),
    (
        "how pairs become batches",
        (
            "resolution", "batch_size", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps",
            "bucket_no_upscale", "num_repeats", "flip_aug", "shuffle_caption", "keep_tokens", "caption_separator",
            "batches_per_epoch", "gradient_accumulation_steps", "num_processes", "cache_latents",
        ),
        CHANGED,
    ),
    (
        "noise, timesteps and loss",
        (
            "noise_offset", "min_timestep", "max_timestep", "min_snr_gamma", "zero_terminal_snr", "v_parameterization",
            "loss_type", "huber_schedule", "huber_c", "huber_scale", "pair_schedule",
        ),
        CHANGED,
    ),
    ("precision and the text encoder's layer", ("mixed_precision", "no_half_vae", "clip_skip", "quantize"), CHANGED),
)  # fmt: skip
VERDICTS = {name: verdict for _, names, verdict in RULES for name in names}
RATES = frozenset(("learning_rate", "unet_lr", "text_encoder_lr", "max_train_steps"))
RATES |= frozenset(("lr_scheduler", "lr_warmup_steps", "lr_scheduler_power", "lr_scheduler_num_cycles"))
ENDLESS = ("constant", "constant_with_warmup", "adafactor")
SAMPLED = 1 << 16  # bytes that are read at each of SAMPLES places of a large file
SAMPLES = 16


def table() -> str:
    """The rules as a Markdown table, for the docs."""
    rows = ["| what | options and facts | another value |", "|---|---|---|"]
    rows += [f"| {group} | {', '.join(f'`{name}`' for name in names)} | {verdict} |" for group, names, verdict in RULES]
    return "\n".join(rows)


def facts_of(session: Session, metadata: Mapping[str, object]) -> dict[str, object]:
    """What shapes this run, by the names of ``RULES``, as JSON has it.

    Args:
        session: The prepared run.
        metadata: That of its files, in which the pair training's own schedule stands.
    """
    args = session.args
    values: dict[str, object] = {name: getattr(args, name) for name in VERDICTS if hasattr(args, name)}
    values |= dataset_facts(session.dataset)
    values["model"] = fingerprint(find_model(args))
    values["base_weights"] = [sampled_hash(Path(file)) for file in args.base_weights or ()]
    config = getattr(session.bare_network, "config", None)
    own = {"rank": args.network_dim, "alpha": args.network_alpha, "args": sorted(args.network_args or ())}
    values["network"] = json.loads(config.to_json()) if config is not None else own
    values["optimizer_type"] = session.optimizer_name.partition("(")[0]
    values["optimizer_args"] = sorted(args.optimizer_args or ())
    values["num_processes"] = session.accelerator.num_processes
    values["style_start_step"] = metadata.get("pair_network_style_start_step")
    values["pair_schedule"] = metadata.get("pair_network_schedule")
    if args.lr_scheduler in ENDLESS:
        del values["max_train_steps"]
    facts: dict[str, object] = json.loads(json.dumps(values, default=str))
    return facts


def dataset_facts(dataset: DatasetGroup) -> dict[str, object]:
    """Settings and content of the pairs; where they lie is no part of it."""
    each = [{**asdict(one.config), "subsets": None} for one in dataset.datasets]
    subsets = [asdict(subset) for subset in dataset.subsets]
    settings: dict[str, object] = {"batches_per_epoch": dataset.batches_per_epoch}
    for entries in (each, subsets):
        for name in entries[0]:
            if name in VERDICTS:
                settings[name] = [entry[name] for entry in entries]
    pairs = {}
    for sample in dataset.samples:
        for side, image in zip(("style", "content"), sample.images, strict=False):
            words = hashlib.sha256(image.caption.encode()).hexdigest()[:16]
            pairs[f"{sample.pair_index} {side} {image.path.name}"] = f"{file_hash(image.path)} {words}"
    return {**settings, "pairs": pairs}


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 16 digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def fingerprint(model: ModelFiles) -> str:
    """One hash for a model's weights and noise schedule, from places spread over its files: it costs no time."""
    files = [*model.folder.glob("scheduler/*.json")]
    files += [model.checkpoint] if model.checkpoint else [*model.folder.glob("*/*.safetensors")]
    return hashlib.sha256(" ".join(sampled_hash(path) for path in sorted(files)).encode()).hexdigest()[:16]


def sampled_hash(path: Path) -> str:
    """SHA-256 of a file's length and of ``SAMPLES`` places in it, 16 digits."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(max(0, size - SAMPLED) * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLED))
    return digest.hexdigest()[:16]


def compare(folder: Path, saved: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Warns of what has changed since the state was saved; returns its names.

    Raises:
        PairError: The state means something else under the new options.
    """
    if not saved:
        logger.warning("%s was saved by an older version, without its options: give the same ones again", folder)
        return []
    changed = [name for name in VERDICTS if name in saved and name in now and saved[name] != now[name]]
    for name in changed:
        for words in _differences(name, saved[name], now[name]):
            if VERDICTS[name] == REFUSED:
                raise PairError(
                    f"{printable(folder)}: {words}; resume with the options it was saved with, or start a new run from "
                    "its LoRA with --network_weights"
                )
            logger.warning("%s: the run does not continue identically", words)
    return changed


def _differences(name: str, before: object, after: object) -> Iterator[str]:
    """Sentences; a table is taken apart, and pictures are named."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        before, after = {name: before}, {name: after}
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) == after.get(key):
            continue
        what = f"{name}: {key}" if key != name else name
        if name in ("model", "base_weights"):
            yield f"{what}: not what the saved run had"
        elif name == "pairs":
            change = "is new" if key not in before else "is missing" if key not in after else "has changed"
            yield f"{what} or its caption {change}"
        else:
            yield f"{what} was {_shown(before.get(key))} in the saved run and is {_shown(after.get(key))} now"


def _shown(value: object) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return "not set" if value is None else printable(value, 80)


def initial_rates(session: Session) -> list[float]:
    """The learning rates that the options ask for, by parameter group, before a state is loaded."""
    return [float(group.get("initial_lr", group["lr"]) or 0.0) for group in session.optimizer.param_groups]


def apply_rates(session: Session, rates: Sequence[float]) -> None:
    """Lets new rates or another schedule count from here on: a loaded optimizer brings its old ones."""
    schedule = getattr(session.lr_scheduler, "scheduler", session.lr_scheduler)
    lambdas = getattr(schedule, "lr_lambdas", None)
    if lambdas is None:  # AdaFactor's, which finds its own
        return
    schedule.base_lrs = [*rates]
    for group, rate, factor in zip(session.optimizer.param_groups, rates, lambdas, strict=True):
        group["initial_lr"] = rate
        group["lr"] = rate * factor(schedule.last_epoch)
    schedule._last_lr = [group["lr"] for group in session.optimizer.param_groups]
