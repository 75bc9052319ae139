"""A style LoRA or a coupled checkpoint → the files of the official Pair Customization release.

SDXL: pytorch_lora_weights.safetensors in diffusers' first naming, in style_weights/ and content_weights/. FLUX:
style_lora.safetensors and content_lora.safetensors in xflux's naming. Both have a scale of 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from convert.conversion import Conversion
from convert.files import lazy
from convert.files.lazy import Lazy, from_tensor
from convert.files.writer import write_tensors
from convert.formats import metadata
from convert.formats.layers import Adapter, Branch, Layer, fold_alpha, join, split
from convert.formats.names import XFLUX_DOUBLE, XFLUX_SINGLE_PROJ, XFLUX_SINGLE_QKV, xflux_targets
from convert.formats.official_folder import SDXL_LAYERS
from convert.formats.read import read_adapter
from convert.options import Reading, Writing, as_given, of_pair, read_source
from convert.verify import compare
from pair_network.errors import PairError
from pair_network.files import atomic_folder
from pair_network.options import option

from .diffusers import diffusers_tensors, folded

SUFFIX = "-official"
SDXL_FILE = "{branch}_weights/pytorch_lora_weights.safetensors"
FLUX_FILE = "{branch}_lora.safetensors"


@dataclass(frozen=True)
class Options(Writing, Reading):
    """The options of the verb."""

    pair: int = option(0, "which pair's content branch, from 0", int, metavar="N")


def convert(source: Path, target: Path, options: Options) -> list[Path]:
    """Writes the release's files into the folder ``target``; returns the folder.

    Raises:
        PairError: The family has no official release, or a layer has no place in it.
    """
    adapter = read_source(source, options)
    if adapter.family.name not in ("sdxl", "flux"):
        raise PairError(f"{source}: is for {adapter.family.title}; official releases exist for SDXL and FLUX.1 only")
    branches: dict[str, Branch] = {"style": adapter.style}
    if adapter.content:
        branches["content"] = of_pair(adapter, options.pair)
    values = {**metadata.converted(adapter, "official"), "format": "pt"}
    with atomic_folder(target) as folder:
        for name, branch in branches.items():
            tensors, layers = _sdxl(branch, source) if adapter.family.name == "sdxl" else _flux(branch, adapter)
            file = folder / (SDXL_FILE if adapter.family.name == "sdxl" else FLUX_FILE).format(branch=name)
            own = dict(values)
            metadata.correct_rank(own, layers)
            write_tensors(file, tensors, own)
    return [target]


def _sdxl(branch: Branch, source: Path) -> tuple[dict[str, Lazy], Branch]:
    for modules in branch:
        if not modules[0].startswith("unet.") or not modules[0].endswith(SDXL_LAYERS):
            raise PairError(
                f"{source}: {modules[0]}: the official SDXL release knows the U-Net's attention layers only"
            )
    return diffusers_tensors(branch, source, "lora"), folded(branch, source)


def _flux(branch: Branch, adapter: Adapter) -> tuple[dict[str, Lazy], Branch]:
    """xflux's four layers of every double block and two of every single block, all of one rank."""
    found = _xflux_layers(branch, adapter.source)
    rank = max(layer.rank for layer in found.values())
    blocks = {name.rpartition(".")[0] for name in found}
    tensors: dict[str, Lazy] = {}
    layers: Branch = {}
    for name, modules in xflux_targets().items():
        block, _, part = name.rpartition(".")
        if block not in blocks:
            continue
        # The release loads every processor strictly, and reads one rank for all of them.
        layer = _padded(fold_alpha(found.get(name) or _zeros(part, modules, found, rank)), rank)
        tensors[f"{name}.down.weight"], tensors[f"{name}.up.weight"] = layer.down, layer.up
        layers[modules] = layer
    return tensors, layers


def _xflux_layers(branch: Branch, source: Path) -> dict[str, Layer]:
    place = {module: name for name, modules in xflux_targets().items() for module in modules}
    gathered: dict[str, list[Layer]] = {}
    for layer in branch.values():
        for part in [layer] if len({place.get(module) for module in layer.modules}) == 1 else split(layer, source):
            name = place.get(part.modules[0])
            if name is not None:
                gathered.setdefault(name, []).append(part)
            elif part.up.load().any():
                raise PairError(
                    f"{source}: {part.modules[0]}: the official FLUX release adapts the attention's qkv and proj only"
                )
    return {name: join(parts, xflux_targets()[name], source) for name, parts in gathered.items()}


def _zeros(part: str, modules: tuple[str, ...], found: dict[str, Layer], rank: int) -> Layer:
    """A layer without effect, in the widths that the others have."""
    import torch

    hidden = next(
        layer.out_dim // (3 if name.rpartition(".")[2].startswith("qkv") else 1) for name, layer in found.items()
    )
    in_dim = 5 * hidden if part == XFLUX_SINGLE_PROJ else hidden
    out_dim = 3 * hidden if part in (XFLUX_SINGLE_QKV, *(n for n in XFLUX_DOUBLE if n.startswith("qkv"))) else hidden
    return Layer(modules, from_tensor(torch.zeros(rank, in_dim)), from_tensor(torch.zeros(out_dim, rank)), float(rank))


def _padded(layer: Layer, rank: int) -> Layer:
    """A folded layer with zero rows and columns up to ``rank``, still folded."""
    import torch

    more = rank - layer.rank
    if not more:
        return layer
    down = lazy.mapped(
        layer.down, lambda down: torch.nn.functional.pad(down, (0, 0, 0, more)), (rank, *layer.down.shape[1:])
    )
    up = lazy.mapped(layer.up, lambda up: torch.nn.functional.pad(up, (0, more)), (layer.out_dim, rank))
    return replace(layer, down=down, up=up, alpha=float(rank))


def verify(source: Path, target: Path, options: Options) -> None:
    """Reads the release's files again and compares both branches.

    Raises:
        PairError: A layer is missing, or its delta differs by more than rounding.
    """
    original = as_given(source, options)
    for file in target.rglob("*.safetensors"):
        is_content = "content" in str(file.relative_to(target))
        branch = of_pair(original, options.pair) if is_content else original.style
        compare(branch, read_adapter(file, original.family.name).style, 1.0, file)


VERB = Conversion(__doc__, Options, SUFFIX, convert, verify)
