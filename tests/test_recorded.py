"""What real servers answered, read by the adapters and by the whole engine.

The answers under `recorded/` were written down by `recorded/record.py`; each folder's VERSION says of which server.
They are found by what is asked: where Marco asks for something else than was recorded, they must be recorded anew.
"""

from __future__ import annotations

import base64
import http.server
import json
import math
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from recorded.record import GREEDY, GREETING, SEED, SIBLINGS, Asked

from marco.engines.base import Chunk, Completion, Request
from marco.engines.server import ServerEngine
from marco.engines.servers.base import Delta, Token, read_line, refuse, without_temperature
from marco.engines.servers.look import HOT, TEMPERED, examine, look_at
from marco.errors import ServerError, ServerUnreachable

FOLDER = Path(__file__).parent / "recorded"
KINDS = sorted(path.name for path in FOLDER.iterdir() if (path / "VERSION").exists())
Recorded = Callable[..., str]


def conversation(kind: str, name: str) -> list[dict[str, Any]]:
    return list(json.loads((FOLDER / kind / f"{name}.json").read_text("utf-8")))


def body_of(exchange: dict[str, Any]) -> bytes:
    return exchange["body"].encode() if "body" in exchange else base64.b64decode(exchange["base64"])


@pytest.fixture
def recorded(monkeypatch) -> Iterator[Recorded]:
    """Starts servers that say again what was recorded: `recorded(kind, *conversations)` is the address of one."""
    monkeypatch.delenv("MARCO_API_KEY", raising=False)
    servers = []

    def start(kind: str, *names: str) -> str:
        known = [exchange for name in names for exchange in conversation(kind, name)]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(None)

            def do_POST(self) -> None:
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, asked: Any) -> None:
                wanted = (self.command, self.path, asked)
                found = [one for one in known if (one["method"], one["path"], one["json"]) == wanted]
                status, body = (found[0]["status"], body_of(found[0])) if found else (418, b"This was not recorded.")
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Encoding(Asked):
    """The server's own token ids of a text; texts of ids are not needed here."""

    end_ids: frozenset[int] = frozenset()

    def decode(self, ids: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        return "", (0,) * len(ids)


def deltas(kind: str, name: str) -> list[Delta]:
    """What the adapter makes of a recorded stream."""
    adapter = look_at_recording(kind).adapter
    reader = adapter.reader()
    (exchange,) = conversation(kind, name)
    return [delta for line in body_of(exchange).decode().splitlines() for delta in read_line("It", reader, line)]


def look_at_recording(kind: str) -> Any:
    answers = {one["path"]: httpx.Response(one["status"], content=body_of(one)) for one in conversation(kind, "look")}
    transport = httpx.MockTransport(lambda request: answers[request.url.path])
    return look_at(httpx.Client(base_url="http://server", transport=transport), "http://server")


def whole(kind: str) -> tuple[list[int], str]:
    """The ids and the text that the server gave at once for the greedy call, read without an adapter."""
    (exchange,) = conversation(kind, "whole")
    told = json.loads(body_of(exchange))
    if kind == "llamacpp":
        return told["tokens"], told["content"]
    if kind == "sglang":
        return told[0]["output_ids"], told[0]["text"]
    return told["choices"][0]["token_ids"], told["choices"][0]["text"]


def run(engine: ServerEngine, *requests: Request) -> tuple[list[Completion], dict[int, str]]:
    told: queue.Queue[Chunk | Completion] = queue.Queue()
    engine.submit(requests, told.put)
    texts: dict[int, str] = {request.work: "" for request in requests}
    done: dict[int, Completion] = {}
    while len(done) < len(requests):
        one = told.get(timeout=30)
        if isinstance(one, Completion):
            done[one.work] = one
        else:
            texts[one.work] += one.text
    return [done[request.work] for request in requests], texts


@pytest.fixture
def engine_of(recorded) -> Iterator[Callable[..., tuple[ServerEngine, tuple[int, ...]]]]:
    """An engine on a recording, and the ids of the greeting there."""
    engines = []

    def start(kind: str, *names: str) -> tuple[ServerEngine, tuple[int, ...]]:
        url = recorded(kind, "look", "examine", *names)
        with httpx.Client(base_url=url) as client:
            tokenizer: Any = Encoding(client, look_at(client, url).adapter)
            greeting = tokenizer.encode(GREETING)
            engines.append(ServerEngine(url, tokenizer=tokenizer))
            tokenizer.encode = lambda text: pytest.fail("the connection is closed")
        return engines[-1], greeting

    yield start
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_is_known_and_lacks_nothing(kind, recorded):
    url = recorded(kind, "look", "examine")
    with httpx.Client(base_url=url) as client:
        found = look_at(client, url)
        tokenizer: Any = Encoding(client, found.adapter)
        seen = examine(client, found, tokenizer, "The server")
    assert found.adapter.kind == {"llamacpp": "llama.cpp"}.get(kind, kind)
    assert found.context == 512
    assert (seen.logprobs, seen.tempered, seen.lacks) == (True, False, ())


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_comes_to_what_the_server_says_at_once(kind, engine_of):
    engine, greeting = engine_of(kind, "greedy")
    (done,), texts = run(engine, Request(1, greeting, GREEDY, SEED, threading.Event()))
    assert (list(done.token_ids), texts[1]) == whole(kind)
    assert (done.finish, len(done.token_ids)) == ("length", GREEDY.max_tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_the_five_candidates_and_their_log_probabilities_are_read(kind, engine_of):
    engine, greeting = engine_of(kind, "greedy")
    (done,), _ = run(engine, Request(1, greeting, GREEDY, SEED, threading.Event()))
    for number, logprob, top in zip(done.token_ids, done.logprobs, done.top, strict=True):
        assert len(dict(top)) == 5
        assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)
        assert all(value <= 0 for _, value in top)
        assert (number, logprob) == top[0], "greedy takes the first"


@pytest.mark.parametrize("kind", KINDS)
def test_siblings_of_a_recorded_call_differ_and_the_prompt_is_read_once(kind, engine_of):
    engine, greeting = engine_of(kind, "siblings")
    requests = [Request(work, greeting, SIBLINGS, SEED + work, threading.Event()) for work in range(3)]
    done, texts = run(engine, *requests)
    assert [(one.finish, one.error, len(one.token_ids)) for one in done] == [("length", None, 5)] * 3
    assert len({one.token_ids for one in done}) > 1
    assert all(texts.values())
    for one in done:
        assert None not in one.logprobs
        assert [len(top) for top in one.top] == [5] * 5
    assert [one.prefilled + one.cached for one in done] == [len(greeting)] * 3
    # SGLang reads the last token of a prompt again for each sibling, and says so.
    assert [one.prefilled for one in done[1:]] == [1 if kind == "sglang" else 0] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_in_mid_character_is_told_or_counted(kind):
    told = deltas(kind, "rare")
    named = sum(len(delta.tokens) for delta in told)
    counted = max(delta.written or 0 for delta in told)
    assert (named, counted) == {"llamacpp": (3, 6)}.get(kind, (6, 0))
    assert any(delta.finish == "length" for delta in told)


@pytest.mark.parametrize("name", ["too-long", "nonsense"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_is_told_in_the_servers_words(kind, name):
    (exchange,) = conversation(kind, name)
    with pytest.raises(ServerError, match=r"(HTTP 400|reported): \w+") as refusal:
        if exchange["status"] == 200:
            deltas(kind, name)
        refuse("The server", exchange["status"], body_of(exchange))
    assert '"error"' not in str(refusal.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rollout_that_is_too_long_fails_with_the_servers_words(kind, engine_of):
    engine, greeting = engine_of(kind, "too-long")
    prefix = greeting * (512 // len(greeting) + 1)
    (done,), _ = run(engine, Request(1, prefix, GREEDY, SEED, threading.Event()))
    assert (done.finish, done.token_ids) == ("failed", ())
    assert "512" in str(done.error)


@pytest.mark.parametrize("kind", ["llamacpp", "sglang"])
def test_a_server_that_is_locked_says_so(kind, recorded):
    url = recorded(kind, "locked")
    with httpx.Client(base_url=url) as client, pytest.raises(ServerUnreachable, match="MARCO_API_KEY"):
        look_at(client, url)


def told_by(stream: list[Delta]) -> tuple[list[Token], bytes]:
    return [token for delta in stream for token in delta.tokens], b"".join(delta.data for delta in stream)


def events(name: str) -> list[dict[str, Any]]:
    (exchange,) = conversation("sglang", name)
    lines = body_of(exchange).decode().splitlines()
    return [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data: {")]


def test_sglang_repeating_itself_or_not_tells_the_same():
    whole, new = events("greedy"), events("incremental")
    assert [len(event["output_ids"]) for event in whole] == [1, 2, 3, 4, 5, 6]
    assert [len(event["output_ids"]) for event in new] == [1, 1, 1, 1, 2]
    assert told_by(deltas("sglang", "greedy")) == told_by(deltas("sglang", "incremental"))


def test_what_sglang_repeats_may_be_ahead_of_its_count():
    """The lists in an event grow until it is written, which for siblings is at times after the next token."""
    known = events("ahead")
    assert any(len(event["output_ids"]) > event["meta_info"]["completion_tokens"] for event in known)
    last = {event["index"]: event for event in known if event["meta_info"]["finish_reason"]}
    assert len(last) == 3
    stream = deltas("sglang", "ahead")
    for index, event in last.items():
        tokens, data = told_by([delta for delta in stream if delta.index == index])
        assert [token.id for token in tokens] == event["output_ids"]
        assert data.decode() == event["text"]
        chosen, tops = (event["meta_info"][name] for name in ("output_token_logprobs", "output_top_logprobs"))
        assert [token.logprob for token in tokens] == [value for value, *_ in chosen]
        assert [dict(token.top) for token in tokens] == [{one: value for value, one, _ in top} for top in tops]


def test_sglang_with_the_temperature_in_its_log_probabilities_is_found_out(recorded):
    url = recorded("sglang", "look", "tempered")
    with httpx.Client(base_url=url) as client:
        found = look_at(client, url)
        tokenizer: Any = Encoding(client, found.adapter)
        seen = examine(client, found, tokenizer, "The server")
    assert (seen.logprobs, seen.tempered, seen.lacks) == (True, True, (TEMPERED,))


def test_the_temperature_is_taken_out_of_what_sglang_told():
    adapter = look_at_recording("sglang").adapter
    cold, hot = (
        token
        for exchange in conversation("sglang", "tempered")
        if exchange["path"] == adapter.path
        for line in body_of(exchange).decode().splitlines()
        for delta in read_line("It", adapter.reader(), line)
        for token in delta.tokens
    )

    def shares(token: Token) -> dict[int, float]:
        odds = {number: math.exp(value) for number, value in token.top}
        return {number: one / sum(odds.values()) for number, one in odds.items()}

    assert shares(hot) != pytest.approx(shares(cold), abs=1e-3)
    assert shares(without_temperature(hot, HOT)) == pytest.approx(shares(cold), abs=1e-5)


def test_there_are_recordings():
    assert {"llamacpp", "sglang", "vllm"} <= set(KINDS)
