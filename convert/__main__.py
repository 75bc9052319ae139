"""``python -m convert``."""

import io
import sys

from pair_network.signals import run_main


def main() -> int:
    """Runs the command line; the verbs are imported here, so that a signal during that is one line too."""
    for stream in (sys.stdout, sys.stderr):
        # File names and texts hold any character; a console or pipe of a narrower encoding must not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    from .cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(run_main(main))
