"""Any LoRA, or a branch of a coupled checkpoint → a plain LoRA for A1111, Forge or ComfyUI, with what their cards show.

Names: kohya's, which every UI that has the model reads whole, but for two: ``--ui a1111`` with SD3 writes the diffusers
names that are the only ones A1111 reads there, ``--ui comfyui`` the original's where ComfyUI does not read all of
kohya's. The strength goes into alpha, so that no weight is rounded.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from convert.conversion import Conversion
from convert.files import lazy
from convert.files.lazy import Lazy
from convert.files.writer import write_tensors
from convert.formats import metadata
from convert.formats.layers import Adapter, Branch, by_module, fold_alpha, strengthened
from convert.formats.loaders import layer_names
from convert.formats.names import kohya_entries, original_entries
from convert.options import (
    DTYPES,
    OfBranch,
    chosen_branch,
    element_named,
    name_embeddings,
    read_source,
    refuse_additions,
)
from convert.verify import same
from pair_network.errors import PairError
from pair_network.families import Family
from pair_network.options import option

from .install import RESTART, install, webui_lora_folder
from .kohya import branch_of, carried, diffusers_keys, kohya_layers, tensors_of, written_layers
from .sidecars import Card, CardOptions

SUFFIX = "-a1111.safetensors"
UIS = ("all", "a1111", "forge", "comfyui")
# The only SD3 layers that A1111's table names: the image stream's attention.
A1111_SD3 = tuple(f".attn.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0"))


@dataclass(frozen=True)
class Options(OfBranch, CardOptions):
    """The options of the verb."""

    strength: float = option(1.0, "factor of every delta, folded in", float)
    dtype: str | None = option(None, "dtype of the weights", choices=list(DTYPES), default="the file's own")
    ui: str = option("all", "UI it is for; all: names that each reads", choices=UIS)
    naming: str = option("kohya", "block names of SD and SDXL: kohya's, or diffusers'", choices=("kohya", "diffusers"))
    drop_unmatched: bool = option(False, "leave out layers that the UI cannot read", key="drop-unmatched")
    webui: Path | None = option(
        None, "A1111 or Forge folder: LoRA into models/Lora, guidance script into extensions", Path, metavar="DIR"
    )


def place(target: Path, options: Options) -> Path:
    """Where the LoRA goes: with ``--webui`` into the UI's own folder."""
    if options.webui is None:
        return target
    return webui_lora_folder(options.webui) / target.name.replace(SUFFIX, ".safetensors")


def convert(source: Path, target: Path, options: Options) -> list[Path]:
    """Writes the LoRA, and beside it what the UI's card shows; returns all that was written.

    Raises:
        PairError: The UI cannot read this family, or some of its layers; or the card would replace another file.
    """
    adapter = read_source(source, options, carries=True)
    branch = _shaped(chosen_branch(adapter, options), options)
    tensors, layers = _tensors(adapter, branch, options)
    tensors.update(_beside(adapter, options))
    values = metadata.converted(adapter, "a1111", {"strength": options.strength, "branch": options.branch})
    metadata.set_kohya(values, adapter, layers, target.stem)
    card = Card.of(source, adapter, options, options.strength)
    card.check(target, options.overwrite)
    card.embed(values)
    write_tensors(target, tensors, values)
    written = [target, *card.write(target)]
    if options.webui is not None:
        written.append(install("webui", options.webui / "extensions"))
        print(RESTART, file=sys.stderr)
    return written


def _shaped(branch: Branch, options: Options) -> Branch:
    """Strength and dtype applied."""
    if not math.isfinite(options.strength) or options.strength == 0:
        raise PairError(f"--strength {options.strength}: must be a number other than 0")
    element = element_named(options.dtype)
    return {
        key: replace(
            strengthened(layer, options.strength), down=lazy.cast(layer.down, element), up=lazy.cast(layer.up, element)
        )
        for key, layer in branch.items()
    }


