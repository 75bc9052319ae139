"""Signals that ask a program to end: Ctrl-C, SIGTERM, a closed terminal. Until something else is agreed they end it
cleanly: temporary files are removed, one line is said, and the status is 128 + the signal's number.

``timeout``, a terminal and SLURM signal a whole process group, some of its members twice; launchers pass on what they
got. So several signals within ``GRACE`` seconds are one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

GRACE = 2.0
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # the last one is Windows' Ctrl-Break
Handler = Callable[[int, FrameType | None], object]


class Interrupted(KeyboardInterrupt):
    """A signal ended what was running."""

    def __init__(self, signum: int):
        super().__init__(f"signal {signum}")
        self.signum = signum


_received = 0
_first = 0.0  # when


def received() -> int:
    """The signal that has ended what was running, 0 for none: libraries turn its exception into one of their own."""
    return _received


def exit_status(stop: KeyboardInterrupt) -> int:
    """128 + signal, as shells count: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (stop.signum if isinstance(stop, Interrupted) else signal.SIGINT)


def signals() -> list[int]:
    """Those that this system has and that nobody has turned off (``nohup`` ignores the terminal's end)."""
    numbers = [int(getattr(signal, name)) for name in NAMES if hasattr(signal, name)]
    hangup = getattr(signal, "SIGHUP", None)
    return [n for n in numbers if n != hangup or signal.getsignal(n) is not signal.SIG_IGN]


@contextlib.contextmanager
def handled(handler: Handler | signal.Handlers) -> Iterator[None]:
    """Inside the block the signals come to ``handler``; outside the main thread nothing changes."""
    before = {}
    for signum in signals():
        with contextlib.suppress(ValueError):  # not the main thread: a signal ends the program the usual way
            before[signum] = signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, signal.SIG_DFL if old is None else old)


def end_cleanly() -> None:
    """From here on a signal raises ``Interrupted`` where the program is, and a closed terminal is no error."""
    for signum in signals():
        signal.signal(signum, _raise)
    sys.unraisablehook = _unraised


def _raise(signum: int, frame: FrameType | None) -> None:
    global _received, _first
    outlive_terminal(signum)
    if _received and time.monotonic() - _first <= GRACE:
        return  # the same one: raised once more, it would break off what the first lets the program clean up
    _received, _first = signum, time.monotonic()
    raise Interrupted(signum)


def _unraised(failure: sys.UnraisableHookArgs) -> None:
    """Python passes over what is raised while it removes an object: a signal is given again, a moment later."""
    global _first
    if not isinstance(failure.exc_value, Interrupted):
        sys.__unraisablehook__(failure)
        return
    _first = -GRACE
    again = threading.Timer(0.05, _tell_program, [failure.exc_value.signum])
    again.daemon = True
    again.start()


def _tell_program(signum: int) -> None:
    if os.name == "nt":
        signal.raise_signal(signum)
    else:  # its main thread, which wakes up from what it waits for
        signal.pthread_kill(threading.main_thread().ident or 0, signum)


def outlive_terminal(signum: int) -> None:
    """After SIGHUP, output to the terminal goes nowhere; writing to it would be an error now."""
    if signum == getattr(signal, "SIGHUP", None):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            with contextlib.suppress(OSError):
                if os.isatty(stream):
                    os.dup2(nowhere, stream)
        os.close(nowhere)


def say(text: str) -> None:
    """A line on stderr from within a handler, where Python's own streams may be in the middle of a write."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def become(command: list[str]) -> int:
    """Runs a command in the place of this program: it gets every signal itself, and its status is this one's."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    process = subprocess.Popen(command)  # Windows has no other program in the same place
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the console tells the command too
            continue


def run_main(main: Callable[[], int]) -> int:
    """A program's exit status; a signal that ends it, or comes after its end, is one line or none and no traceback."""
    end_cleanly()
    try:
        return main()
    except BaseException as failure:
        if isinstance(failure, Exception) and received():
            failure = Interrupted(received())  # what a library made of the signal's own exception
        if not isinstance(failure, KeyboardInterrupt):
            raise
        _hear_nothing()
        print("stopped; what was saved before is whole", file=sys.stderr)
        return exit_status(failure)
    finally:
        atexit.register(_hear_nothing)  # before the libraries' own last words, which it would break off


def _hear_nothing() -> None:
    """For a program that is at its end: told once more, there is nothing left to end."""
    for signum in signals():
        signal.signal(signum, signal.SIG_IGN)
