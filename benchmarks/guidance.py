"""Cost of style guidance: ``python benchmarks/guidance.py --model embedded|sdxl``. Adds to results/guidance.*

Seconds per denoising step inside diffusers' own pipelines, all ways in turn in every repetition, so that a change of
the machine's load meets all of them alike; the figure is the ratio to plain CFG within a repetition. On a CPU they are
the processor's seconds, which other programs do not add to. "sdxl" is SDXL's U-Net with random weights, which cost
what trained ones do. Each model and device keeps its own entry in the results.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pair_network import PairNetwork, create_network  # noqa: E402
from pair_network.sampling.guidance import style_shift  # noqa: E402
from pair_network.sampling.pipelines import Style, style_guidance  # noqa: E402

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CFG = "CFG, no style"
JOINED, SPLIT, ENDED = "style guidance", "style guidance, joined=False", "style guidance after cfg_end"
AUTHORS, SINGLE = "switching: null + cond, then style", "switching: null, cond, style"
WAYS = {CFG: "2", JOINED: "3", ENDED: "2", SPLIT: "2 + 1", AUTHORS: "2 + 1", SINGLE: "1 + 1 + 1"}
CFG_SCALE, STYLE_SCALE = 5.0, 3.0
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "cross_attention_dim": 2048, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


@dataclass
class Bench:
    """A pipeline, a style on it, and what every call passes.

    Attributes:
        pipe: The pipeline, without peft.
        network: The style, hooked into ``pipe`` only by style guidance.
        style: The style with its encoded prompt.
        settings: Arguments of every pipeline call.
    """

    pipe: Any
    network: PairNetwork
    style: Style
    settings: dict[str, Any]


# --- models ------------------------------------------------------------------------------------------------------


def make_bench(options: argparse.Namespace) -> Bench:
    pipe, prompts = (embedded if options.model == "embedded" else random_sdxl)(options)
    targets, rank = ("attention+ff", 16) if options.model == "embedded" else ("attention", 64)
    network = create_network(1.0, rank, float(rank), None, None, pipe.unet, targets=targets)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in network.coupled_layers():
            layer.style_up.copy_(0.02 * torch.randn(layer.style_up.shape, generator=generator))
    network.to(device=options.device, dtype=pipe.unet.dtype).requires_grad_(False)
    (null, null_pooled), (cond, cond_pooled), (styled, styled_pooled) = prompts
    style = Style(network, "", STYLE_SCALE, 0.0, 1.0, prompt_embeds=styled, pooled_prompt_embeds=styled_pooled)
    settings: dict[str, Any] = {"prompt_embeds": cond, "negative_prompt_embeds": null, "guidance_scale": CFG_SCALE}
    if cond_pooled is not None:
        settings |= {"pooled_prompt_embeds": cond_pooled, "negative_pooled_prompt_embeds": null_pooled}
    side = (options.latents or pipe.unet.config.sample_size) * pipe.vae_scale_factor
    settings |= {"height": side, "width": side, "num_inference_steps": options.steps, "output_type": "latent"}
    return Bench(pipe, network, style, settings)


def embedded(options: argparse.Namespace) -> tuple[Any, list[tuple[Tensor, None]]]:
    """The shipped model, and (embeddings, None) of null, cond and style prompt."""
    from demo.model_config import load_pipeline

    pipe = load_pipeline().to(options.device, DTYPES[options.dtype])
    photo = "a photo of a red house on a blue background"
    texts = ("", photo, f"{photo} in poster style")
    with torch.no_grad():
        return pipe, [(pipe.encode_prompt(text, options.device, 1, False)[0], None) for text in texts]


def random_sdxl(options: argparse.Namespace) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
    """SDXL's U-Net with random weights in a pipeline without encoders or VAE, and three random prompts."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET).to(DTYPES[options.dtype])
    unet = unet.to_empty(device=options.device).eval().requires_grad_(False)
    generator = torch.Generator(options.device).manual_seed(0)
    draw_weights(unet, generator)
    pipe = StableDiffusionXLPipeline(
        vae=None, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, unet=unet,
        scheduler=EulerDiscreteScheduler(), add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)

    def prompt(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=options.device).to(unet.dtype)

    return pipe, [(prompt(1, 77, 2048), prompt(1, 1280)) for _ in range(3)]


