"""Runs in musubi-tuner's environment: the names, types and choices of its parsers' options, as JSON.

    python tests/training/hosts/musubi_options.py CHECKOUT PROJECT > tests/training/hosts/musubi_options.json

No help text is kept. "all" holds what every family has; the other lists hold what a family adds or changes.
"""

import argparse
import sys
from pathlib import Path
from unittest import mock


class Caught(Exception):
    pass


def parser_of(module, add_options):
    """The parser that the script's ``main`` builds, with our options."""

    def parse_args(self, *args, **named):
        raise Caught(self)

    setup = module.setup_parser_common
    with (
        mock.patch.object(module, "setup_parser_common", lambda: add_options(setup())),
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
    ):
        try:
            module.main()
        except Caught as caught:
            return caught.args[0]


def main():
    checkout, project = sys.argv[1:]
    sys.path[:0] = [project, str(Path(__file__).parent)]
    from sd_scripts_options import described, print_lists

    from pair_network.training.hosts.musubi.entry import add_options, import_musubi
    from pair_network.training.hosts.musubi.families import TRAINERS

    print_lists(
        {
            family.model_type: {
                action.dest: described(action)
                for action in parser_of(import_musubi(checkout, family.module), add_options)._actions
                if action.dest != "help"
            }
            for family in TRAINERS.values()
        }
    )


if __name__ == "__main__":
    main()
