"""The whole road by mouse in a real browser, on the bundled model: pair, check, training, reload, sending."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("CHROMIUM")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="CHROMIUM, the browser's program, is not set"),
]
SHOTS = Path(os.environ["APP_SHOTS"]) if os.environ.get("APP_SHOTS") else None  # where pictures of the page are kept
PATIENCE = float(os.environ.get("APP_PATIENCE", "300")) * 1000  # milliseconds for a training or a picture
PAIR = ROOT / "demo/pairs/content/house.png", ROOT / "demo/pairs/ink/house.png"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    for part in ("models/Lora", "extensions"):
        (folder / "webui" / part).mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def server(place):
    pytest.importorskip("gradio", reason="gradio is not installed in this Python")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (place / "server.txt").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "pair_network", "app", "--folder", str(place / "work"), "--port", str(port),
         "--webui", str(place / "webui"), "--no_browser"],
        cwd=ROOT, stdout=log, stderr=log,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + PATIENCE / 1000
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            break
        except OSError:
            time.sleep(0.5)
    assert process.poll() is None, (place / "server.txt").read_text()
    yield url
    process.terminate()
    process.wait(600)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed in this Python")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def context(browser):
    found = browser.new_context(viewport={"width": 1100, "height": 1250})
    found.set_default_timeout(PATIENCE)
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(context, server):
    found = context.new_page()
    found.goto(server)
    found.wait_for_selector("#train")
    return found


def shot(page, name):
    if SHOTS is not None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(SHOTS / f"{name}.png"), full_page=True)


def drop(page, field, file):
    page.set_input_files(f"{field} input[type=file]", str(file))
    page.wait_for_selector(f"{field} img")


def open_tab(page, name, tag):
    """Opens a tab and waits until it offers the finished style."""
    page.get_by_role("tab", name=name).click()
    page.wait_for_function("tag => document.querySelector(`#style-${tag} input`)?.value === 'ink'", arg=tag)


def wait_for(page, selector, words):
    page.wait_for_function(
        "([selector, words]) => document.querySelector(selector)?.innerText.includes(words)", arg=[selector, words]
    )


def test_bad_input_is_a_sentence_on_the_page(page):
    page.click("#train")
    page.get_by_text("the style's words: nothing is there").wait_for()
    drop(page, "#photo", PAIR[0])
    drop(page, "#painting", PAIR[0])
    wait_for(page, "#findings", "the photo and the painting are the same picture: there is no style to learn")
    page.fill("#words textarea, #words input", "in ink style")
    page.click("#train")
    page.get_by_text("the same picture: there is no style to learn").nth(1).wait_for()
    assert "Traceback" not in page.content()


def test_a_pair_is_checked_and_trained(page):
    page.locator("#painting").get_by_label("Remove Image").click()
    drop(page, "#painting", PAIR[1])
    page.wait_for_function(
        "() => { const t = document.querySelector('#findings').innerText; return t && !t.includes('same picture') }"
    )
    page.fill("#shows textarea, #shows input", "a photo of a red house on a yellow background")
    page.locator("label").filter(has_text="quick look").click()
    page.locator("#more input").uncheck()
    page.click("#train")
    page.wait_for_function("() => /trains|is done/.test(document.querySelector('#status').innerText)")
    shot(page, "training")


def test_a_reload_and_a_second_tab_see_the_same_training(page, context, server):
    page.reload()
    wait_for(page, "#status", "ink")
    second = context.new_page()
    second.goto(server)
    wait_for(second, "#status", "ink")
    second.close()


def test_it_is_stopped_and_resumed_and_ends(page, place):
    status = "document.querySelector('#status').innerText"
    page.wait_for_function(f"() => /step |is done/.test({status})")
    page.click("#stop")
    page.wait_for_function(f"() => /stopped|is done/.test({status})")
    if "stopped" in page.inner_text("#status"):
        assert list((place / "work/ink").glob("ink-step*-state"))
        page.click("#resume")
    wait_for(page, "#status", "is done")
    page.wait_for_selector("#previews img")
    page.wait_for_selector("#curves svg polyline")
    assert (place / "work/ink/ink.safetensors").is_file() and (place / "work/ink/report.html").is_file()
    page.wait_for_timeout(2500)
    shot(page, "done")


def test_strengths_are_compared_and_the_file_goes_into_the_ui(page, place):
    open_tab(page, "Compare", "compare")
    page.fill("#prompt textarea, #prompt input", "a photo of a cat")
    page.click("#draw")
    page.wait_for_selector("#compared img")
    page.wait_for_timeout(1000)
    shot(page, "compare")
    open_tab(page, "Use it", "use")
    page.click("#send")
    wait_for(page, "#where", "models")
    assert (place / "webui/models/Lora/ink.safetensors").is_file()
    assert (place / "webui/extensions/sd-webui-pair-network/scripts").is_dir()
    page.click("#convert")
    page.wait_for_selector("#file a, #file .file-preview")
    assert (place / "work/ink/ink-a1111.safetensors").is_file()


def test_a_photo_is_restyled(page, place):
    open_tab(page, "Restyle a photo", "restyle")
    drop(page, "#restyle-photo", ROOT / "demo/pairs/content/boat.png")
    page.locator("button#restyle").click()
    page.wait_for_selector("#restyled img")
    shot(page, "restyle")


def test_files_outside_the_folder_are_not_served(server):
    for path in ("/etc/passwd", str(ROOT / "run.py")):
        with pytest.raises(OSError, match=r"40[034]"):
            urllib.request.urlopen(f"{server}/gradio_api/file={path}", timeout=300)


def test_nothing_is_fetched_from_elsewhere(browser, server):
    context = browser.new_context()
    page, seen = context.new_page(), []
    page.on("request", lambda request: seen.append(request.url))
    page.goto(server)
    page.wait_for_selector("#train")
    context.close()
    foreign = [url for url in seen if not re.match(r"(http|ws)://(127\.0\.0\.1|localhost)|data:|blob:", url)]
    assert foreign == []
