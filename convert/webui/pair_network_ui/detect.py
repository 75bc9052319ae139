"""Which UI this is, told by what can be imported: the forks share names, and each has dropped or moved some parts."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from lib_pair_network.errors import GuidanceError

KNOWN = "A1111 1.10 or later, Forge, Forge Neo, Forge Classic and reForge"
PATCHER = (("backend.sampling",), ("ldm_patched.modules.samplers", "modules_forge.forge_sampler"))
CALLBACKS = ("modules.sd_samplers_cfg_denoiser", "modules.script_callbacks")


def find_sampling() -> ModuleType:
    """The adapter for this UI's sampling: its ``register`` and ``before_sampling``.

    Forge and its descendants have a patcher of the U-Net that takes functions; they also offer A1111's callbacks, some
    of which they never call, so the patcher comes first.

    Raises:
        GuidanceError: The UI has neither, or what it has is not what the adapter needs.
    """
    if any(all(map(has_module, names)) for names in PATCHER):
        name = "forge"
    elif all(map(has_module, CALLBACKS)):
        name = "a1111"
    else:
        raise GuidanceError(f"this UI's sampling is not known; style guidance works in {KNOWN}")
    try:
        return import_module(f"{__package__}.{name}")
    except ImportError as cause:
        raise GuidanceError(
            f"this UI lacks what style guidance needs ({cause}); it works in {KNOWN}: update the UI or the extension"
        ) from cause


def has_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # a package on the way there is missing, or cannot be imported itself
        return False
