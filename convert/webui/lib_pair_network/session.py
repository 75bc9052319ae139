"""One generation's guidance: its styles, what was prepared for the current sampling, and what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import GuidanceError
from .guidance import is_in_interval, schedule_progress
from .hooks import LoraHooks
from .lora_file import Layer, read_style
from .settings import Request, Style

log = logging.getLogger(__name__)


@dataclass
class Run:
    """A style in one sampling.

    Attributes:
        style: Its settings.
        hooks: Its LoRA, bound to the model that samples.
        cond: The UI's own schedule of conditionings of the style's prompts.
    """

    style: Style
    hooks: LoraHooks
    cond: Any


class Session:
    """State of one generation. It hangs on the UI's processing object and goes with it.

    Attributes:
        request: What was asked for.
        runs: Styles of the sampling that is under way.
        model: Identity of the model that they are bound to.
        entered: Part of the noise schedule that this sampling leaves out at the beginning.
        calls: Style predictions made in this batch.
        failure: Why guidance ended, None while it works.
        scratch: The adapter's own state of the sampling.
    """

    def __init__(self, request: Request, paths: dict[str, Path], show: Callable[[str, bool], None]) -> None:
        """Binds the request to files.

        Args:
            request: What was asked for.
            paths: LoRA name -> file, for every style.
            show: Shows a line to the user in UI and infotext; True: it is a failure.
        """
        self.request = request
        self.runs: list[Run] = []
        self.model: Any = None
        self.entered = 0.0
        self.calls = 0
        self.failure: str | None = None
        self.scratch: Any = None
        self._paths = paths
        self._show = show
        self._files: dict[Path, dict[str, Layer]] = {}

    def prepare(self, model: Any, encode: Callable[[Style], Any], identity: Any, entered: float) -> None:
        """Starts a sampling: binds every LoRA to the model and encodes every style's prompts.

        Args:
            model: The U-Net or transformer, whose modules have their original names.
            encode: Gives the conditionings of a style.
            identity: What tells this model from one that replaces it halfway.
            entered: See the attribute.
        """
        self.runs = []
        runs = []
        for style in self.request.styles:
            path = self._paths[style.lora]
            if path not in self._files:
                self._files[path] = read_style(path)
            runs.append(Run(style, LoraHooks(model, self._files[path], path.name), encode(style)))
        self.runs, self.model, self.entered = runs, identity, entered

    def active(self, call: int, calls: int) -> list[Run]:
        """The styles that act on model call number ``call`` of ``calls``."""
        if self.failure:
            return []
        progress = schedule_progress(call, calls, self.entered)
        return [
            run for run in self.runs if run.style.scale and is_in_interval(progress, run.style.start, run.style.end)
        ]

    def has_plain_content(self, call: int, calls: int) -> bool:
        """Whether the content's CFG is 1 on model call number ``call`` of ``calls``."""
        if self.failure or self.model is None or self.request.cfg_end >= 1:
            return False
        return schedule_progress(call, calls, self.entered) >= self.request.cfg_end

    def fail(self, reason: str) -> None:
        """Ends guidance for this generation and shows why."""
        if self.failure is None:
            self.failure = reason
            self.runs = []
            log.error("style guidance: %s", reason)
            self._show(reason, True)

    def note(self, line: str) -> None:
        self._show(line, False)

    @contextmanager
    def guarded(self, place: str) -> Iterator[None]:
        """Turns any exception into a failure that is shown.

        Both UIs print exceptions of extensions to the console and go on, which would give an unguided picture without
        a word: hence everything is caught here, interruptions (BaseException) excepted.
        """
        try:
            yield
        except GuidanceError as cause:
            self.fail(str(cause))
        except Exception as cause:
            log.exception("style guidance failed in %s", place)
            self.fail(f"{place}: {type(cause).__name__}: {cause}")

    def check_batch(self) -> None:
        """Shows it when a whole batch was made without a single style prediction."""
        if self.failure is None and self.calls == 0 and any(style.scale for style in self.request.styles):
            self.fail("no step was guided: none lies between start and end, or this sampler calls no guidance")
        self.calls = 0

    def end(self) -> None:
        """Lets go of model and files."""
        self.runs, self.model, self.scratch, self._files = [], None, None, {}
