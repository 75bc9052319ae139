"""``python -m convert``."""

import io
import sys

from pair_network.files import with_home
from pair_network.signals import run_main

INSTALLED = ("webui", "comfyui")


def main() -> int:
    """Runs the command line; the verbs are imported here, so that a signal during that is one line too."""
    for stream in (sys.stdout, sys.stderr):
        # File names and texts hold any character; a console or pipe of a narrower encoding must not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.argv[1:] = with_home(sys.argv[1:])
    if sys.argv[1:2] and sys.argv[1] in INSTALLED:
        from .verbs.install import main as install  # needs the standard library alone

        return install(sys.argv[1:])
    from .cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(run_main(main))
