"""The app as a server: what machines ask of it, who gets in, how it ends, and what a kill costs."""

from __future__ import annotations

import io
import json
import logging
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from apart import run_apart
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from marco import logs
from marco.benchmarks import host
from marco.config import options
from marco.engines.scripted import ScriptedEngine
from marco.errors import InvalidOption
from marco.events import RolloutFinished
from marco.runs import list_runs, read_run
from marco.solver import Solution, Solver
from ui.auth import ATTEMPTS_A_MINUTE, credentials, gatekeeper
from ui.gate import FULL, Gate, Limits
from ui.metrics import Metrics
from ui.model_loader import ModelLoader
from ui.serve import Site
from ui.visitors import folder_of, new_secret

CALL = "/gradio_api/call/solve"


WATCH_CALLS = """
import sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        where = args[1] if event == "socket.connect" else args[0]
        name = where[0] if isinstance(where, tuple) else where
        if str(name) not in ("127.0.0.1", "localhost", "::1", "None") and not str(name).startswith("/"):
            with open({out!r}, "a") as out:
                out.write(f"{{event}} {{where}}\\n")
sys.addaudithook(watch)
"""


def body(number: int, rollouts: int) -> dict[str, Any]:
    question = f"What is twice number {number}, plus 1?"
    return {"data": [question, "marco", None, None, rollouts, None, None, None, None, 0]}


def events(url: str, number: int, rollouts: int) -> Iterator[tuple[str, Any]]:
    """What the endpoint streams, (event, data), until the caller has seen enough."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        told = client.post(CALL, json=body(number, rollouts))
        told.raise_for_status()
        kind = ""
        with client.stream("GET", f"{CALL}/{told.json()['event_id']}") as stream:
            for line in stream.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, json.loads(value)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """The app in a process of its own."""
    runs = tmp_path_factory.mktemp("runs")
    # Loaded by the interpreter before anything else: writes down whom the process calls.
    (runs / "sitecustomize.py").write_text(WATCH_CALLS.format(out=str(runs / "calls.txt")))
    env = {"PYTHONPATH": str(runs), "MARCO_OFFLINE": "1"}
    process, url = host.start(runs, seconds_per_token=0.01, env=env)
    yield process, url, runs
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


# What machines ask


def test_health_and_figures_tell_of_a_search(served):
    _, url, _ = served
    told = [data for kind, data in events(url, 21, 2) if kind == "complete"]
    assert told[0][0]["answer"] == "43"
    assert httpx.get(f"{url}/health").json() == {"status": "ready", "model": "scripted", "waiting": 0, "error": ""}
    text = httpx.get(f"{url}/metrics").text
    assert 'marco_searches_total{kind="solve",stopped_by="rollouts"} 1.0' in text
    generated = re.search(r"^marco_generated_tokens_total (\d+)", text, re.MULTILINE)
    assert generated is not None
    assert int(generated.group(1)) > 100
    for name in ("marco_searches_running", "marco_queue_length", "marco_memory_bytes", "marco_tokens_per_second"):
        assert re.search(rf"^{name} ", text, re.MULTILINE), name


def test_offline_it_calls_nobody_and_its_page_fetches_from_nobody(served):
    _, url, runs = served
    page = httpx.get(url).text
    assert "<html" in page
    assert not re.findall(r"""(?:src|href)=["']https?://(?!127\.0\.0\.1|localhost)[^"']*""", page)
    assert not (runs / "calls.txt").exists()


def test_a_body_that_is_too_large_is_refused_and_the_next_request_is_served(served):
    _, url, _ = served
    answer = httpx.post(f"{url}{CALL}", content=b"x" * 5_000_000)
    assert answer.status_code == 413
    assert "4,000,000 bytes" in answer.json()["detail"]
    assert httpx.get(f"{url}/health").status_code == 200


def test_a_kill_in_mid_search_loses_nothing_that_was_shown(served):
    process, url, runs = served
    shown: list[dict[str, Any]] = []
    for kind, data in events(url, 77, 200):
        if kind == "generating" and data[0].get("rollouts", 0) >= 3:
            shown.append(data[0])
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = next(summary for summary in list_runs(runs) if "77" in summary.question)
    recorded = read_run(run.path)
    assert sum(isinstance(event, RolloutFinished) for event in recorded.events) >= shown[0]["rollouts"]
    assert (run.answer, run.stopped_by) == (shown[0]["answer"], None)
    # The same model again, as after a restart: the run goes on, and what was on record stays first.
    engine = ScriptedEngine(host.think)
    target = shown[0]["rollouts"] + 8
    solution = Solution.of(Solver(engine).resume(run.path, rollouts=target))
    engine.close()
    assert solution.answer == "155"
    assert solution.rollouts >= target
    assert read_run(run.path).events[: len(recorded.events)] == recorded.events


def test_a_polite_kill_ends_searches_with_their_answer_on_record(tmp_path):
    process, url = host.start(tmp_path, seconds_per_token=0.01)
    for kind, data in events(url, 5, 500):
        if kind == "generating" and data[0].get("rollouts", 0) >= 2:
            process.terminate()
            break
    assert process.wait(timeout=60) == 0
    assert process.stdout is not None
    process.stdout.close()
    (run,) = list_runs(tmp_path)
    assert (run.answer, run.stopped_by) == ("11", "user")


# The gate


def asked(
    requests: list[tuple[str, str, bytes]],
    *,
    limits: Limits | None = None,
    waiting: int = 0,
    stopping: bool = False,
    path: str = "/{path:path}",
) -> tuple[list[httpx.Response], list[str]]:
    """What a gate before an echoing app makes of requests, and why it refused."""

    async def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    refused: list[str] = []
    gate = Middleware(
        Gate,  # type: ignore[arg-type]
        limits=limits or Limits(),
        waiting=lambda: waiting,
        room=128,
        stopping=lambda: stopping,
        refused=refused.append,
    )
    app = Starlette(routes=[Route(path, echo, methods=["GET", "POST"])], middleware=[gate])

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            return [await client.request(method, where, content=content) for method, where, content in requests]

    return run_apart(ask()), refused


JOIN = ("POST", "/gradio_api/queue/join", b"{}")


def test_a_full_line_is_told_kindly_and_says_when_to_come_back():
    (answer,), refused = asked([JOIN], waiting=128)
    assert (answer.status_code, answer.json()["detail"], refused) == (503, FULL, ["full"])
    assert answer.headers["retry-after"] == "60"


def test_with_room_in_the_line_nobody_is_refused():
    (answer,), refused = asked([JOIN], waiting=127)
    assert (answer.status_code, refused) == (200, [])


def test_reading_is_possible_also_when_the_line_is_full():
    (answer,), _ = asked([("GET", "/gradio_api/queue/data", b"")], waiting=500)
    assert answer.status_code == 200


def test_a_server_that_stops_takes_no_more_searches():
    (answer,), refused = asked([("POST", "/gradio_api/call/solve", b"{}")], stopping=True)
    assert (answer.status_code, refused) == (503, ["stopping"])


@pytest.mark.parametrize(
    ("request_", "limits"),
    [
        (JOIN, Limits(searches_a_minute=3)),
        (("POST", "/gradio_api/run/predict", b"{}"), Limits(calls_a_second=3)),
        (("POST", "/login", b"{}"), Limits(logins_a_minute=3)),
        (("POST", "/login/", b"{}"), Limits(logins_a_minute=3)),
    ],
)
def test_an_address_may_do_so_much_and_no_more(request_, limits):
    answers, _ = asked([request_] * 5, limits=limits)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]


