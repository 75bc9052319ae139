"""What the bench compares: each method's trainer and options, at the same number of updates x rows."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.quality import rivals
from pair_network.training.hosts.embedded.entry import PairTrainer

# Pairs per step and steps of the preset, and updates x rows of a whole run: a third with the content alone, then both.
PAIRS, STEPS = 4, 120
ROW_UPDATES = (STEPS // 3 + 2 * (STEPS - STEPS // 3)) * PAIRS

LAYERS = "targets=attention+ff+conv"


@dataclass(frozen=True)
class Method:
    """One way to learn a style.

    Attributes:
        title: name in tables and pictures.
        trainer: the class that trains it.
        rows: rows that carry gradients in an average update, as a multiple of the pairs per step.
        learning_rate: the best of `--search` (benchmarks/results/quality/search.md).
        options: further options of the training command.
        network_args: in place of the preset's.
        uses_words: whether it is trained with the style words, and so prompted with them.
        num_pairs: how many training pairs it gets.
    """

    title: str
    trainer: type[PairTrainer] = PairTrainer
    rows: float = ROW_UPDATES / STEPS / PAIRS
    learning_rate: float = 1.5e-3
    options: tuple[str, ...] = ()
    network_args: tuple[str, ...] = ("orthogonality=penalty", LAYERS)
    uses_words: bool = True
    num_pairs: int = 1

    @property
    def steps(self) -> int:
        """Updates that make up the common budget."""
        return round(ROW_UPDATES / (self.rows * PAIRS))


def length_options(steps: int) -> tuple[str, ...]:
    """Options of a training of so many updates, a third of them with the content alone."""
    return "--max_train_steps", str(steps), "--style_start_step", str(steps // 3)


FREE = ("orthogonality=none", LAYERS)
FROZEN = ("orthogonality=frozen", LAYERS)

RIVALS: dict[str, Method] = {
    "ours": Method("Pair Network"),
    "official": Method("official recipe", rivals.Official, learning_rate=4e-3, network_args=FROZEN),
    "plain": Method("plain LoRA", rivals.PlainLora, 1, 5e-4, network_args=FREE),
    "copier": Method("copier LoRA", rivals.Copier, 1, network_args=FREE, uses_words=False),
    "addift": Method("ADDifT", rivals.Addift, 1, 1e-2, network_args=FREE, uses_words=False),
    "slider": Method("image slider", rivals.Slider, 2, 5e-4, network_args=FREE, uses_words=False),
    "pairedit": Method("difference target", rivals.DifferenceTarget, 1, network_args=FREE, uses_words=False),
}
# The recipe as its authors' script has it: attention layers alone. In the fair form (fair.py).
RELEASED = Method(
    "official as released", rivals.Official, learning_rate=4e-3, network_args=(FROZEN[0], "targets=attention")
)
ABLATIONS: dict[str, Method] = {
    "no_content": Method("no content branch", rivals.PlainLora, rows=1),
    "no_orthogonality": Method("no orthogonality", network_args=FREE),
    "frozen": Method("frozen orthogonal rows", network_args=FROZEN),
    "sequential": Method("content frozen after warm-up", rivals.Sequential, rows=1),
    "rank_4": Method("rank 4", options=("--network_dim", "4", "--network_alpha", "4")),
    "rank_24": Method("rank 24", options=("--network_dim", "24", "--network_alpha", "24")),
    "attention": Method("attention only", network_args=("orthogonality=penalty", "targets=attention")),
    "no_convolutions": Method("no convolutions", network_args=("orthogonality=penalty", "targets=attention+ff")),
    "no_warm_up": Method("no warm-up", rows=2, options=("--style_start_step", "0")),
    "long_warm_up": Method("two thirds warm-up", rows=4 / 3, options=("--style_start_step", "80")),
    "three_pairs": Method("three pairs", num_pairs=3),
}
METHODS: dict[str, Method] = RIVALS | ABLATIONS | {"released": RELEASED}
