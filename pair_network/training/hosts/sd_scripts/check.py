"""``python -m pair_network.training.hosts.sd_scripts.check DIR``: a checkout beside what pair training relies on."""

from __future__ import annotations

import sys

from pair_network.errors import PairError

from ..contract import HOOKS, SD_SCRIPTS_HOOKS, Comparison, compare, report
from .entry import import_sd_scripts
from .families import TRAINERS

# Members of the dataset class, and functions of library.train_util.
DATASET: dict[str, tuple[str, ...]] = {
    "new_cache_latents": ("model", "accelerator"),
    "new_cache_text_encoder_outputs": ("models", "accelerator"),
    "process_caption": ("subset", "caption"),
    "__getitem__": ("index",),
}
FUNCTIONS: dict[str, tuple[str, ...]] = {
    "verify_command_line_training_args": ("args",),
    "read_config_from_file": ("args", "parser"),
    "load_prompts": ("prompt_file",),
    "get_optimizer": ("args", "trainable_params"),
    "get_scheduler_fix": ("args", "optimizer", "num_processes"),
}


def compare_checkout(checkout: str) -> list[Comparison]:
    """Everything that pair training relies on in a checkout of sd-scripts, family by family.

    Raises:
        PairError: The folder is no checkout, or its packages are missing.
    """
    import_sd_scripts(checkout)
    from library import train_util  # of the checkout

    comparisons = [*compare("library.train_util", train_util, FUNCTIONS)]
    comparisons += compare("DreamBoothDataset", train_util.DreamBoothDataset, DATASET)
    for module, name in dict.fromkeys((each.module, each.trainer) for each in TRAINERS.values()):
        try:
            trainer = getattr(import_sd_scripts(checkout, module), name)
        except PairError:
            comparisons.append(Comparison(name, "(the class)", (), None))
            continue
        comparisons += compare(name, trainer, {**HOOKS, **SD_SCRIPTS_HOOKS})
    return comparisons


def main(argv: list[str]) -> int:
    """Prints the comparison; 1 when something is missing or changed."""
    if len(argv) != 1:
        print("usage: python -m pair_network.training.hosts.sd_scripts.check SD_SCRIPTS_DIR", file=sys.stderr)
        return 2
    try:
        comparisons = compare_checkout(argv[0])
    except PairError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    return report(comparisons)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
