"""Ctrl-C and SIGTERM, noticed at the end of a step instead of in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

import torch
from accelerate import Accelerator

from pair_network import signals


class Interrupt:
    """Inside the block the first signal is only noted; one more than ``signals.GRACE`` seconds later ends at once."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.signum = 0
        self._first = 0.0
        self._may_break_off = False
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Interrupt:
        self._open.enter_context(signals.handled(self._note))
        # A library may have passed over the exception of one that came before.
        self.signum, self._first = signals.received(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        signals.outlive_terminal(signum)
        if self.signum == 0:
            self.signum, self._first = signum, time.monotonic()
            if self.accelerator.is_local_main_process:
                signals.say("finishing this step, then saving; the same again in a few seconds stops at once")
            if self._may_break_off:
                raise signals.Interrupted(signum)
        elif time.monotonic() - self._first > signals.GRACE:
            for each in signals.signals():
                signal.signal(each, signal.SIG_DFL)
            raise SystemExit(128 + signum)  # an exception, so that half-written files are removed

    @contextlib.contextmanager
    def may_break_off(self) -> Iterator[None]:
        """Nothing depends on what runs inside: the first signal ends the block, and the program goes on behind it."""
        try:
            self._may_break_off = True
            yield
        except (signals.Interrupted, Exception):
            if not self.signum:  # else the signal's exception, or what a library has made of it
                raise
        finally:
            self._may_break_off = False

    def requested(self) -> bool:
        """Whether any process of the run got a signal; all processes call this after the same step."""
        if self.accelerator.num_processes > 1:
            # a process that was not signalled itself adds nothing
            own = torch.tensor([float(self.signum)], device=self.accelerator.device)
            highest = int(self.accelerator.gather(own).max().item())
            # One that came while the others were asked is theirs to hear of after the next step.
            self.signum = highest or self.signum
            return highest != 0
        return self.signum != 0

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells count: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum
