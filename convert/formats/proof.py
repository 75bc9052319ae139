"""Which model a LoRA is of: names, widths, numbers of rows and metadata must agree.

Names alone prove little: FLUX.1's are also those of FLUX.2, Chroma and in part of SD 3 and Qwen-Image. So both widths
of every layer are compared with the model's, and what the metadata says with both. Where several models agree with all
that, the family is the one of which there are most files, and not certain: metadata is then not told of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from convert.files.header import printable
from pair_network.errors import PairError
from pair_network.families import Family, claims_of_metadata, other_model
from pair_network.families.others import KEYS

from .families import FAMILIES
from .names import Name

# No published model has a hidden width or reads a text as narrow as this. A LoRA of a smaller model (the embedded
# one, a test's) proves nothing by its widths; only their ratios must be the family's.
SMALLEST = 256
# Layers that read the text, in dotted and in underscored names.
TEXT_READERS = ("attn2.to_k", "attn2.to_v", "attn2_to_k", "attn2_to_v")
# Styles of names that a family's layers have but its trainers do not write.
FOREIGN = ("kohya-native", "kohya-diffusers")

Shape = tuple[int, int]


class Proof(NamedTuple):
    """A file's family.

    Attributes:
        family: The family.
        is_sure: It follows from the file; otherwise it is the likeliest of several.
        fits: Names of all families whose layers have these names and widths.
    """

    family: Family
    is_sure: bool
    fits: tuple[str, ...]


def prove(
    names: Mapping[str, Mapping[str, Name]], shapes: Mapping[str, Shape], metadata: Mapping[str, str], source: object
) -> Proof:
    """The family among those that know all of a file's names.

    Args:
        names: What each layer's name means, by family and name; only families that know them all.
        shapes: Rows of the up and columns of the down of every layer, by its name in the file.
        metadata: The file's metadata.
        source: The file, named in errors.

    Raises:
        PairError: The widths are those of none of these models, or the metadata speaks of another.
    """
    misfits = {name: misfit(FAMILIES[name], known, shapes) for name, known in names.items()}
    fits = [name for name, reason in misfits.items() if reason is None]
    if not fits:
        raise PairError(
            f"{source}: its layers have names of {_titles(names)}, but other widths ({next(iter(misfits.values()))}); "
            "it is of a model that is not known here, or --family says which one it is"
        )
    claims = claims_of_metadata(metadata)
    agreed = [name for name in fits if all(name in claim for claim in claims if claim)]
    if not agreed or other_model(metadata):
        remedy = (
            "--family says which of them is right" if not agreed else "--family reads it as one of them all the same"
        )
        raise PairError(
            f"{source}: names and widths are those of {_titles(fits)}, its metadata says {said_of_model(metadata)}; "
            f"{remedy}"
        )
    # Names that several families understand are those of the families that write them so.
    if not any(claims) and all(_is_unspoken(FAMILIES[name], names[name]) for name in agreed):
        raise PairError(
            f"{source}: its layers could be {_titles(agreed)}'s, but no program names them so, and nothing else in the "
            "file says what it is of; if it is, --family says so"
        )
    agreed = [name for name in agreed if not _is_foreign(FAMILIES[name], names[name])] or agreed
    is_said = any(claims) and all(claims)
    return Proof(FAMILIES[agreed[0]], len(agreed) == 1 and (is_said or not claims), tuple(fits))


def said_of_model(metadata: Mapping[str, str]) -> str:
    """What a file's metadata call its model, in quotes, all of it where it disagrees; "" where they say nothing."""
    words = [metadata[key].strip() for key in KEYS if metadata.get(key, "").strip()]
    claims = claims_of_metadata(metadata)
    said = [other_model(metadata) or words[0]] if words else ["ss_v2 = True"] if claims else []
    if len(claims) == 2 and not claims[0] & claims[1] and any(claims):
        said = words
    return " and ".join(repr(printable(each, 60)) for each in said)


def _is_foreign(family: Family, names: Mapping[str, Name]) -> bool:
    """Whether some of the names are spelled as no trainer of this family spells them."""
    return _is_unspoken(family, names) or any(known.style in FOREIGN for known in names.values())


def _is_unspoken(family: Family, names: Mapping[str, Name]) -> bool:
    """Whether diffusers' names stand after the original's prefix in a way that no program knows for this family."""
    return "native-split" not in family.reads.get("ComfyUI", ()) and any(
        layer.startswith("diffusion_model.") and known.style == "dotted" for layer, known in names.items()
    )


def misfit(family: Family, names: Mapping[str, Name], shapes: Mapping[str, Shape]) -> str | None:
    """Why the widths are not the family's, or None: they are, or are a smaller model's with the same ratios."""
    reasons = []
    for hidden in _hidden_widths(family, names, shapes):
        wrong = next(_wrong(names, shapes, hidden), None)
        if wrong is None:
            return None
        reasons.append(wrong)
    return reasons[-1]


def _hidden_widths(family: Family, names: Mapping[str, Name], shapes: Mapping[str, Shape]) -> Iterator[int | None]:
    """The widths that h may stand for: the published models', and what the file's own layers give."""
    yield from family.hidden or (None,)
    for layer, known in names.items():
        for found, width in zip(shapes.get(layer, ()), (known.rows, known.columns), strict=False):
            for multiple in width.multiples:
                if (found / multiple) < SMALLEST and (found / multiple).denominator == 1:
                    yield int(found / multiple)
            if width.multiples:
                return


def _wrong(names: Mapping[str, Name], shapes: Mapping[str, Shape], hidden: int | None) -> Iterator[str]:
    """Layers that a model of this hidden width does not have so."""
    is_small = hidden < SMALLEST if hidden is not None else _is_small(names, shapes)
    for layer, (rows, columns) in shapes.items():
        known = names[layer]
        for found, width, word in ((rows, known.rows, "rows"), (columns, known.columns, "columns")):
            # Whatever else is narrow, a text encoder that is not tells by its width; multiples of h hold in any case.
            is_text = word == "columns" and (layer.endswith(TEXT_READERS) or layer.startswith("lora_te"))
            if not width.multiples and (found < SMALLEST or (is_small and not is_text)):
                continue
            if not width.fits(found, hidden):
                yield f"{printable(layer, 80)} has {found} {word}"


def _is_small(names: Mapping[str, Name], shapes: Mapping[str, Shape]) -> bool:
    """Whether a layer is narrower than any published model has it."""
    return any(
        found < SMALLEST <= min(width.numbers, default=0)
        for layer, pair in shapes.items()
        for found, width in zip(pair, (names[layer].rows, names[layer].columns), strict=True)
    )


def _titles(names: Iterable[str]) -> str:
    return ", ".join(FAMILIES[name].title for name in names)
