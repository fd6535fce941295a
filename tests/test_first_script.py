"""A page's own first script: it is there before Gradio's, and what never stops asking for frames gets few."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from marco.engines.scripted import ScriptedEngine
from ui.first_script import FirstScript

PAGE = "<!doctype html><html><head><script>theirs()</script></head><body>" + "long " * 1000 + "<head></body></html>"

COUNT = """() => new Promise((done) => {
  let frames = 0, cancelled = false;
  const began = performance.now();
  (function again() {
    requestAnimationFrame(() => { frames += 1; performance.now() - began < 6000 ? again() : done(frames); });
  })();
})"""


@pytest.fixture
def site() -> TestClient:
    routes = [
        Route("/", lambda _: HTMLResponse(PAGE)),
        Route("/text", lambda _: PlainTextResponse("<head>")),
        Route("/file/run.html", lambda _: HTMLResponse(PAGE)),
    ]
    return TestClient(
        Starlette(routes=routes, middleware=[Middleware(FirstScript, script="ours()"), Middleware(GZipMiddleware)])
    )


def test_the_script_stands_before_every_other_once(site: TestClient) -> None:
    text = site.get("/", headers={"accept": "text/html", "accept-encoding": "gzip"}).text
    assert text == PAGE.replace("<head>", "<head><script>ours()</script>", 1)


def test_what_is_no_page_stays_as_it_is(site: TestClient) -> None:
    assert site.get("/file/run.html", headers={"accept": "text/html"}).text == PAGE
    head = site.head("/", headers={"accept": "text/html", "accept-encoding": "identity"})
    assert head.headers["content-length"] == str(len(PAGE))
    assert site.get("/text", headers={"accept": "text/html"}).text == "<head>"
    assert site.get("/", headers={"accept": "application/json"}).text == PAGE


def test_who_asks_for_frame_after_frame_gets_few_and_others_all(apps, open_page, tmp_path: Path) -> None:
    page = open_page(apps.start(ScriptedEngine(lambda prefix, seed: "4"), records=tmp_path).url)
    # 120 at full speed, then one a second.
    assert page.evaluate(COUNT) <= 120 + 6
    # Short chains, as animations are, come to their end.
    assert (
        page.evaluate(
            "() => new Promise((done) => { let n = 0; (function next() { requestAnimationFrame(() => "
            "++n === 50 ? done(n) : next()); })(); })"
        )
        == 50
    )


def test_a_frame_that_was_put_off_can_be_cancelled(apps, open_page, tmp_path: Path) -> None:
    page = open_page(apps.start(ScriptedEngine(lambda prefix, seed: "4"), records=tmp_path).url)
    after = page.evaluate("""() => new Promise((done) => {
      let n = 0, id = 0;
      (function next() { id = requestAnimationFrame(() => { n += 1; next(); }); })();
      const wait = setInterval(() => {
        if (id >= 0) return;
        clearInterval(wait);
        cancelAnimationFrame(id);
        const then = n;
        setTimeout(() => done(n - then), 1500);
      }, 5);
    })""")
    assert after == 0
