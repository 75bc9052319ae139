"""Opens a running ComfyUI in Chromium with the one-node workflow, searches for the nodes, and takes two pictures.

    python tests/convert/comfyui_page.py http://127.0.0.1:8188 WORKFLOW.png SEARCH.png

ComfyUI is one that comfyui_live.py prepared, with the nodes in its custom_nodes; playwright must be in this Python, and
Chromium on the machine (CHROMIUM names its program). Prints where the nodes stand among what each search found, and
ends with an error where they are not there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WORKFLOW = Path(__file__).parents[2] / "convert" / "comfyui" / "example_workflows" / "style_guidance_one_node.json"
FILES = {"CheckpointLoaderSimple": {0: "random-sd15.safetensors"},
         "PairNetworkGuidance": {1: "in ink style", 2: "pair_random.safetensors", 3: 4.0}}  # fmt: skip
SEARCHES = ("style guidance", "lora", "guidance", "pair")
RESULT = "[role=option], .option-container, [data-testid='result-item']"
WAIT = 120_000


def workflow() -> dict:
    """The example, with the files that are there."""
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in graph["nodes"]:
        for place, value in FILES.get(node["type"], {}).items():
            node["widgets_values"][place] = value
    return graph


def open_workflow(page: Page, url: str) -> None:
    page.goto(url, wait_until="domcontentloaded", timeout=WAIT)
    page.wait_for_function("window.app && window.app.graph && window.app.canvas", timeout=WAIT)
    page.wait_for_timeout(8000)
    page.keyboard.press("Escape")  # the template browser opens by itself at the first start
    page.evaluate("graph => window.app.loadGraphData(graph)", workflow())
    page.wait_for_timeout(3000)
    page.evaluate("window.app.canvas.ds.scale = 0.95; window.app.canvas.ds.offset = [80, 110]; "
                  "window.app.extensionManager.command.execute('Comfy.Canvas.ToggleMinimap')")  # fmt: skip
    page.wait_for_timeout(2000)


def search(page: Page, words: str) -> list[str]:
    """What the canvas' search offers for ``words``."""
    page.evaluate("window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.wait_for_timeout(1000)
    page.keyboard.type(words, delay=40)
    page.wait_for_timeout(2500)
    return [" ".join(text.split()) for text in page.locator(RESULT).all_inner_texts()]


def main() -> int:
    url, picture, searched = sys.argv[1:]
    missed = []
    with sync_playwright() as driver:
        program = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1500, "height": 800})
        open_workflow(page, url)
        page.screenshot(path=picture)
        for words in SEARCHES:
            found = search(page, words)
            names = list(dict.fromkeys(found))
            ours = [place for place, name in enumerate(names, 1) if "comfyui-pair-network" in name]
            print(f"{words}: ours are in the places {ours} of {len(names)}")
            if not ours:
                missed.append(words)
            if words == SEARCHES[0]:
                page.screenshot(path=searched)
            page.keyboard.press("Escape")
            page.wait_for_timeout(500)
        browser.close()
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
