"""Prompts for the previews of a run that names none: of subjects that the training pair does not show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pair_network.files import write_text

from .check.run import is_small

SUBJECTS = ("cat", "house", "flower", "car", "tree", "woman")
COUNT = 3
FILE = "prompts.txt"
FEW_STEPS = " --s 12"  # of sampling: a model that trains in a minute must not draw for longer


def default_prompts(content_prompt: str) -> list[str]:
    """Three prompts; none names what the photo shows."""
    shown = set(re.findall(r"\w+", content_prompt.casefold()))
    return [f"a photo of a {subject}" for subject in SUBJECTS if subject not in shown][:COUNT]


def write_default_prompts(args: Any) -> Path | None:
    """Writes them beside the run's dataset where previews are wanted at intervals and no prompts are named.

    Args:
        args: The host's options.

    Returns:
        The file for --sample_prompts; None where there is nothing to write.
    """
    rhythms = ("sample_every_n_steps", "sample_every_n_epochs", "sample_at_first")
    is_wanted = any(getattr(args, name, None) for name in rhythms)
    if args.content is None or getattr(args, "sample_prompts", None) or not is_wanted:
        return None
    path = Path(args.output_dir) / f"{args.output_name or 'last'}-dataset" / FILE
    suffix = FEW_STEPS * is_small(getattr(args, "pretrained_model_name_or_path", None))
    lines = [prompt + suffix for prompt in default_prompts(args.content_prompt or "")]
    write_text(path, "\n".join(lines) + "\n")
    return path
