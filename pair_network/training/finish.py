"""The end of a training for the user: the files that were made, what to write in a prompt, and where the LoRA goes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from pair_network.errors import PairError
from pair_network.network.pair_file import PAIR_SUFFIX

from .report.record import SUFFIX, read_record

LORA_FOLDERS = "models/Lora of A1111 or Forge, models/loras of ComfyUI"


@dataclass(frozen=True)
class Uis:
    """The UIs' own folders, into which a finished LoRA is put."""

    webui: Path | None = None
    comfyui: Path | None = None

    def check(self) -> None:
        """Raises PairError now, and not after the training, when a folder is not that of its UI."""
        if self.webui is not None and not all((self.webui / part).is_dir() for part in ("models", "extensions")):
            raise PairError(
                f"--webui {self.webui}: holds no models and extensions folders; name the folder of A1111 or Forge"
            )
        if self.comfyui is not None and not all((self.comfyui / part).is_dir() for part in ("models", "custom_nodes")):
            raise PairError(
                f"--comfyui {self.comfyui}: holds no models and custom_nodes folders; name the folder of ComfyUI"
            )

    def commands(self, lora: Path) -> list[list[str]]:
        """What ``convert`` is told, so that the LoRA and the extension lie where the UIs look for them."""
        found = []
        if self.webui is not None:
            found.append(["a1111", str(lora), "--webui", str(self.webui), "--overwrite"])
        if self.comfyui is not None:
            target = self.comfyui / "models" / "loras" / lora.name
            found.append(["a1111", str(lora), "--ui", "comfyui", "-o", str(target), "--overwrite"])
            found.append(["comfyui", "--into", str(self.comfyui / "custom_nodes")])
        return found


def is_first_process() -> bool:
    """Whether this is the process of a distributed run that speaks to the user."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def lora_file(output_dir: str, output_name: str) -> Path:
    return Path(output_dir) / f"{output_name or 'last'}.safetensors"


def summary(lora: Path) -> list[str]:
    """Lines about a run that has written its last files: files, trigger words, picture, and where the LoRA goes."""
    pair = lora.with_name(lora.stem + PAIR_SUFFIX)
    lines = ["", f"made {lora}, the style LoRA"]
    if pair.is_file():
        lines.append(f"     {pair}, both branches: to go on training, and for convert")
    words = trigger_words(lora)
    if words:
        lines.append(f'in a prompt: "a photo of a cat {words}"')
    pictures = sorted((lora.parent / "sample").glob(f"{lora.stem}_*.png"), key=lambda path: path.stat().st_mtime)
    if pictures:
        lines.append(f"to look at: {pictures[-1].parent} (base | style LoRA | style guidance)")
    record = read_record(lora.with_name(f"{lora.stem}{SUFFIX}"))
    if record is not None and record.advice:
        lines.append(str(record.advice["text"]))
    report = lora.parent / "report.html"
    if report.is_file():
        lines.append(f"report: {report}")
    return lines


def trigger_words(lora: Path) -> str:
    """The words that a LoRA was trained with, from its metadata; "" where it says nothing."""
    try:
        with safe_open(lora, "pt") as handle:
            return str((handle.metadata() or {}).get("modelspec.trigger_phrase", ""))
    except (OSError, SafetensorError):
        return ""