def _tensors(adapter: Adapter, branch: Branch, options: Options) -> tuple[dict[str, Lazy], Branch]:
    """What is written, as tensors and as the layers that they are."""
    family, source = adapter.family, adapter.source
    refuse_foreign(family, options.ui, source)
    if options.ui == "a1111" and family.name == "sd3":
        return _a1111_sd3(branch, source, options.drop_unmatched)
    if options.ui == "comfyui" and not _comfyui_reads_kohya(family):
        layers = written_layers(branch, original_entries(family), source)
        return tensors_of(layers), branch_of(layers)
    is_diffusers = options.naming == "diffusers" and family.component == "unet"
    layers = (diffusers_keys if is_diffusers else kohya_layers)(branch, family, source)
    return tensors_of(layers), branch_of(layers)


def _comfyui_reads_kohya(family: Family) -> bool:
    """Whether ComfyUI finds every layer of the denoiser under kohya's name for it."""
    known = layer_names("ComfyUI", family)
    return all(key in known for key in kohya_entries(family) if key.startswith("lora_unet_"))


def _beside(adapter: Adapter, options: Options) -> dict[str, Lazy]:
    """What goes along beside the layers. Bundled embeddings are read by A1111 alone; the others only name them."""
    if options.ui == "a1111" and adapter.family.name == "sd3":
        refuse_additions(adapter)
        name_embeddings(adapter)
        return {}
    if options.ui in ("forge", "comfyui"):
        name_embeddings(adapter)
        adapter.embeddings.clear()
    if options.naming == "diffusers" and adapter.family.kohya_is_native:
        refuse_additions(adapter)
    return carried(adapter, options.strength, element_named(options.dtype))


def refuse_foreign(family: Family, ui: str, source: Path) -> None:
    """Refuses a LoRA of a model that the UI does not have; "all": that neither A1111 nor Forge has.

    Raises:
        PairError: It has not.
    """
    wanted = {"all": ("A1111", "Forge"), "a1111": ("A1111",), "forge": ("Forge",), "comfyui": ("ComfyUI",)}[ui]
    if not any(name in family.reads for name in wanted):
        others = [name for name in ("Forge", "Forge Neo", "ComfyUI") if name in family.reads]
        option = "forge" if "Forge" in others else "comfyui"
        raise PairError(
            f"{source}: {' and '.join(wanted)} {'has' if len(wanted) == 1 else 'have'} no {family.title}; "
            f"load it in {', '.join(others)} (--ui {option})"
        )


def _a1111_sd3(branch: Branch, source: Path, drop: bool) -> tuple[dict[str, Lazy], Branch]:
    """diffusers' names without alpha, which would make A1111 drop the whole file."""
    tensors: dict[str, Lazy] = {}
    layers: Branch = {}
    left_out = []
    for (module,), layer in by_module(branch, source).items():
        if not (module.startswith("transformer.transformer_blocks.") and module.endswith(A1111_SD3)):
            left_out.append(module)
            continue
        folded = layers[(module,)] = fold_alpha(layer)
        tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = folded.down, folded.up
    if left_out and not drop:
        raise PairError(
            f"{source}: A1111 reads only the image stream's attention of SD3; {len(left_out)} layers would be lost, "
            f"the first is {left_out[0]}; pass --drop-unmatched, or use Forge or ComfyUI"
        )
    if not tensors:
        raise PairError(f"{source}: holds no layer that A1111 reads in SD3")
    return tensors, layers


def verify(source: Path, target: Path, options: Options) -> None:
    """Reads the LoRA again and compares it, at its strength; layers that were dropped on request may be missing.

    Raises:
        PairError: A layer is missing, or its delta differs by more than rounding.
    """
    same(source, target, options, options.strength, options.drop_unmatched)


VERB = Conversion(__doc__, Options, SUFFIX, convert, verify, place)
