"""``pair-network app``: opens the page on this computer."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from pair_network.errors import PairError
from pair_network.training.finish import Uis

INSTALL = f'{sys.executable} -m pip install "gradio>=6"'


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="pair-network app", description=__doc__, allow_abbrev=False)
    found.add_argument("--folder", type=Path, default=Path("pair-network"), help="of the trainings (pair-network)")
    found.add_argument("--models", type=Path, nargs="+", default=[], metavar="DIR", help="folders of models to offer")
    found.add_argument("--webui", type=Path, metavar="DIR", help="folder of A1111 or Forge that gets finished LoRAs")
    found.add_argument("--comfyui", type=Path, metavar="DIR", help="folder of ComfyUI that gets finished LoRAs")
    found.add_argument("--port", type=int, default=7865)
    found.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS", help="this computer alone (127.0.0.1)")
    found.add_argument("--no_browser", action="store_true", help="do not open the page in the browser")
    return found


def run(argv: Sequence[str]) -> int:
    """Serves the page until it is interrupted; trainings go on after that.

    Raises:
        PairError: Gradio is missing, a folder or the port cannot be used.
    """
    args = parser().parse_args(list(argv))
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
