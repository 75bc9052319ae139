"""The check before a run: its pairs, words and rate, said in a second and drawn in one picture."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from pair_network.training.prepare import Pair

from .findings import Finding, pair_findings, raise_first_error, rate_findings, words_findings

logger = logging.getLogger(__name__)

MOST = 64  # pairs whose images are compared; of thousands the first tell enough
USUAL_RATE, SMALL_MODEL_RATE = 5e-5, 3e-3
SMALL_MODEL = 100_000_000  # bytes of a denoiser's weights


def run_findings(
    pairs: list[Pair],
    content_prompt: str | None = None,
    style_prompt: str | None = None,
    learning_rate: float | None = None,
    optimizer: str = "",
    model: str | None = None,
    fit: str = "error",
    background: str = "white",
) -> list[Finding]:
    """Everything that there is to say about a run before it starts.

    Raises:
        PairError: An image cannot be read, or two do not fit together.
    """
    found = [finding for pair in pairs[:MOST] for finding in pair_findings(pair, fit, background)]
    found += words_findings(content_prompt, style_prompt)
    found += rate_findings(learning_rate, optimizer, usual_rate(model))
    return found


def usual_rate(model: str | None) -> float:
    """AdamW's usual learning rate: small models need larger ones."""
    return SMALL_MODEL_RATE if is_small(model) else USUAL_RATE


def is_small(model: str | None) -> bool:
    """Whether a checkpoint, or the denoiser of a diffusers folder, is smaller than any that people draw with."""
    path = Path(model or "")
    files = [path] if path.suffix == ".safetensors" and path.is_file() else [*path.glob("unet/*.safetensors")]
    return bool(model and files) and sum(file.stat().st_size for file in files) < SMALL_MODEL


def say(findings: Iterable[Finding], strictly: bool = True) -> None:
    """Logs the findings.

    Raises:
        PairError: The first error among them, if ``strictly``.
    """
    findings = list(findings)
    for finding in findings:
        logger.log(logging.INFO if finding.level == "note" else logging.WARNING, "%s", finding.text)
    if strictly:
        raise_first_error(findings)