@torch.no_grad()
def draw_weights(unet: nn.Module, generator: torch.Generator) -> None:
    """Random weights of a spread that keeps activations in range; norms at 1 and 0."""
    for name, parameter in unet.named_parameters():
        if parameter.dim() > 1:
            bound = (3 / parameter[0].numel()) ** 0.5
            parameter.uniform_(-bound, bound, generator=generator)
        else:
            parameter.fill_(float(name.endswith("weight")))


def twin(unet: nn.Module) -> nn.Module:
    """A second U-Net on the same weights: SDXL would not fit twice."""
    shared = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
    return copy.deepcopy(unet, shared)


def with_peft(bench: Bench) -> Any:
    """A second pipeline with the style as a peft adapter."""
    pipe = type(bench.pipe)(**{**bench.pipe.components, "unet": twin(bench.pipe.unet)})
    pipe.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "style.safetensors"
        bench.network.save_weights(str(file), None, None)
        pipe.load_lora_weights(str(file), adapter_name="style")
    return pipe


# --- ways --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def switching(pipe: Any, bench: Bench, groups: Sequence[slice]) -> Iterator[None]:
    """Eq. 10 by separate model calls: the base rows in ``groups`` with the adapter at 0, then the style row at 1.

    The authors' SDXL pipeline does this with ``set_adapters`` at every step and one group of two rows.
    """
    unet: nn.Module = pipe.unet
    original, style = unet.forward, bench.style

    def forward(sample: Tensor, timestep: Tensor, **inputs: Any) -> tuple[Tensor]:
        text, added = inputs.pop("encoder_hidden_states"), inputs.pop("added_cond_kwargs", None)

        def call(rows: slice, prompt: Tensor, pooled: Tensor | None) -> Tensor:
            own = None if added is None else {"text_embeds": pooled, "time_ids": added["time_ids"][rows]}
            call = {"encoder_hidden_states": prompt, "added_cond_kwargs": own}
            return original(sample[rows], timestep, **inputs, **call)[0]

        pipe.set_adapters("style", 0.0)
        base = [call(rows, text[rows], None if added is None else added["text_embeds"][rows]) for rows in groups]
        null, cond = torch.cat(base).chunk(2)
        pipe.set_adapters("style", 1.0)
        styled = call(slice(1, 2), style.prompt_embeds, style.pooled_prompt_embeds)
        shift = style_shift(cond, [styled], [style.scale])
        return (torch.cat([null + shift, cond + shift]),)

    unet.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del unet.forward


def ways(bench: Bench) -> dict[str, tuple[Any, Callable[[], Any]]]:
    """(pipeline, context manager to run it in) by way."""
    pipe, other = bench.pipe, with_peft(bench)
    return {
        CFG: (pipe, contextlib.nullcontext),
        JOINED: (pipe, lambda: style_guidance(pipe, bench.style)),
        ENDED: (pipe, lambda: style_guidance(pipe, bench.style, cfg_end=0.0)),
        SPLIT: (pipe, lambda: style_guidance(pipe, bench.style, joined=False)),
        AUTHORS: (other, lambda: switching(other, bench, [slice(0, 2)])),
        SINGLE: (other, lambda: switching(other, bench, [slice(0, 1), slice(1, 2)])),
    }


