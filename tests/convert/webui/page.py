"""Opens a live UI's page in Chromium, chooses a LoRA in the accordion, and takes a picture of what its card filled in.

    python tests/convert/webui/page.py http://127.0.0.1:7871 PICTURE.png [--install GIT_URL]

The UI is one that live.py started, whose LoRA style-a has a card; playwright must be in this Python, and Chromium on
the machine (CHROMIUM names its program). With --install, for a UI started --without-extension, the page's own "Install
from URL" and "Reload UI" come first: GIT_URL is a repository whose branch "webui" is what "python run.py package"
built. Ends with an error where the words or λ are not the card's.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from playwright.sync_api import Error, Page, expect, sync_playwright

PROMPT = "a photo of a cat"
PLACE = "#pair_network_txt2img"
LORA, WORDS, SCALE = "style-a", "in ink style", "4"  # the card of live.py
WIDTH = 1280
WAIT = 180_000  # ms: gradio's page is slow on a busy processor
OPTION = "ul.options li, [role=option]"  # gradio 3's, gradio 4's


def open_page(page: Page, url: str) -> None:
    page.goto(url, wait_until="domcontentloaded", timeout=WAIT)
    page.locator("#tab_txt2img").wait_for(state="attached")
    page.wait_for_timeout(4000)  # the UI's own scripts make accordions of checkboxes now


def install(page: Page, address: str) -> str:
    """What the UI says after its own "Install from URL"."""
    assert page.locator(PLACE).count() == 0, "the extension is there already"
    page.get_by_role("tab", name="Extensions", exact=True).or_(
        page.locator("#tabs > .tab-nav button", has_text="Extensions")
    ).first.click()
    page.locator("#tabs_extensions button", has_text="Install from URL").first.click()
    page.get_by_label("URL for extension's git repository").fill(address)
    page.get_by_label("Specific branch name").fill("webui")
    page.locator("#tab_extensions button", has_text="Install").locator("visible=true").last.click()
    result = page.locator("#extension_install_result").first  # gradio 3 gives the id twice
    expect(result).to_contain_text("Installed into", timeout=WAIT)
    return result.inner_text().strip()


def reload(page: Page, url: str) -> None:
    """Presses the settings' "Reload UI", and waits for the page that has the extension."""
    page.locator("#tabs > .tab-nav button", has_text="Settings").first.click()
    page.locator("#settings_restart_gradio").click()
    for _ in range(60):
        page.wait_for_timeout(3000)
        try:
            open_page(page, url)
        except Error:
            continue  # the server is down for a moment
        if page.locator(PLACE).count():
            return
    raise RuntimeError("the accordion did not appear after Reload UI")


def choose(page: Page) -> list[str]:
    """Opens the accordion and takes the LoRA from its dropdown; what the dropdown offered."""
    page.locator(f"{PLACE} .label-wrap").first.click()
    page.locator(f"{PLACE}_1_lora input").click()
    offered = page.locator(OPTION).all_inner_texts()
    page.locator(OPTION).filter(has_text=LORA).first.click()
    expect(page.locator(f"{PLACE}_1_words textarea")).to_have_value(WORDS, timeout=WAIT)
    expect(page.locator(f"{PLACE}_1_scale input[type=number]")).to_have_value(SCALE, timeout=WAIT)
    return [text.strip(" ✓\n") for text in offered]


def take(page: Page, picture: Path) -> None:
    """The page from its top to the accordion's end."""
    page.locator("#txt2img_prompt textarea").first.fill(PROMPT)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.wait_for_timeout(5000)  # until the token counter has answered
    box = page.locator(PLACE).bounding_box()
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": box["y"] + box["height"] + 2}
    page.screenshot(path=picture, clip=clip, full_page=True)


def look(url: str, picture: Path, address: str | None) -> dict[str, object]:
    """Takes the picture; returns what was said, offered and filled in."""
    found: dict[str, object] = {"words": WORDS, "scale": SCALE}
    with sync_playwright() as driver:
        program = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1600})
        page.set_default_timeout(60_000)
        try:
            open_page(page, url)
            if address:
                found["installed"] = install(page, address)
                reload(page, url)
            found["offered"] = choose(page)
            take(page, picture)
        except Exception:
            page.screenshot(path=picture.with_suffix(".failed.png"))
            raise
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--install", metavar="GIT_URL")
    options = parser.parse_args()
    print(json.dumps(look(options.url, options.picture, options.install), ensure_ascii=False))


if __name__ == "__main__":
    main()
