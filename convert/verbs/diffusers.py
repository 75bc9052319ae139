"""Any LoRA → diffusers' naming (``unet.….lora_A.weight``), exactly.

diffusers takes the scale of such a file as 1, so alpha / rank is multiplied into up: where the file's dtype would round
the product, that layer's up is stored in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convert import verify
from convert.conversion import Conversion
from convert.files.lazy import Lazy
from convert.files.writer import write_tensors
from convert.formats import metadata
from convert.formats.layers import Branch, by_module, fold_alpha
from convert.options import OfBranch, chosen_branch, read_source
from pair_network.options import option

SUFFIX = "-diffusers.safetensors"
# Suffixes of down and up: PEFT's, which diffusers writes today, and those of its first releases.
SYNTAX = {"peft": (".lora_A.weight", ".lora_B.weight"), "lora": (".lora.down.weight", ".lora.up.weight")}
OLD_TEXT_ENCODER = (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")


@dataclass(frozen=True)
class Options(OfBranch):
    """The options of the verb."""

    syntax: str = option("peft", "tensor suffixes: lora_A or lora.down", choices=list(SYNTAX))


def convert(source: Path, target: Path, options: Options) -> list[Path]:
    """Writes ``source`` to ``target`` in diffusers' naming; returns what was written."""
    adapter = read_source(source, options)
    branch = folded(chosen_branch(adapter, options), source)
    values = metadata.converted(adapter, "diffusers")
    values["format"] = "pt"
    metadata.correct_rank(values, branch)
    write_tensors(target, diffusers_tensors(branch, source, options.syntax), values)
    return [target]


def folded(branch: Branch, source: Path) -> Branch:
    """One layer for every diffusers module, alpha folded into up."""
    return {key: fold_alpha(layer) for key, layer in by_module(branch, source).items()}


def diffusers_tensors(branch: Branch, source: Path, syntax: str = "peft") -> dict[str, Lazy]:
    """Two tensors of every diffusers module, alpha folded into up."""
    tensors: dict[str, Lazy] = {}
    for (module,), layer in folded(branch, source).items():
        is_old_text = syntax == "lora" and module.startswith("text_encoder")
        down, up = OLD_TEXT_ENCODER if is_old_text else SYNTAX[syntax]
        tensors[module + down], tensors[module + up] = layer.down, layer.up
    return tensors


VERB = Conversion(__doc__, Options, SUFFIX, convert, verify.same)