def run_once(pipe: Any, bench: Bench, device: str) -> tuple[list[float], Tensor]:
    """Seconds of every step but the first, which includes the set-up, and the resulting latents."""
    stamps: list[float] = []

    def stamp(_pipe: Any, _step: int, _timestep: Any, _tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        stamps.append(time.process_time() if device == "cpu" else time.perf_counter())
        return {}

    generator = torch.Generator("cpu").manual_seed(0)
    latents = pipe(generator=generator, callback_on_step_end=stamp, **bench.settings).images
    return [after - before for before, after in itertools.pairwise(stamps)], latents


def measure(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Step times, ratios to CFG, peak memory and the distance of the results, by way."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    results, peaks, runs = {}, {}, ways(bench)
    on_cuda = options.device.startswith("cuda")
    for repeat in range(options.repeats + 1):
        for way, (pipe, context) in runs.items():
            if on_cuda:
                torch.cuda.reset_peak_memory_stats(options.device)
            with context():
                times, results[way] = run_once(pipe, bench, options.device)
            if on_cuda:
                peaks[way] = torch.cuda.max_memory_allocated(options.device) / 2**20
            if repeat:  # the first round warms up
                seconds[way].append(statistics.median(times))
        print(f"round {repeat} of {options.repeats}", flush=True)
    rows = {}
    for way, own in seconds.items():
        ratios = [time / plain for time, plain in zip(own, seconds[CFG], strict=True)]
        rows[way] = {
            "seconds": statistics.median(own), "ratio": statistics.median(ratios), "least": min(ratios),
            "most": max(ratios), "peak_mb": peaks.get(way), "distance": distance(results[way], results[JOINED]),
        }  # fmt: skip
    return rows


def distance(value: Tensor, reference: Tensor) -> float:
    return float((value.float() - reference.float()).norm() / reference.float().norm())


# --- report ------------------------------------------------------------------------------------------------------


def report(entries: dict[str, Any]) -> str:
    lines = [
        "# Style guidance", "",
        "`python benchmarks/guidance.py --model embedded|sdxl`. Seconds per guided step inside diffusers' pipelines",
        "(on a CPU the processor's); the ratio is to plain CFG in the same repetition: median (least to most).",
        "Switching is peft's `set_adapters` before every group of calls; with null and cond in one call it is what the",
        "authors' SDXL pipeline does. The last column is the relative distance of the final latents from those of",
        "style guidance; after cfg_end the content's CFG is 1, which is another picture.",
    ]  # fmt: skip
    for name, entry in entries.items():
        options = entry["options"]
        lines += [
            "", f"## {name}", "",
            f"{entry['shape']}, {options['dtype']}, {options['repeats']} repetitions of {options['steps']} steps.",
            f"Machine: {entry['machine']}; load {entry['load'][0]:.1f} before, {entry['load'][1]:.1f} after.", "",
            "| | rows per model call | s per step | of CFG | peak MB | distance |", "|---|---|---|---|---|---|",
        ]  # fmt: skip
        for way, row in entry["ways"].items():
            peak = "–" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
            spread = "1" if way == CFG else f"**{row['ratio']:.2f}** ({row['least']:.2f} to {row['most']:.2f})"
            far = "–" if way in (CFG, JOINED) else f"{row['distance']:.0e}"
            lines.append(f"| {way} | {WAYS[way]} | {row['seconds']:.4g} | {spread} | {peak} | {far} |")
    return "\n".join(lines) + "\n"


def load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    parser.add_argument("--model", choices=("embedded", "sdxl"), default="embedded")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default=None, help="embedded: fp32, sdxl: bf16")
    parser.add_argument("--latents", type=int, default=None, help="side of the latents (the model's own)")
    parser.add_argument("--steps", type=int, default=8, help="denoising steps of a run, all of them guided")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--machine", default=machine, help="the machine, in words")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "guidance")
    options = parser.parse_args()
    options.dtype = options.dtype or ("fp32" if options.model == "embedded" else "bf16")
    return options


def main() -> None:
    options = parse_arguments()
    before = load()
    with torch.no_grad():
        bench = make_bench(options)
        rows = measure(bench, options)
    side = bench.settings["height"] // bench.pipe.vae_scale_factor
    parameters = sum(parameter.numel() for parameter in bench.pipe.unet.parameters()) / 1e6
    shape = f"U-Net of {parameters:.4g} M parameters, latents {side} × {side}, rank {bench.network.config.rank}"
    file = options.output.with_suffix(".json")
    entries = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    kept = {name: getattr(options, name) for name in ("dtype", "steps", "repeats")}
    entry = {"shape": shape, "options": kept, "machine": options.machine, "load": [before, load()], "ways": rows}
    entries[f"{options.model}, {options.device.partition(':')[0]}"] = entry
    file.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(report(entries), encoding="utf-8")
    print(report(entries))


if __name__ == "__main__":
    main()