def test_a_body_is_measured_whatever_it_says_of_itself():
    async def lie() -> None:
        yield b"x" * 600
        yield b"x" * 600

    def application() -> list[httpx.Response]:
        (answer,), _ = asked([("POST", "/upload", lie())], limits=Limits(body_bytes=1000))  # type: ignore[list-item]
        return [answer]

    assert application()[0].status_code == 413


@pytest.mark.parametrize("length", ["-5", "many", "99999999999999999999"])
def test_a_length_that_is_none_is_refused(length):
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def never(*_: Any) -> None:
        raise AssertionError("it went through")

    gate = Gate(never, limits=Limits(), waiting=lambda: 0, room=1, stopping=lambda: False, refused=lambda why: None)
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [(b"content-length", length.encode())]}
    run_apart(gate(scope, never, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 413


# Who gets in


def test_names_and_passwords_come_from_a_file(tmp_path):
    path = tmp_path / "auth"
    path.write_text("# the lab\nada:with:colons\n\n bob : two words\n")
    assert credentials(path) == {"ada": "with:colons", "bob": " two words"}


def test_names_and_passwords_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("MARCO_AUTH", "ada:secret")
    assert credentials() == {"ada": "secret"}
    monkeypatch.delenv("MARCO_AUTH")
    assert credentials() == {}


@pytest.mark.parametrize("text", ["", "ada\n", ":secret\n", "ada:\n", "ada:1\nada:2\n", "\x00"])
def test_a_file_that_lets_in_whom_nobody_meant_is_refused(tmp_path, text):
    path = tmp_path / "auth"
    path.write_text(text)
    with pytest.raises(InvalidOption) as caught:
        credentials(path)
    assert "secret" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidOption, match="can be read"):
        credentials(tmp_path / "absent")


def test_the_right_password_opens_and_no_other():
    may_enter = gatekeeper({"ada": "pässword", "bob": "1"})
    assert may_enter("ada", "pässword")
    assert not may_enter("ada", "1")
    assert not may_enter("eve", "\0")
    assert not may_enter("", "")
    assert not may_enter("ada", "\ud800")


def test_attempts_are_throttled_by_name():
    may_enter = gatekeeper({"ada": "secret", "bob": "secret"})
    assert not any(may_enter("ada", str(guess)) for guess in range(ATTEMPTS_A_MINUTE))
    assert not may_enter("ada", "secret")
    assert may_enter("bob", "secret")


# Whose runs are whose


class Visit:
    def __init__(self, username: str | None = None) -> None:
        self.username = username


SECRETS = ["x" * 32, "y" * 32, "../../../etc/passwd-and-more-of-this", "\x00" * 40, "\ud800" * 40, "a/" * 20, "." * 32]


def test_every_visitor_has_a_folder_of_their_own_below_the_runs(tmp_path):
    folders = [folder_of(tmp_path, Visit(), secret, shared=True) for secret in SECRETS]  # type: ignore[arg-type]
    folders += [folder_of(tmp_path, Visit(name), SECRETS[0], shared=True) for name in ("ada", "bob", "../ada")]  # type: ignore[arg-type]
    assert len(set(folders)) == len(folders)
    for folder in folders:
        assert folder is not None
        assert folder.parent == tmp_path
        assert re.fullmatch(r"visitor-[0-9a-f]{32}", folder.name)


@pytest.mark.parametrize("secret", [None, "", "x", "guess", "x" * 31, 7, ["x"] * 40])
def test_without_a_secret_of_ones_own_nothing_is_kept(tmp_path, secret):
    assert folder_of(tmp_path, Visit(), secret, shared=True) is None  # type: ignore[arg-type]


def test_new_secrets_are_long_enough_and_never_the_same(tmp_path):
    assert len({new_secret() for _ in range(100)}) == 100
    assert folder_of(tmp_path, Visit(), new_secret(), shared=True) is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("guess", ["{run}", "../{folder}/{run}", "{folder}/{run}", "..", "", "%2e%2e/x", "a" * 200])
def test_another_visitors_run_is_not_to_be_had_by_guessing_its_name(tmp_path, guess):
    from marco.errors import RunFileError
    from ui.library import _read

    mine, theirs = (folder_of(tmp_path, Visit(name), None, shared=True) for name in ("ada", "bob"))  # type: ignore[arg-type]
    assert mine is not None
    assert theirs is not None
    engine = ScriptedEngine(lambda prefix, seed: "<Output>1</Output>")
    solver = Solver(engine, options("marco", rollouts=1), runs=theirs)
    solver.solve("A secret question.")
    engine.close()
    assert solver.run is not None
    assert _read(theirs, solver.run.stem).started.question == "A secret question."
    with pytest.raises(RunFileError):
        _read(mine, guess.format(run=solver.run.stem, folder=theirs.name))


def test_a_host_that_others_reach_and_one_with_passwords_are_shared():
    assert not Site().shared
    assert Site(host="0.0.0.0").shared
    assert Site(auth={"ada": "1"}).shared


# Logs and figures


def told(act: Callable[[], None]) -> list[dict[str, Any]]:
    stream = io.StringIO()
    logs.configure("json", stream)
    try:
        act()
    finally:
        logger = logging.getLogger("marco")
        logger.handlers.clear()
        logger.propagate = True
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def search(question: str = "Well?") -> None:
    engine = ScriptedEngine(lambda prefix, seed: "<Output>1</Output>")
    Solver(engine, options("marco", rollouts=2)).solve(question)
    engine.close()


def test_a_search_is_logged_with_its_id_and_without_its_question():
    begun, ended = told(lambda: search("Tell nobody of this."))
    assert (begun["event"], ended["event"]) == ("search started", "search ended")
    assert begun["search"] == ended["search"] != ""
    assert ended["stopped_by"] in ("rollouts", "done")
    assert "nobody" not in json.dumps([begun, ended])


def test_a_search_that_is_left_says_so():
    def leave() -> None:
        engine = ScriptedEngine(lambda prefix, seed: "<Output>1</Output>")
        stream = Solver(engine, options("marco", rollouts=2)).stream("Well?")
        next(iter(stream))
        stream.close()  # type: ignore[attr-defined]
        engine.close()

    assert told(leave)[-1]["stopped_by"] == "left"


def test_a_logged_failure_is_one_line_whatever_it_holds():
    def fail() -> None:
        try:
            raise ValueError("\ud800 \x1b[31m \n</script>")
        except ValueError:
            logging.getLogger("marco.test").exception("It broke: %s", "\x00\n")

    (line,) = told(fail)
    assert line["level"] == "error"
    assert "ValueError" in line["error"]


def test_figures_follow_searches():
    metrics = Metrics(ModelLoader(lambda progress: ScriptedEngine(lambda prefix, seed: "1")), lambda: 3)
    logger = logging.getLogger("marco.session")
    logger.addHandler(metrics)
    logger.setLevel(logging.INFO)
    try:
        search()
    finally:
        logger.removeHandler(metrics)
        logger.setLevel(logging.NOTSET)
    assert metrics.running_now() == 0
    assert b"marco_search_seconds_count 1.0" in metrics.text()
    assert b"marco_queue_length 3.0" in metrics.text()
    assert b"marco_model_ready 0.0" in metrics.text()
