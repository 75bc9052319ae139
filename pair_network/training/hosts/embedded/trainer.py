"""The embedded host's trainer: its hooks, and the order of a run."""

from __future__ import annotations

import argparse
import secrets

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, set_seed

from .config_file import verify
from .dataset import make_dataset_group
from .hooks import TrainerHooks
from .loop import TrainingLoop
from .setup import attach_network, load_session
from .state import adopt_seed


class EmbeddedTrainer(TrainerHooks):
    """Trains a network module on Stable Diffusion 1.x or 2.x."""

    def train(self, args: argparse.Namespace) -> None:
        """Runs the whole training that the options describe.

        Raises:
            PairError: A mistake in the options, the dataset, the model or the network's settings.
            SystemExit: The run was interrupted, after its state was saved (130: Ctrl-C, 143: SIGTERM).
        """
        verify(args)
        adopt_seed(args)
        if args.seed is None:
            PartialState()  # one seed for all processes: the order of the data follows from it
            args.seed = broadcast_object_list([secrets.randbelow(2**32)])[0]
        set_seed(args.seed)
        dataset = make_dataset_group(args.dataset_config, args, args.seed)
        self.resolution = dataset.datasets[0].config.resolution
        self.assert_extra_args(args, dataset, None)
        session = load_session(self, args, dataset)
        attach_network(self, session)
        TrainingLoop(self, session).run()
