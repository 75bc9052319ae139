"""What the bench compares: each method's trainer and options, at the same number of updates x rows."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.quality import hypotheses, rivals
from pair_network.hosts.embedded.entry import PairTrainer

# Pairs per step in the preset, and updates x rows of a whole run of it: 80 steps of content alone, 160 of both.
PAIRS = 8
ROW_UPDATES = 80 * PAIRS + 160 * 2 * PAIRS


@dataclass(frozen=True)
class Method:
    """One way to learn a style.

    Attributes:
        title: name in tables and pictures.
        trainer: the class that trains it.
        rows: rows that carry gradients in an average update, as a multiple of the pairs per step.
        learning_rate: a first guess until `--search` has found it.
        options: further options of the training command.
        network_args: in place of the preset's.
        uses_words: whether it is trained with the style words, and so prompted with them.
        num_pairs: how many training pairs it gets.
    """

    title: str
    trainer: type[PairTrainer] = PairTrainer
    rows: float = ROW_UPDATES / 240 / PAIRS
    learning_rate: float = 5e-3
    options: tuple[str, ...] = ()
    network_args: tuple[str, ...] = ("orthogonality=frozen", "targets=attention+ff")
    uses_words: bool = True
    num_pairs: int = 1

    @property
    def steps(self) -> int:
        """Updates that make up the common budget."""
        return round(ROW_UPDATES / (self.rows * PAIRS))


FREE = ("orthogonality=none", "targets=attention+ff")

RIVALS: dict[str, Method] = {
    "ours": Method("Pair Network"),
    "official": Method("official recipe", rivals.Official),
    "plain": Method("plain LoRA", rivals.PlainLora, rows=1, learning_rate=2e-3, network_args=FREE),
    "copier": Method("copier LoRA", rivals.Copier, 1, 2e-3, network_args=FREE, uses_words=False),
    "addift": Method("ADDifT", rivals.Addift, 1, 2e-3, network_args=FREE, uses_words=False),
    "slider": Method("image slider", rivals.Slider, 2, 2e-3, network_args=FREE, uses_words=False),
    "pairedit": Method("difference target", rivals.DifferenceTarget, 1, 2e-3, network_args=FREE, uses_words=False),
}
ABLATIONS: dict[str, Method] = {
    "no_content": Method("no content branch", rivals.PlainLora, rows=1),
    "no_orthogonality": Method("no orthogonality", learning_rate=2e-3, network_args=FREE),
    "penalty": Method(
        "overlap penalty", learning_rate=2e-3, network_args=("orthogonality=penalty", "targets=attention+ff")
    ),
    "sequential": Method("content frozen after warm-up", rivals.Sequential, rows=1),
    "rank_4": Method("rank 4", options=("--network_dim", "4", "--network_alpha", "4")),
    "rank_24": Method("rank 24", options=("--network_dim", "24", "--network_alpha", "24")),
    "attention": Method("attention only", network_args=("orthogonality=frozen", "targets=attention")),
    "all_layers": Method("with convolutions", network_args=("orthogonality=frozen", "targets=attention+ff+conv")),
    "no_warm_up": Method("no warm-up", rows=2, options=("--style_start_step", "0")),
    "long_warm_up": Method("two thirds warm-up", rows=4 / 3, options=("--style_start_step", "200")),
    "three_pairs": Method("three pairs", num_pairs=3),
}
HYPOTHESES: dict[str, Method] = {
    "late_window": Method("style below t 700", hypotheses.LateWindow),
    "clean_weighted": Method("error of the clean latents", hypotheses.CleanWeighted),
    "shared_draws": Method("shared noise and timestep", hypotheses.SharedDraws),
    "residual_target": Method("residual target", hypotheses.ResidualTarget),
    "towards_style": Method("from between the images", hypotheses.TowardsStyle),
    "data_rows": Method("rows from the images", hypotheses.DataRows),
}
METHODS: dict[str, Method] = RIVALS | ABLATIONS | HYPOTHESES
