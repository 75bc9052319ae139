"""Which release a trainer's checkout is, and whether it is newer than the newest that was tested."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

Release = tuple[int, ...]


@dataclass(frozen=True)
class Trainer:
    """A trainer that is brought as a checkout.

    Attributes:
        name: As its repository is called.
        tested: The newest release whose marked tests passed.
        file, pattern: Where a checkout says its release: the first match's only group.
    """

    name: str
    tested: str
    file: str
    pattern: str


SD_SCRIPTS = Trainer("sd-scripts", "0.11.1", "README.md", r"\*\*Version (\d+(?:\.\d+)+)")
MUSUBI = Trainer("musubi-tuner", "0.3.4", "pyproject.toml", r'(?m)^version = "(\d+(?:\.\d+)+)"')


def release_of(trainer: Trainer, checkout: str | Path) -> str | None:
    """The release that a checkout's own files name, or None where they name none."""
    path = Path(checkout) / trainer.file
    if not path.is_file():
        return None
    match = re.search(trainer.pattern, path.read_text(encoding="utf-8", errors="replace"))
    return match[1] if match else None


def warn_if_newer(trainer: Trainer, checkout: str | Path) -> None:
    """One line for a checkout that is newer than what was tested; the hooks are compared in any case."""
    release = release_of(trainer, checkout)
    if release is not None and _numbers(release) > _numbers(trainer.tested):
        logger.warning(
            "%s %s is newer than %s, the newest that pair training was tested on; going on, since it has every hook",
            trainer.name, release, trainer.tested,
        )  # fmt: skip


def _numbers(release: str) -> Release:
    return tuple(int(part) for part in release.split("."))
