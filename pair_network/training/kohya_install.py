"""--sd_scripts auto: the checkout and the environment that kohya_ss GUI brings, or a checkout in a usual place."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pair_network.errors import PairError
from pair_network.starting import PROJECT

PYTHONS = ("venv/bin/python", ".venv/bin/python", "venv/Scripts/python.exe", ".venv/Scripts/python.exe")


@dataclass(frozen=True)
class Installation:
    """sd-scripts on this machine.

    Attributes:
        checkout: Its folder.
        python: The Python of the environment that it came with, or None: the one that runs now.
    """

    checkout: Path
    python: Path | None


def usual_places() -> list[Path]:
    """Folders in which people keep kohya_ss or sd-scripts: here, beside this project, at home."""
    named = os.environ.get("KOHYA_SS_DIR")
    home = Path.home()
    places = [Path(named)] if named else []
    places += [Path.cwd(), Path.cwd().parent, PROJECT.parent, home, home / "StabilityMatrix/Packages"]
    return [*places, Path("/workspace"), *(Path(f"{drive}:/") for drive in "CD" if os.name == "nt")]


def find_installation(places: Iterable[Path]) -> Installation:
    """The first sd-scripts in the places: that of kohya_ss GUI, or a checkout of its own.

    Raises:
        PairError: There is none.
    """
    places = list(places)
    for checkout in _candidates(places):
        if (checkout / "train_network.py").is_file():
            pythons = (folder / python for folder in (checkout.parent, checkout) for python in PYTHONS)
            return Installation(checkout, next((path for path in pythons if path.is_file()), None))
    looked = ", ".join(dict.fromkeys(map(str, places)))
    raise PairError(
        f"--sd_scripts auto: neither kohya_ss/sd-scripts nor sd-scripts is in {looked}; name the folder with "
        "--sd_scripts DIR, or that of kohya_ss with KOHYA_SS_DIR"
    )


def _candidates(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        yield place / "sd-scripts"
        yield place / "kohya_ss" / "sd-scripts"


def needs_restart(installation: Installation) -> bool:
    """Whether another Python than the running one has sd-scripts' packages."""
    # A virtual environment's python is a link to the one it was made from: their folders tell them apart.
    return installation.python is not None and installation.python.parent.absolute() != Path(sys.executable).parent
