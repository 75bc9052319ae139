"""Style guidance at a given λ, approximated in a plain LoRA for UIs without a script.

It is an approximation and stays one: guidance evaluates the LoRA beside the base model, a plain LoRA sits in both of
CFG's predictions and cannot pause for the first steps. The nearest strength is measured on a model, and with ``--fit
ups`` the up-factors are trained towards the guided predictions; how near each comes is printed. A mere rescaling to
λ / CFG scale is farther from guidance than the LoRA as it is, so there is no baking without a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convert import verify
from convert.conversion import Conversion
from convert.formats import metadata
from convert.formats.layers import Branch, by_module
from convert.options import OfBranch, chosen_branch, read_source
from pair_network.errors import PairError
from pair_network.options import option

from .kohya import kohya_layers, write_kohya

if TYPE_CHECKING:  # torch is imported with the first tensor
    from pair_network.sampling.protocols import Pipeline

SUFFIX = "-baked.safetensors"
TEST_SEED = 1000


@dataclass(frozen=True)
class Options(OfBranch):
    """The options of the verb."""

    style_scale: float = option(3.0, "style guidance scale", float, key="lambda")
    cfg: float = option(5.0, "CFG scale that the UI will use", float)
    start: float = option(0.2, "share of the steps without style in guidance", float)
    cfg_end: float = option(
        1.0, "share of the steps after which guidance runs at CFG 1", float, key="cfg-end", default="1: never"
    )
    model: Path | None = option(None, "diffusers folder (SD 1 or 2) to fit on; needed", Path, metavar="DIR")
    prompts: Sequence[str] = option((), "plain prompts, at least two; the last third measures", nargs="+")
    style_words: str | None = option(
        None, "words added to a prompt", key="style-words", metavar="TEXT", default="the trigger words"
    )
    fit: str = option("strength", "what to fit", choices=("strength", "ups"))
    steps: int = option(20, "sampling steps of the measurement", int)
    fit_steps: int = option(200, "training steps of --fit ups", int, key="fit-steps")
    rate: float = option(1e-3, "learning rate of --fit ups", float)


def convert(source: Path, target: Path, options: Options) -> list[Path]:
    """Writes the baked LoRA in kohya's naming; returns what was written.

    Raises:
        PairError: Settings out of range, or a model that cannot be measured on.
    """
    if not math.isfinite(options.style_scale) or not options.style_scale:
        raise PairError(f"--lambda {options.style_scale}: must be a number other than 0; at 0 there is no style")
    if not options.cfg > 0 or not 0 <= options.start < 1 or options.steps < 1 or options.fit_steps < 1:
        raise PairError("--cfg must be above 0, --start in [0, 1), --steps and --fit-steps at least 1")
    if not 0 <= options.cfg_end <= 1:
        raise PairError(f"--cfg-end {options.cfg_end}: a share of the steps is needed, from 0 to 1")
    if options.model is None:
        raise PairError(
            "--model: bake fits on a model, give an SD 1 or 2 folder and --prompts; elsewhere use the LoRA as it is (a "
            f"mere rescaling is farther from guidance: a1111 --strength {options.style_scale / options.cfg:g} does it)"
        )
    if len(options.prompts) < 2:
        raise PairError("--prompts: give at least two plain prompts; some are for fitting, some for measuring")
    adapter = read_source(source, options)
    branch = chosen_branch(adapter, options)
    facts: dict[str, object] = {"lambda": options.style_scale, "cfg": options.cfg}
    facts |= {"cfg_end": options.cfg_end} if options.cfg_end < 1 else {}
    words = options.style_words or metadata.trigger_words(adapter.metadata)
    branch, strength = _fitted(_pipeline(options.model), by_module(branch, source), words, options, facts)
    layers = kohya_layers(branch, adapter.family, source)
    write_kohya(target, layers, adapter, "bake", {**facts, "strength": round(strength, 4)})
    return [target]


def _fitted(
    pipeline: Pipeline, branch: Branch, words: str, options: Options, facts: dict[str, object]
) -> tuple[Branch, float]:
    """The branch at its best strength, or with fitted ups, and that strength; prints how near it comes."""
    import torch

    from . import distill

    lora = distill.Attached(pipeline.unet, branch)
    setting = distill.Setting(options.style_scale, options.cfg, options.steps, options.start, options.cfg_end)
    held = max(1, len(options.prompts) // 3)
    fitting = distill.prompts_with_style(options.prompts[:-held], words)
    testing = distill.prompts_with_style(options.prompts[-held:], words)
    states, _ = distill.guided_states(pipeline, lora, fitting, [0], setting)
    tests, finals = distill.guided_states(pipeline, lora, testing, [TEST_SEED], setting)
    strength, _ = distill.best_strength(lora, pipeline.unet, states, setting)

    def show(name: str) -> float:
        error = distill.relative_error(pipeline.unet, tests, options.cfg)
        final = distill.final_error(pipeline, lora, testing, [TEST_SEED], finals, setting)
        print(f"  {name:24} prediction {error:.3f}  picture {final:.3f}")
        return error

    print(
        f"squared error against guidance λ {options.style_scale:g}, CFG {options.cfg:g}, on held-out prompts; "
        "1 is no style at all:"
    )
    for name, value in (("strength 1", 1.0), (f"best strength {strength:.3f}", strength)):
        with lora.at(value):
            facts["relative_error"] = round(show(name), 4)
    if options.fit == "ups":
        with torch.no_grad():
            for up in lora.ups:
                up.mul_(strength)
        distill.fit_ups(lora, pipeline.unet, states, setting, options.fit_steps, options.rate)
        facts["relative_error"] = round(show("fitted ups"), 4)
        return lora.layers(branch, 1.0), strength
    return lora.layers(branch, strength), strength


def _pipeline(folder: Path) -> Pipeline:
    """The model, in float32 on the CPU."""
    if not (folder / "model_index.json").is_file():
        raise PairError(f"--model {folder}: is no diffusers folder (no model_index.json)")
    import torch
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    kwargs = {"torch_dtype": torch.float32, "local_files_only": True, "use_safetensors": True, "safety_checker": None}
    pipeline = DiffusionPipeline.from_pretrained(folder, **kwargs)
    if not isinstance(pipeline, StableDiffusionPipeline):
        raise PairError(f"--model {folder}: only Stable Diffusion 1 and 2 can be measured; use the LoRA as it is")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae = None  # nothing is decoded
    measured: Pipeline = pipeline
    return measured


VERB = Conversion(__doc__, Options, SUFFIX, convert, verify.readable)
