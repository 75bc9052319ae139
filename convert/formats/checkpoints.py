"""Where a family's layers lie in base checkpoints: single files in the original layouts, and diffusers' folders."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from convert.files.header import Header, read_header
from pair_network.errors import PairError
from pair_network.families import Family, TextEncoder
from pair_network.families.layers import total
from pair_network.families.text_encoders import OPEN_CLIP, OPEN_CLIP_JOINT, OPEN_CLIP_JOINT_NAME
from pair_network.files import PICKLES, weights_of

from .families import COMPONENTS, FAMILIES
from .names import Modules, Name
from .proof import misfit

DENOISER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")


@dataclass(frozen=True)
class Place:
    """A weight in a checkpoint: the modules stacked in it, and whether its rows may be (shift, scale)."""

    modules: Modules
    swaps: bool = False


def family_of_checkpoint(header: Header) -> tuple[Family, str]:
    """Family and denoiser prefix of a single-file checkpoint in an original layout.

    Raises:
        PairError: None of the known layouts.
    """
    for prefix in DENOISER_PREFIXES:
        shapes = {
            layer_key(key).removeprefix(prefix): stored.shape
            for key, stored in header.tensors.items()
            if key.startswith(prefix) and key.endswith(".weight")
        }
        family = family_of_weights(shapes, "native")
        if family is not None:
            return family, prefix
    raise PairError(
        f"{header.path}: is no checkpoint of a known layout ({', '.join(each.title for each in FAMILIES.values())} in "
        "the original names); for diffusers' models give the folder with model_index.json"
    )


def family_of_weights(shapes: Mapping[str, Sequence[int]], layout: str) -> Family | None:
    """The family whose denoiser these are the weights of, by names and widths; None: of none that is known.

    Args:
        shapes: By dotted path in the model.
        layout: "native", the original's names, or "modules", diffusers'.
    """
    matrices = {name: (shape[0], shape[1]) for name, shape in shapes.items() if len(shape) in (2, 4)}
    found: dict[str, int] = {}
    for family in FAMILIES.values():
        known = _weight_names(family, layout)
        own = {name: shape for name, shape in matrices.items() if name in known}
        # A model has few matrices that no LoRA can carry; another's parts must not be taken for it.
        if 2 * len(own) > len(matrices) and misfit(family, {name: known[name] for name in own}, own) is None:
            found[family.name] = len(own)
    return FAMILIES[max(found, key=lambda name: found[name])] if found else None


@lru_cache
def _weight_names(family: Family, layout: str) -> dict[str, Name]:
    if layout == "native":
        return {entry.native: Name((), rows=total(entry.rows), columns=entry.columns) for entry in family.entries}
    return {
        module: Name((), rows=rows, columns=entry.columns)
        for entry in family.entries
        for module, rows in zip(entry.modules, entry.rows, strict=True)
    }


@lru_cache
def single_file_places(family: Family, prefix: str) -> dict[str, Place]:
    """Checkpoint key, without ``.weight``, -> what lies there."""
    places = {
        prefix + entry.native: Place(tuple(f"{family.component}.{m}" for m in entry.modules), entry.swaps)
        for entry in family.entries
    }
    for encoder in family.text_encoders:
        named = _open_clip if encoder.is_open_clip_there else _plain_encoder
        places.update(named(encoder, (prefix if encoder.kind == "adapter" else "") + encoder.checkpoint))
    return places


def _plain_encoder(encoder: TextEncoder, start: str) -> dict[str, Place]:
    return {start + module: Place((f"{encoder.component}.{module}",)) for module in encoder.modules}


def _open_clip(encoder: TextEncoder, start: str) -> dict[str, Place]:
    places = {}
    for number in range(encoder.layers):
        path = f"{encoder.component}.text_model.encoder.layers.{number}."
        block = f"{start}resblocks.{number}."
        # The joint projection's tensor is called in_proj_weight, without a dot.
        places[f"{block}{OPEN_CLIP_JOINT_NAME}"] = Place(tuple(path + part for part in OPEN_CLIP_JOINT))
        places.update({block + native: Place((path + part,)) for part, native in OPEN_CLIP.items()})
    return places


@lru_cache
def component_places(family: Family, component: str) -> dict[str, Place]:
    """Keys of a diffusers component, without ``.weight``, -> what lies there."""
    if component == family.component:
        return {module: Place((f"{component}.{module}",)) for entry in family.entries for module in entry.modules}
    encoder = next((encoder for encoder in family.text_encoders if encoder.component == component), None)
    if encoder is None:
        return {}
    places = {}
    for module in encoder.modules:
        for form in {module, module.removeprefix("text_model.")}:
            places[form] = Place((f"{component}.{module}",))
    return places


def layer_key(key: str) -> str:
    """A weight's layer name: without ``.weight``, or ``_weight`` of OpenCLIP's joint projection."""
    return key.removesuffix(".weight") if key.endswith(".weight") else key.removesuffix("_weight")


def weight_files(folder: Path) -> dict[str, list[Path]]:
    """The .safetensors files of each component of a diffusers folder that can carry a LoRA.

    Where a component is there in several variants, they are those that diffusers loads: the full weights, else fp16.

    Raises:
        PairError: No component has one.
    """
    found = {component: files for component in COMPONENTS if (files := weights_of(folder / component)[1])}
    if not found:
        raise PairError(f"{folder}: holds no diffusers model (no unet/ or transformer/ with .safetensors files)")
    return found


@dataclass(frozen=True)
class BaseModel:
    """A base checkpoint or diffusers folder on disk, and every weight in it that a LoRA can carry.

    Attributes:
        family: The model family.
        layout: Prefix of the denoiser's keys in a single file; None for a diffusers folder.
        files: Each weight file's places by stored key.
    """

    family: Family
    layout: str | None
    files: dict[Path, dict[str, Place]]

    def named(self) -> Iterator[tuple[str, Path, str, Place]]:
        """(name within the model, file, stored key, place) of every such weight."""
        for file, places in self.files.items():
            for key, place in places.items():
                own = f"{file.parent.name}.{key}" if self.layout is None else key.removeprefix(self.layout)
                yield own, file, key, place


def base_model(source: Path) -> BaseModel:
    """What a LoRA can change in a checkpoint or a diffusers folder; only headers are read.

    Raises:
        PairError: Neither a known layout nor a diffusers folder.
    """
    if source.suffix.lower() in PICKLES and source.is_file():
        raise PairError(f"{source}: is pickled, and checkpoints are read from .safetensors only; save it as that first")
    if not source.is_dir():
        header = read_header(source)
        family, prefix = family_of_checkpoint(header)
        return BaseModel(family, prefix, {source: _stored(header, single_file_places(family, prefix))})
    components = weight_files(source)
    family = family_of_folder(components)
    return BaseModel(
        family,
        None,
        {
            file: _stored(read_header(file), component_places(family, component))
            for component, own in components.items()
            for file in own
        },
    )


def _stored(header: Header, places: Mapping[str, Place]) -> dict[str, Place]:
    """Places of a file's weights; biases have none."""
    return {
        key: places[layer_key(key)] for key in header.tensors if key.endswith("weight") and layer_key(key) in places
    }


def family_of_folder(files: Mapping[str, Collection[Path]]) -> Family:
    """The family of a diffusers folder, from the weights of its denoiser.

    Raises:
        PairError: It is of no model that is known here.
    """
    denoiser = [*files.get("transformer", []), *files.get("unet", [])]
    stored = [item for file in denoiser for item in read_header(file).tensors.items()]
    family = family_of_weights({layer_key(key): each.shape for key, each in stored}, "modules")
    if family is None:
        named = denoiser[0] if denoiser else next(file for own in files.values() for file in own)
        raise PairError(
            f"{named}: is of no model that is known here ({', '.join(each.title for each in FAMILIES.values())})"
        )
    return family
