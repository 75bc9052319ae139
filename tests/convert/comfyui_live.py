"""Compares the nodes with plain ComfyUI on a running back end of Stable Diffusion 1.5's size, over HTTP.

    python tests/convert/comfyui_live.py prepare COMFYUI_DIR       # once: writes a random checkpoint and LoRAs
    python -m convert comfyui --into COMFYUI_DIR/custom_nodes
    cd COMFYUI_DIR && python main.py --cpu --port 8199
    python tests/convert/comfyui_live.py run http://127.0.0.1:8199 [NAME …]

Every case samples twice, with the nodes and with ComfyUI's own ones, and prints the largest difference of the two
pictures in steps of 255. Cases are listed by ``list``. Random weights draw patterns without meaning.
"""

from __future__ import annotations

import io
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from random_checkpoint import unet, write_checkpoint

SIZE, STEPS, CFG = 64, 2, 4.0
CHECKPOINT = "random-sd15.safetensors"


def prepare(folder: Path) -> None:
    """Writes the checkpoint, and as LoRAs: two random ones, one of zeros, and two that are to be refused."""
    write_checkpoint(folder / "models" / "checkpoints")
    loras = folder / "models" / "loras"
    save_file(random_lora(1), loras / "pair_random.safetensors")
    save_file(random_lora(2), loras / "pair_other.safetensors")
    save_file(random_lora(3, 0.0), loras / "pair_zero.safetensors")
    text = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(1, 768)}
    save_file({**random_lora(1), **text}, loras / "pair_text.safetensors")
    unknown = {key.replace("attn", "wrong"): value for key, value in random_lora(1).items()}
    save_file(unknown, loras / "pair_unknown.safetensors")


def random_lora(seed: int, scale: float = 0.3, rank: int = 4) -> dict[str, torch.Tensor]:
    """A LoRA on the attention and the convolutions' shortcuts of SD 1.5, in the layer names of the checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in unet(320):
        path = name.removesuffix(".weight")
        if name.endswith(".bias") or not any(part in path for part in ("attn", "skip_connection", "proj_in")):
            continue
        key = "lora_unet_" + path.replace(".", "_")
        down = torch.randn(rank, *shape[1:], generator=generator) * torch.Size(shape[1:]).numel() ** -0.5
        up = torch.randn(shape[0], rank, *(1,) * (len(shape) - 2), generator=generator) * scale
        tensors |= {f"{key}.lora_down.weight": down.half(), f"{key}.lora_up.weight": up.half()}
        tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    return tensors


class Graph:
    """A workflow in ComfyUI's API format, built node by node."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict] = {}

    def add(self, kind: str, **inputs: object) -> list:
        name = str(len(self.nodes) + 1)
        self.nodes[name] = {"class_type": kind, "inputs": inputs}
        return [name, 0]


def out(link: list, number: int) -> list:
    return [link[0], number]


