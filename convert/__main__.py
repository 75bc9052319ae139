"""``python -m convert``."""

import io
import signal
import sys

from .cli import main

if __name__ == "__main__":
    # Ended from outside as with Ctrl-C: nothing half-written stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        # File names and texts hold any character; a console or pipe of a narrower encoding must not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
