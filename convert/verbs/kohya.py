"""Any LoRA → kohya's naming, exactly: the format that A1111, Forge, ComfyUI and diffusers all read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from convert import verify
from convert.conversion import Conversion
from convert.files import lazy
from convert.files.elements import Element
from convert.files.lazy import Lazy, from_tensor
from convert.files.writer import write_tensors
from convert.formats import metadata
from convert.formats.layers import Adapter, Branch, Layer, by_module, join, needs_swap, split, swap_halves
from convert.formats.names import Modules, kohya_entries
from convert.options import OfBranch, chosen_branch, read_source, refuse_additions
from pair_network.errors import PairError
from pair_network.families import Family

SUFFIX = "-kohya.safetensors"
DIFFERENCES = (".w_norm", ".b_norm", ".diff", ".diff_b")  # LyCORIS' own, which A1111, Forge and ComfyUI read


def convert(source: Path, target: Path, options: OfBranch) -> list[Path]:
    """Writes ``source`` to ``target`` in kohya's naming; returns what was written."""
    adapter = read_source(source, options, carries=True)
    layers = kohya_layers(chosen_branch(adapter, options), adapter.family, source)
    write_kohya(target, layers, adapter, "kohya", beside=carried(adapter))
    return [target]


def write_kohya(
    target: Path,
    layers: Mapping[str, Layer],
    adapter: Adapter,
    verb: str,
    facts: Mapping[str, object] | None = None,
    beside: Mapping[str, Lazy] | None = None,
) -> None:
    """Writes layers by kohya's keys, with the metadata of the adapter that they were made of.

    Args:
        verb, facts: What its history says of this conversion; see ``metadata.converted``.
        beside: Further tensors.
    """
    values = metadata.converted(adapter, verb, facts)
    metadata.set_kohya(values, adapter, branch_of(layers), target.stem)
    write_tensors(target, {**tensors_of(layers), **(beside or {})}, values)


def carried(adapter: Adapter, factor: float = 1.0, element: Element | None = None) -> dict[str, Lazy]:
    """What a kohya file holds beside the layers: bundled embeddings, and LyCORIS' differences under kohya's names.

    Args:
        adapter: What was read.
        factor: Of the differences, which belong to the LoRA's change.
        element: Type of the differences; None keeps their own.

    Raises:
        PairError: A difference has another name, and so no place here.
    """
    homeless = [key for key in adapter.additions if not key.startswith("lora_") or not key.endswith(DIFFERENCES)]
    if homeless or (adapter.additions and adapter.styles != {"kohya"}):
        refuse_additions(adapter)
    scaled = {key: lazy.cast(lazy.scaled(tensor, factor), element) for key, tensor in adapter.additions.items()}
    return {**scaled, **adapter.embeddings}


def branch_of(layers: Mapping[str, Layer]) -> Branch:
    """The layers that are written, without their keys."""
    return {layer.modules: layer for layer in layers.values()}


def tensors_of(layers: Mapping[str, Layer], prefix: str = "") -> dict[str, Lazy]:
    """KEY.lora_down.weight, KEY.lora_up.weight and KEY.alpha (float32) of every layer."""
    import torch

    tensors: dict[str, Lazy] = {}
    for key, layer in layers.items():
        tensors[f"{prefix}{key}.lora_down.weight"] = layer.down
        tensors[f"{prefix}{key}.lora_up.weight"] = layer.up
        tensors[f"{prefix}{key}.alpha"] = from_tensor(torch.tensor(layer.alpha))
    return tensors


def kohya_layers(branch: Branch, family: Family, source: Path) -> dict[str, Layer]:
    """Layers by kohya's keys, joint and with their rows in the original order.

    Raises:
        PairError: A layer has no place in kohya's naming.
    """
    return written_layers(branch, kohya_entries(family), source)


def written_layers(branch: Branch, entries: Mapping[str, tuple[Modules, bool]], source: Path) -> dict[str, Layer]:
    """Layers by the keys of ``entries``, joined where one key covers several of them.

    Raises:
        PairError: A layer has no key.
    """
    key_of = {module: key for key, (modules, _) in entries.items() for module in modules}
    gathered: dict[str, list[Layer]] = {}
    for layer in branch.values():
        for part in _fitting(layer, entries, key_of, source):
            gathered.setdefault(key_of[part.modules[0]], []).append(part)
    written = {}
    for key, parts in gathered.items():
        modules, swaps = entries[key]
        layer = join(parts, modules, source)
        written[key] = swap_halves(layer) if swaps and needs_swap(layer) else layer
    return written


def _fitting(
    layer: Layer, entries: Mapping[str, tuple[Modules, bool]], key_of: Mapping[str, str], source: Path
) -> list[Layer]:
    """The layer, or its parts where it covers more than one of kohya's layers."""
    keys = {key_of.get(module) for module in layer.modules}
    if None in keys:
        raise PairError(f"{source}: this naming has no layer {layer.modules[0]}")
    return [layer] if len(keys) == 1 else split(layer, source)


def diffusers_keys(branch: Branch, family: Family, source: Path) -> dict[str, Layer]:
    """Layers by kohya-style keys with diffusers' block names (``lora_unet_down_blocks_…``)."""
    named = {}
    for layer in by_module(branch, source).values():
        component, _, path = layer.modules[0].partition(".")
        encoder = next((e.prefix for e in family.text_encoders if e.component == component), "lora_unet")
        named[f"{encoder}_{path.replace('.', '_')}"] = layer
    return named


VERB = Conversion(__doc__, OfBranch, SUFFIX, convert, verify.same)
