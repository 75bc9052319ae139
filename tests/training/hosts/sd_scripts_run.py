"""Runs in sd-scripts' own environment: trains a tiny model of its own classes on kohya's trainer of the family.

Arguments: the checkout, the project's folder, then sd-scripts' own options. PAIR_PATCH names a module of this folder
whose ``patch(host)`` is called first.
"""

import importlib
import os
import sys
from pathlib import Path


def main():
    checkout, project, *options = sys.argv[1:]
    sys.path[:0] = [project, str(Path(__file__).parent)]
    import sd_scripts_tiny

    from pair_network.training.hosts.sd_scripts import entry as sd_scripts
    from pair_network.training.hosts.sd_scripts.families import trainer_of

    family = trainer_of(options[options.index("--model_type") + 1])
    host = sd_scripts.import_sd_scripts(checkout, family.module)
    mixin = sd_scripts_tiny.MIXINS["flux" if family.model_type == "chroma" else family.model_type]
    tiny = type(
        "TinyTrainer",
        (
            mixin,
            getattr(host, family.trainer),
        ),
        {},
    )
    setattr(host, family.trainer, tiny)
    if os.environ.get("PAIR_PATCH"):
        importlib.import_module(os.environ["PAIR_PATCH"]).patch(host)
    try:
        if os.environ.get("PAIR_STOCK"):  # what the checkout's own script does when it is started
            stock_main(host, tiny, options)
        elif os.environ.get("PAIR_LAUNCH"):  # as train_pair_network.py does, before a host is chosen
            from pair_network.training import launch

            sys.exit(launch.train(["--sd_scripts", checkout, *options]))
        else:
            sd_scripts.train(checkout, options)
    except sd_scripts.PairError as mistake:
        sys.exit(f"error: {mistake}")


def stock_main(host, trainer, options):
    from library import train_util

    at = options.index("--model_type")
    sys.argv[1:] = options[:at] + options[at + 2 :]
    parser = host.setup_parser()
    args = parser.parse_args()
    train_util.verify_command_line_training_args(args)
    trainer().train(train_util.read_config_from_file(args, parser))


if __name__ == "__main__":
    main()
