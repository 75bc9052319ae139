"""What to do with a trained file where a UI does not read it as it is."""

from __future__ import annotations

import logging

from pair_network.families import FAMILIES, Musubi, SdScripts

logger = logging.getLogger(__name__)


def say_what_to_convert(trained: SdScripts | Musubi, file: str) -> None:
    """One line for each UI that leaves out a part of the trainer's file, with the command whose file it reads.

    Args:
        trained: The trainer's record of the family.
        file: The LoRA, as a command would name it.
    """
    family = next((each for each in FAMILIES.values() if trained in (each.sd_scripts, each.musubi)), None)
    if family is None:
        return
    for ui, verb in family.to_convert().items():
        logger.info(
            "%s does not apply all of a %s LoRA with kohya's names; for it: python -m convert %s %s",
            "diffusers' load_lora_weights" if ui == "diffusers" else ui, family.title, verb, file,
        )  # fmt: skip
