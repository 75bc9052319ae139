"""Ctrl-C and SIGTERM, noticed at the end of a step instead of in the middle of one."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator


class Interrupt:
    """Inside the block, the first signal is only noted; a second one ends the program at once."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.signum = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for name in ("SIGINT", "SIGTERM"):
            signum = getattr(signal, name)
            try:
                self.before[signum] = signal.signal(signum, self._note)
            except ValueError:
                # not the main thread: a signal ends the program the usual way
                continue
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        signal.signal(signum, signal.SIG_DFL)
        if self.accelerator.is_local_main_process:
            print("\nfinishing this step, then saving; once more to stop at once", file=sys.stderr, flush=True)

    def requested(self) -> bool:
        """Whether any process of the run got a signal; all processes call this after the same step."""
        if self.accelerator.num_processes > 1:
            # a process that was not signalled itself adds nothing
            highest = torch.tensor([float(self.signum)], device=self.accelerator.device)
            self.signum = int(self.accelerator.gather(highest).max().item())
        return self.signum != 0

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells count: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum
