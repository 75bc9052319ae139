"""The learning rates that a host hands over: which of them no layer takes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

logger = logging.getLogger(__name__)

TRAINS = {"unet_lr": "targets=attention", "text_encoder_lr": "targets=attention+text_encoder"}


def one_rate(rates: float | Sequence[float] | None) -> float | None:
    """The rate of all text encoders: the first where a host has one for each; says so where they differ."""
    if not isinstance(rates, Sequence):
        return rates
    if len(set(rates)) > 1:
        logger.warning("text_encoder_lr: the first of its rates, %g, holds for every text encoder", rates[0])
    return rates[0] if rates else None


def warn_of_unused_rates(unet_lr: float | None, text_encoder_lr: float | None, parts: Collection[bool]) -> None:
    """Says of a rate that was given that no layer is trained with it; ``parts``: whether in a text encoder."""
    for option, rate, in_text_encoder in (("unet_lr", unet_lr, False), ("text_encoder_lr", text_encoder_lr, True)):
        if rate and in_text_encoder not in parts:
            words = "%s=%g is not used: no such layer is trained; --network_args %s adds them"
            logger.warning(words, option, rate, TRAINS[option])
