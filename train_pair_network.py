"""Train a pair LoRA: on kohya's sd-scripts where a checkout is named, on the embedded diffusers host otherwise."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # accelerate launch starts scripts from anywhere

from pair_network.errors import PairError

HOSTS = ("auto", "sd-scripts", "embedded")


def main(argv: list[str] | None = None) -> int:
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--host", choices=HOSTS, default="auto", help="which trainer runs the training")
    chooser.add_argument("--sd_scripts", metavar="DIR", default=os.environ.get("SD_SCRIPTS_DIR") or None)
    choice, rest = chooser.parse_known_args(argv)
    try:
        if choice.host == "sd-scripts" and not choice.sd_scripts:
            raise PairError("--host sd-scripts needs --sd_scripts DIR (or SD_SCRIPTS_DIR), the folder of your checkout")
        if choice.host == "sd-scripts" or (choice.host == "auto" and choice.sd_scripts):
            from pair_network.training.hosts.sd_scripts import entry as sd_scripts

            sd_scripts.train(choice.sd_scripts, rest)
            return 0
        from pair_network.training.hosts import embedded

        return embedded.train(rest)
    except PairError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before the first step; nothing was trained", file=sys.stderr)
        return 130
    except OSError as cause:
        print(
            f"error: {cause.filename or 'a file'}: {cause.strerror or cause}; check space and permissions",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
