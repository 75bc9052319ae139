"""The embedded host's trainer: its hooks, and the order of a run."""

from __future__ import annotations

import argparse
from dataclasses import replace

from accelerate import PartialState
from accelerate.utils import set_seed

from .config import EmbeddedOptions, frozen
from .config_file import verify
from .dataset import DatasetGroup, make_dataset_group
from .hooks import TrainerHooks
from .loop import TrainingLoop
from .model import read_model_facts, with_model_facts
from .model_files import find_model
from .optimizers import with_own_schedule
from .session import steps_per_epoch
from .setup import attach_network, load_session
from .state import seed_of, style_start_of


class EmbeddedTrainer(TrainerHooks):
    """Trains a network module on Stable Diffusion 1.x, 2.x or XL."""

    def train(self, args: argparse.Namespace | EmbeddedOptions) -> None:
        """Runs the whole training that the options describe.

        Raises:
            PairError: A mistake in the options, the dataset, the model or the network's settings.
            SystemExit: The run was interrupted, after its state was saved (130: Ctrl-C, 143: SIGTERM).
        """
        options = frozen(args)
        verify(options)
        options = completed(options)
        assert options.seed is not None and options.dataset_config is not None
        set_seed(options.seed)
        dataset = make_dataset_group(options.dataset_config, options, options.seed)
        options = with_steps(options, dataset)
        self.resolution = dataset.datasets[0].config.resolution
        self.assert_extra_args(options, dataset, None)
        session = load_session(self, options, dataset)
        attach_network(self, session)
        TrainingLoop(self, session).run()


def completed(options: EmbeddedOptions) -> EmbeddedOptions:
    """The options with what they leave to the model, the optimizer and the state to resume."""
    files = find_model(options)
    options = with_own_schedule(with_model_facts(options, read_model_facts(files.folder, files.checkpoint)))
    return replace(
        options,
        seed=seed_of(options),
        style_start_step=style_start_of(options),
        cache_latents=options.cache_latents or options.cache_latents_to_disk,
    )


def with_steps(options: EmbeddedOptions, dataset: DatasetGroup) -> EmbeddedOptions:
    """The options with --max_train_epochs counted in steps."""
    if options.max_train_epochs is None:
        return options
    steps = steps_per_epoch(dataset, PartialState().num_processes, options.gradient_accumulation_steps)
    return replace(options, max_train_steps=options.max_train_epochs * steps)
