"""Take the README's pictures from the running app: `make screenshots`.

Starts the app with the real model in a process of its own, asks the question of the README in a browser, and saves
docs/reason.png, docs/dark.png (that run, in the dark), docs/translate.png and docs/lab.png (the largest evaluation of
benchmarks/, where there is one). Arguments name the pictures to take. MODEL= names another model, URL= an app that runs
already.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import FLAGS  # noqa: E402
from get_browser import find_browser  # noqa: E402

QUESTION = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"
SENTENCE = "这个鞋拥有踩屎感，很舒服，推荐购买"
PATIENCE = 900_000
"""Milliseconds for a search; two slow cores take minutes."""


def ask(page: Page) -> None:
    page.locator("#reason-question textarea").fill(QUESTION)
    page.locator("#reason-run").click()
    page.wait_for_selector("#reason-status:has-text('Done')", timeout=PATIENCE)
    page.locator("#reason-tree [data-node='1.0']").first.click()
    page.wait_for_timeout(1500)
    page.screenshot(path=ROOT / "docs" / "reason.png", full_page=True)


def dark(page: Page) -> None:
    light = page.url
    page.goto(f"{light.partition('?')[0]}?__theme=dark")
    page.wait_for_selector("#masthead [data-opened]")
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_selector("#runs-list .link, #runs-list .muted")
    asked = page.locator("#runs-list .link", has_text=QUESTION[:40])
    if asked.count():
        asked.first.click()
        page.locator("#runs-tree .kind-thought").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_timeout(1500)
        page.screenshot(path=ROOT / "docs" / "dark.png", full_page=True)
    else:
        sys.stderr.write("The question was not asked yet: `reason` asks it.\n")
    page.goto(light)
    page.wait_for_selector("#masthead [data-opened]")


def translate(page: Page) -> None:
    page.get_by_role("tab", name="Translate").click()
    page.locator("#translate-text textarea").fill(SENTENCE)
    page.locator("#translate-run").click()
    page.wait_for_selector("#translate-status:has-text('Done')", timeout=PATIENCE)
    page.wait_for_timeout(1500)
    page.screenshot(path=ROOT / "docs" / "translate.png", full_page=True)


def lab(page: Page) -> None:
    page.get_by_role("tab", name="Lab").click()
    page.wait_for_selector("#lab-list .link, #lab-list .muted")
    if page.locator("#lab-list .link").count() == 0:
        sys.stderr.write("There is no evaluation to take a picture of.\n")
        return
    sizes = page.locator("#lab-list tbody td:nth-child(2)").all_inner_texts()
    largest = max(range(len(sizes)), key=lambda row: int(sizes[row].replace(",", "")))
    page.locator("#lab-list .link").nth(largest).click()
    page.frame_locator("#lab-report iframe").locator(".js-plotly-plot").first.wait_for(timeout=PATIENCE)
    # A frame that was out of sight is not drawn on a picture of the whole page.
    page.set_viewport_size({"width": 1280, "height": 1700})
    page.locator("#lab-report iframe").scroll_into_view_if_needed()
    page.wait_for_timeout(3000)
    page.screenshot(path=ROOT / "docs" / "lab.png")


PICTURES = {"reason": ask, "dark": dark, "translate": translate, "lab": lab}


def main() -> None:
    url = os.environ.get("URL")
    app = None
    if url is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        model = os.environ.get("MODEL", "qwen2.5-coder-1.5b")
        app = subprocess.Popen([sys.executable, "app.py", "--model", model, "--port", str(port)], cwd=ROOT)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
            page.goto(url)
            page.wait_for_selector("#masthead [data-opened]")
            for name in sys.argv[1:] or PICTURES:
                PICTURES[name](page)
            browser.close()
    finally:
        if app is not None:
            app.terminate()
            app.wait(30)


if __name__ == "__main__":
    main()
