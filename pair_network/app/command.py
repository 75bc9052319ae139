"""``pair-network app``: opens the page on this computer."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pair_network.errors import PairError
from pair_network.options import option, read
from pair_network.training.finish import Uis

INSTALL = f'{sys.executable} -m pip install "gradio>=6"'


@dataclass(frozen=True)
class AppOptions:
    """The options of the verb."""

    folder: Path = option(Path("pair-network"), "of the trainings", Path)
    models: Sequence[Path] = option((), "folders of models to offer", Path, nargs="+", metavar="DIR")
    webui: Path | None = option(None, "folder of A1111 or Forge that gets finished LoRAs", Path, metavar="DIR")
    comfyui: Path | None = option(None, "folder of ComfyUI that gets finished LoRAs", Path, metavar="DIR")
    port: int = option(7865, "where the page is served", int)
    listen: str = option(
        "127.0.0.1", "address to serve at", default="127.0.0.1, this computer alone", metavar="ADDRESS"
    )
    no_browser: bool = option(False, "do not open the page in the browser")


def run(argv: Sequence[str]) -> int:
    """Serves the page until it is interrupted; trainings go on after that.

    Raises:
        PairError: Gradio is missing, a folder or the port cannot be used.
    """
    args = read("pair-network app", __doc__, AppOptions, argv)
    for folder in args.models:
        if not folder.is_dir():
            raise PairError(f"--models {folder}: no such folder")
    if not 0 < args.port < 65536:
        raise PairError(f"--port {args.port}: must lie between 1 and 65535")
    uis = Uis(args.webui, args.comfyui)
    uis.check()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio as gr
    except ImportError as cause:
        raise PairError(f"the page needs Gradio ({cause}): {INSTALL}") from cause
    from .actions import Workplace
    from .page import CSS, page

    work = Workplace(args.folder, tuple(args.models), uis)
    os.environ["GRADIO_TEMP_DIR"] = str(work.folder / "sent")
    ended = threading.Event()
    threading.Thread(target=work.queue.work, args=(ended,), daemon=True).start()
    system = ["system-ui", "sans-serif"]  # fonts of the system: nothing is fetched
    theme = gr.themes.Base(font=system, font_mono=["ui-monospace", "monospace"])
    try:
        page(work).launch(
            server_name=args.listen, server_port=args.port, inbrowser=not args.no_browser, share=False, theme=theme,
            css=CSS, allowed_paths=[str(work.folder)], show_error=True, max_file_size="100mb",
        )  # fmt: skip
    except OSError as cause:
        raise PairError(f"--port {args.port}: cannot be used ({cause}); choose another one") from cause
    finally:
        ended.set()
        work.queue.close()
    return 0