class Case:
    """One comparison: settings of the sampling, and what the styled and the plain side put in."""

    def __init__(self, how: str, merged: bool = True, **changes: object) -> None:
        self.how, self.merged = how, merged
        self.sampler, self.batch, self.steps, self.denoise, self.twice = "euler", 1, STEPS, 1.0, False
        self.from_picture, self.inpaint, self.combined, self.negative = False, False, False, ""
        self.other, self.styles, self.scale, self.cfg_end = None, 1, 1.0, 1.0
        self.__dict__.update(changes)

    def graph(self, styled: bool) -> dict:
        """The workflow: with the nodes, or what must give the same picture without them."""
        g = self.g = Graph()
        self.cfg = CFG if (styled and self.cfg_end < 1) or not self.merged else 1.0
        checkpoint = g.add("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)
        self.model, self.clip, self.vae = (out(checkpoint, number) for number in range(3))
        if self.other:
            self.load_lora(self.other, 0.5)
        positive, negative = self.text("a red house"), self.text(self.negative)
        style = self.text("a red house in poster style")
        if self.combined:
            positive = g.add("ConditioningCombine", conditioning_1=positive, conditioning_2=self.text("a tree"))
        if not styled and self.merged:
            self.load_lora("pair_random.safetensors", 1.0)
        prompts = {"positive": positive if styled else style, "negative": negative}
        if self.how == "one node":
            return self.finished(self.with_one_node(styled, style, negative))
        styles = {"styles": self.style_list(style), "cfg_end": self.cfg_end} if styled else {}
        if self.how == "guider":
            kind = "PairNetworkGuider" if styled else "CFGGuider"
            guider = g.add(kind, model=self.model, **prompts, **styles, cfg=self.cfg)
            samples = self.in_passes(lambda latent, denoise: self.custom(guider, latent, denoise))
        else:
            model = g.add("PairNetworkPatch", model=self.model, **styles) if styled else self.model
            samples = self.in_passes(lambda latent, denoise: self.ksampler(model, prompts, latent, denoise))
        return self.finished(samples)

    def finished(self, samples: list) -> dict:
        image = self.g.add("VAEDecode", samples=samples, vae=self.vae)
        self.g.add("SaveImage", images=image, filename_prefix="pair_live")
        return self.g.nodes

    def with_one_node(self, styled: bool, style: list, negative: list) -> list:
        """The node that encodes by itself; without it the style's prompt goes to the sampler."""
        model, positive = self.model, style
        if styled:
            words = {"prompt": "a red house", "words": "in poster style"}
            lora = {"lora_name": "pair_random.safetensors", "scale": 1.0, "start": 0.0, "cfg_end": self.cfg_end}
            model = self.g.add("PairNetworkGuidance", model=self.model, clip=self.clip, **words, **lora)
            positive = out(model, 1)
        return self.ksampler(model, {"positive": positive, "negative": negative}, self.latent(), self.denoise)

    def text(self, words: str) -> list:
        return self.g.add("CLIPTextEncode", clip=self.clip, text=words)

    def load_lora(self, name: str, strength: float) -> None:
        self.model = self.g.add("LoraLoaderModelOnly", model=self.model, lora_name=name, strength_model=strength)

    def latent(self) -> list:
        g = self.g
        if not (self.from_picture or self.inpaint):
            return g.add("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=self.batch)
        image = g.add("EmptyImage", width=SIZE, height=SIZE, batch_size=1, color=0x406080)
        latent = g.add("VAEEncode", pixels=image, vae=self.vae)
        if self.inpaint:
            mask = g.add("SolidMask", value=1.0, width=SIZE, height=SIZE)
            hole = g.add("SolidMask", value=0.0, width=SIZE // 2, height=SIZE)
            mask = g.add("MaskComposite", destination=mask, source=hole, x=0, y=0, operation="multiply")
            latent = g.add("SetLatentNoiseMask", samples=latent, mask=mask)
        return latent

    def in_passes(self, sample: Callable[[list, float], list]) -> list:
        samples = sample(self.latent(), self.denoise)
        if self.twice:
            larger = self.g.add("LatentUpscaleBy", samples=samples, upscale_method="bilinear", scale_by=1.5)
            samples = sample(larger, 0.6)
        return samples

    def style_list(self, conditioning: list) -> list:
        lora, whole = ("pair_random.safetensors", self.scale) if self.merged else ("pair_zero.safetensors", CFG)
        styles: dict = {}
        for _ in range(self.styles):
            scale = whole / self.styles
            link = self.g.add(
                "PairNetworkStyle", conditioning=conditioning, lora_name=lora, scale=scale, start=0.0, end=1.0, **styles
            )
            styles = {"styles": link}
        return link

    def ksampler(self, model: list, prompts: dict, latent: list, denoise: float) -> list:
        return self.g.add(
            "KSampler", model=model, **prompts, latent_image=latent, seed=3, steps=self.steps, cfg=self.cfg,
            sampler_name=self.sampler, scheduler="normal", denoise=denoise,
        )  # fmt: skip

    def custom(self, guider: list, latent: list, denoise: float) -> list:
        g = self.g
        sigmas = g.add("BasicScheduler", model=self.model, scheduler="normal", steps=self.steps, denoise=denoise)
        noise, sampler = g.add("RandomNoise", noise_seed=3), g.add("KSamplerSelect", sampler_name=self.sampler)
        return g.add(
            "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
        )


def cases() -> dict[str, Case]:
    settings: dict[str, dict] = {
        **{name: {"sampler": name} for name in ("euler", "euler_ancestral", "dpmpp_2m", "ddim", "uni_pc")},
        "two passes": {"twice": True},
        "image to image": {"from_picture": True, "denoise": 0.7},
        "inpainting": {"inpaint": True},
        "batch 2": {"batch": 2},
        "combined prompts": {"combined": True},
        "long negative": {"negative": "blurred, " * 60},
        "another LoRA": {"other": "pair_other.safetensors"},
        "two styles": {"styles": 2},
    }
    found = {}
    for name, changes in settings.items():
        for how in ("guider", "patch"):
            for merged in (True, False):
                kind = "merged LoRA at CFG 1" if merged else f"style prompt at CFG {CFG:g}"
                found[f"{name}, {how}: {kind}"] = Case(how, merged, **changes)
    for how in ("guider", "patch", "one node"):
        found[f"content CFG that ends, {how}: merged LoRA at CFG 1"] = Case(how, cfg_end=0.0)
    found["one node: merged LoRA at CFG 1"] = Case("one node")
    return found


class Server:
    """ComfyUI's HTTP interface."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: object = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=600) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error

    def pictures(self, graph: dict) -> numpy.ndarray:
        """The pictures that a workflow saves, (number, height, width, 3); raises with ComfyUI's own message."""
        ticket = json.loads(self.ask("/prompt", {"prompt": graph}))["prompt_id"]
        while True:
            entry = json.loads(self.ask(f"/history/{ticket}")).get(ticket)
            if entry:
                break
            time.sleep(0.5)
        if entry["status"]["status_str"] != "success":
            errors = [
                body["exception_message"] for kind, body in entry["status"]["messages"] if kind == "execution_error"
            ]
            raise RuntimeError("; ".join(errors))
        images = [image for output in entry["outputs"].values() for image in output.get("images", [])]
        files = [
            self.ask(f"/view?filename={i['filename']}&subfolder={i['subfolder']}&type={i['type']}") for i in images
        ]
        return numpy.stack([numpy.asarray(Image.open(io.BytesIO(file)).convert("RGB"), int) for file in files])


def run(url: str, names: list[str]) -> int:
    """Runs the cases whose names contain one of ``names`` (all without any); returns the number that differ."""
    server, bad = Server(url), 0
    without = int(
        abs(server.pictures(Case("patch").graph(True)) - server.pictures(Case("patch", scale=0.0).graph(True))).max()
    )
    bad += without < 16
    print(
        f"what the style changes, λ 1 against λ 0: {without} of 255 (so a difference of 1 means something)", flush=True
    )
    for name, case in cases().items():
        if names and not any(part in name for part in names):
            continue
        styled, plain = server.pictures(case.graph(True)), server.pictures(case.graph(False))
        difference = int(abs(styled - plain).max())
        bad += difference > 1
        print(f"{name}: {difference} of 255 (the picture's own spread: {plain.std():.0f})", flush=True)
    for file in ("pair_text", "pair_unknown"):
        graph = Case("patch").graph(True)
        for node in graph.values():
            if node["class_type"] == "PairNetworkStyle":
                node["inputs"]["lora_name"] = f"{file}.safetensors"
        try:
            server.pictures(graph)
            print(f"{file}: a picture was made without an error")
            bad += 1
        except RuntimeError as error:
            print(f"{file}: refused: {error}", flush=True)
    return bad


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "prepare":
        prepare(Path(rest[0]))
    elif verb == "list":
        print("\n".join(cases()))
    else:
        sys.exit(run(rest[0], rest[1:]) > 0)
