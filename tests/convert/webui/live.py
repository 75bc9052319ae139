"""Starts A1111, Forge or a descendant headless on the CPU with random weights, and asks it for pictures over HTTP.

To look at a live UI, or to run the live tests against one that stays up:

    python tests/convert/webui/live.py a1111 CHECKOUT --python UI_PYTHON --tokenizer CLIP_FOLDER --port 7871
    A1111_URL=http://127.0.0.1:7871 pytest tests/convert/webui/test_live.py

CHECKOUT is a clone with its repositories in place (A1111: stable-diffusion-stability-ai, generative-models,
k-diffusion, BLIP; Forge: huggingface_guess, BLIP), UI_PYTHON the Python that has its requirements. With --width 32
Forge and Neo know the model when SD15's model_channels in huggingface_guess/model_list.py is 32 too, reForge and Forge
Classic when those of ldm_patched/modules/supported_models.py are. CLIP_FOLDER holds
the tokenizer and config.json of openai/clip-vit-large-patch14, where they are not in the hub's cache. All that is
written, the extension included, goes to a data folder of its own; the checkout stays as it is.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save_file

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
START_SECONDS, REQUEST_SECONDS = 900, 1800
COMMON = ["--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-version-check", "--api", "--no-hashing",
          "--disable-console-progressbars"]  # fmt: skip
NO_DOWNLOAD = "--no-download-sd-model"
OF_UI = {
    "a1111": [NO_DOWNLOAD, "--use-cpu", "all", "--no-half", "--precision", "full"],
    "forge": [NO_DOWNLOAD, "--always-cpu"],
    "forge_neo": ["--cpu"],
    "forge_classic": [NO_DOWNLOAD, "--always-cpu"],
    "reforge": [NO_DOWNLOAD, "--always-cpu"],
}
REAL_VAE = ("forge", "forge_neo", "reforge", "forge_classic")  # take no smaller autoencoder, whatever the U-Net's width
CARD = {"activation text": "in ink style", "style guidance scale": 4}  # of style-a
# Some previews would download a model of their own. Neo waits for a key where a config.json is not of its own series.
# At 0, its default, Forge Classic has CFG 1 in every first step; the others have a negative number for 0.
SETTINGS = {"live_previews_enable": False, "VERSION_UID": "PY313", "skip_early_cond": -1}
DEFAULTS = {
    "prompt": "a photo of a cat", "negative_prompt": "blurry", "seed": 5, "steps": 4, "cfg_scale": 1, "width": 64,
    "height": 64, "sampler_name": "Euler", "scheduler": "Automatic",
}  # fmt: skip


class Backend:
    """A running UI."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind, self.url = kind, url.rstrip("/")

    def request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
            return json.load(answer)

    def pictures(self, mode: str = "txt2img", style: list[Any] | None = None, **settings: Any) -> Pictures:
        """Pictures of one request; ``style`` holds the arguments of style guidance."""
        body = {**DEFAULTS, **settings}
        if style is not None:
            body.setdefault("alwayson_scripts", {})["style guidance"] = {"args": style}
        answer = self.request(f"/sdapi/v1/{mode}", body)
        return Pictures(answer["images"], json.loads(answer["info"])["infotexts"])

    @staticmethod
    def as_png(pixels: np.ndarray) -> str:
        """A picture (height, width, 3) of 0 to 255 as requests take it."""
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()


class Pictures:
    """What a request gave: pixels as int64 arrays (height, width, 3), and an infotext for each."""

    def __init__(self, encoded: list[str], infotexts: list[str]) -> None:
        self.encoded, self.infotexts = encoded, infotexts
        self.pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB"), int) for one in encoded]

    def distance(self, other: Pictures) -> int:
        """Largest difference of any pixel, of 255."""
        assert len(self.pixels) == len(other.pixels) > 0
        return max(int(abs(a - b).max()) for a, b in zip(self.pixels, other.pixels, strict=True))


def make_data(kind: str, folder: Path, width: int, tokenizer: str | None, with_extension: bool = True) -> None:
    """Fills a data folder: random checkpoint, LoRAs, and the extension as the installer puts it there."""
    for name in ("models/Stable-diffusion", "models/Lora", "extensions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _module(HERE.parent / "random_checkpoint.py").write_checkpoint(
        folder / "models" / "Stable-diffusion", width, 128 if kind in REAL_VAE else None
    )
    for name, tensors in _module(HERE / "random_loras.py").loras(width).items():
        save_file(tensors, folder / "models" / "Lora" / f"{name}.safetensors")
    (folder / "models" / "Lora" / "style-a.json").write_text(json.dumps(CARD))
    if with_extension:
        command = [sys.executable, "-m", "convert", "webui", "--into", str(folder / "extensions")]
        subprocess.run(command, cwd=ROOT, check=True)
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    if tokenizer:  # from_pretrained takes a folder below the working directory for the hub's name
        shutil.copytree(tokenizer, folder / "openai" / "clip-vit-large-patch14", dirs_exist_ok=True)


def _module(file: Path) -> Any:
    specification = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def start(kind: str, checkout: Path, python: str, data: Path, port: int) -> subprocess.Popen:
    """Starts the UI and waits until its API answers.

    Raises:
        RuntimeError: It ended or did not answer in time; the end of its log is in the message.
    """
    script = checkout.resolve() / "launch.py"
    command = [python, str(script), *COMMON, *OF_UI[kind], "--data-dir", str(data), "--port", str(port)]
    command += ["--gradio-allowed-path", str(script.parent)]  # the page's own scripts, outside the working directory
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "no_proxy": "127.0.0.1,localhost",
                   "GRADIO_ANALYTICS_ENABLED": "False"}  # fmt: skip
    if kind == "forge_classic":  # looks for it in the working directory
        (data / "ldm_patched").symlink_to(script.parent / "ldm_patched")
    log = data / "ui.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=data, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(Backend(kind, f"http://127.0.0.1:{port}"), process, log)
    except BaseException:
        process.terminate()
        raise
    return process


def _wait(backend: Backend, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        time.sleep(2)
        # Not asked earlier: A1111 fails to start when a request comes between its server and its API.
        if "Startup time" in log.read_text(errors="replace"):
            backend.request("/sdapi/v1/scripts")
            return
    raise RuntimeError(f"{backend.kind} did not start:\n{log.read_text()[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(OF_UI))
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--tokenizer")
    parser.add_argument("--port", type=int, default=7871)
    parser.add_argument("--width", type=int, default=320, help="the U-Net's first width; 320 is SD 1.5's")
    parser.add_argument("--without-extension", action="store_true", help="to install it by URL (page.py)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the UI ends with this process
    with tempfile.TemporaryDirectory() as folder:
        make_data(options.kind, Path(folder), options.width, options.tokenizer, not options.without_extension)
        process = start(options.kind, options.checkout, options.python, Path(folder), options.port)
        print(f"{options.kind} answers on port {options.port}; its data and log are in {folder}", flush=True)
        try:
            process.wait()
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main()
