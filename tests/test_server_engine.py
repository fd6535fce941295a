"""The server engine against a server that behaves, and against one that does not."""

from __future__ import annotations

import http.server
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from marco.config import ModelConfig, SamplingConfig
from marco.engines import open_engine
from marco.engines import server as module
from marco.engines.base import Chunk, Completion, EngineInfo, Request
from marco.engines.scripted import END, ByteTokenizer
from marco.engines.server import ServerEngine
from marco.engines.servers.tokenizer import ServerTokenizer
from marco.engines.servers.vllm import VLLM
from marco.errors import EngineError, InvalidOption, ServerError, ServerUnreachable

PREFIX = tuple(b"What?")
ANSWER = "Hi, 你好 🎉!"


class Bytes(ByteTokenizer):
    """Tokens are bytes, so what was withheld can be read off what was written."""

    def withheld(self, data: bytes, count: int, last: int) -> tuple[int, ...] | None:
        return tuple(data[:-1]) if len(data) == count + 1 and data[-1] == last else None


class Llama:
    """Speaks as llama.cpp's server does: tokens are bytes, and those in mid-character are withheld."""

    def __init__(self) -> None:
        self.answer = [*ANSWER.encode(), END]
        self.logprobs = True
        self.tops = 5
        self.key: str | None = None
        self.calls: list[dict[str, Any]] = []
        self.behaviour: list[Callable[[http.server.BaseHTTPRequestHandler, dict[str, Any]], bool]] = []
        """What the next calls do instead of answering; a true result means: answer all the same."""
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.props: dict[str, Any] = {
            "default_generation_settings": {"n_ctx": 4096},
            "total_slots": 4,
            "model_path": "/elsewhere/model.gguf",
        }
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.get(self)

            def do_POST(self) -> None:
                outer.post(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def get(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        if self.key and handler.headers.get("Authorization") != f"Bearer {self.key}":
            say(handler, 401, {"error": {"message": "Invalid API Key"}})
        else:
            say(handler, 200, self.props) if handler.path == "/props" else say(handler, 404, {})

    def post(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        bytewise = ByteTokenizer()
        if handler.path == "/tokenize":
            ids = [END if part == "<end>" else byte for part in split(body) for byte in part.encode()[: span(part)]]
            return say(handler, 200, {"tokens": ids})
        if handler.path == "/detokenize":
            return say(handler, 200, {"content": bytewise.decode(body["tokens"])[0]})
        if handler.path == "/apply-template":
            turns = "".join(f"{m['role']}:{m['content']}<end>" for m in body["messages"])
            return say(handler, 200, {"prompt": turns + "assistant:"})
        with self.lock:
            self.calls.append(body)
            self.at_once += body["n_cmpl"]
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if not self.behaviour or self.behaviour.pop(0)(handler, body):
                self.complete(handler, body)
        finally:
            with self.lock:
                self.at_once -= body["n_cmpl"]

    def complete(self, handler: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if not body["stream"]:
            done = bytes(body["prompt"][len(PREFIX) :])
            rest = self.answer[len(done) :][: body["n_predict"]]
            return say(handler, 200, {"tokens": rest, "stop_type": "limit", "completion_probabilities": []})
        begin_stream(handler)
        for index in reversed(range(body["n_cmpl"])):
            for event in self.events(index, body["n_predict"]):
                send(handler, event)
        return None

    def events(self, index: int, limit: int) -> Iterator[dict[str, Any]]:
        data = b""
        answer = self.answer[:limit]
        for count, number in enumerate(answer, start=1):
            data += bytes([number]) if number < END else b""
            if data.decode("utf-8", "ignore").encode() != data:
                continue
            event = {
                "index": index,
                "content": data.decode(),
                "tokens": [number],
                "stop": False,
                "tokens_predicted": count,
            }
            if self.logprobs:
                top = [{"id": number, "logprob": -0.25}, *({"id": i, "logprob": -2.0 - i} for i in range(1, self.tops))]
                told = {"id": number, "bytes": list(data), "logprob": -0.25, "top_logprobs": top}
                event["completion_probabilities"] = [told]
            yield event
            data = b""
        ended = answer[-1] == END
        timings = {"prompt_n": 3, "cache_n": 2}
        stop = {"index": index, "content": "", "tokens": [], "stop": True, "tokens_predicted": len(answer)}
        yield {**stop, "stop_type": "eos" if ended else "limit", "timings": timings}


def split(body: dict[str, Any]) -> list[str]:
    parts = body["content"].split("<end>") if body["parse_special"] else [body["content"]]
    return [piece for part in parts for piece in (part, "<end>")][:-1]


def span(part: str) -> int | None:
    return 1 if part == "<end>" else None


def say(handler: http.server.BaseHTTPRequestHandler, status: int, told: Any) -> None:
    body = json.dumps(told).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def begin_stream(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()


def send(handler: http.server.BaseHTTPRequestHandler, event: Any) -> None:
    handler.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
    handler.wfile.flush()


@pytest.fixture
def llama() -> Iterator[Llama]:
    llama = Llama()
    yield llama
    llama.http.shutdown()
    llama.http.server_close()


@pytest.fixture
def engine(llama, monkeypatch) -> Iterator[ServerEngine]:
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    engine = ServerEngine(llama.url, tokenizer=Bytes())
    llama.calls.clear()
    yield engine
    engine.close()


def request(work: int = 0, *, prefix: Sequence[int] = PREFIX, max_tokens: int = 100, seed: int = 7) -> Request:
    return Request(work, tuple(prefix), SamplingConfig(max_tokens=max_tokens), seed, threading.Event())


def run(engine: ServerEngine, *requests: Request) -> tuple[list[Completion], list[Chunk]]:
    """What comes of requests submitted together: completions in the order of the requests, and all chunks."""
    told: queue.Queue[Chunk | Completion] = queue.Queue()
    engine.submit(requests, told.put)
    chunks: list[Chunk] = []
    done: dict[int, Completion] = {}
    while len(done) < len(requests):
        one = told.get(timeout=30)
        if isinstance(one, Completion):
            assert one.work not in done
            done[one.work] = one
        else:
            assert one.work not in done
            chunks.append(one)
    return [done[each.work] for each in requests], chunks


# A server that behaves


def test_every_token_is_accounted_for_also_those_the_server_withholds(engine, llama):
    (done,), chunks = run(engine, request())
    assert done.token_ids == tuple(llama.answer)
    assert (done.text, done.finish, done.error) == (ANSWER, "stop", None)
    assert "".join(chunk.text for chunk in chunks) == ANSWER
    complete = [place == 0 or done.offsets[place] > done.offsets[place - 1] for place in range(len(done.offsets))]
    told = [*complete[:-1], True]
    assert [logprob is not None for logprob in done.logprobs] == told
    assert [bool(top) for top in done.top] == told
    assert done.logprobs[-1] == -0.25
    assert (done.prefilled, done.cached) == (3, 2)


def test_sampling_is_temperature_and_top_p_and_nothing_else(engine, llama):
    run(engine, request())
    (call,) = llama.calls
    assert call["samplers"] == ["temperature", "top_p"]
    assert (call["top_k"], call["min_p"], call["stop"]) == (0, 0.0, [])
    assert (call["prompt"], call["seed"], call["n_predict"]) == (list(PREFIX), 7, 100)
    assert call["post_sampling_probs"] is False


def test_siblings_go_out_in_one_call_and_strangers_in_their_own(engine, llama):
    done, _ = run(engine, request(1, seed=5), request(2), request(3, prefix=b"Who?"), request(4))
    assert [one.work for one in done] == [1, 2, 3, 4]
    assert sorted((call["n_cmpl"], call["seed"]) for call in llama.calls) == [(1, 7), (3, 5)]
    assert {one.token_ids for one in done} == {tuple(llama.answer)}


def test_no_more_than_the_slots_are_under_way(engine, llama):
    assert engine.info.slots == 4
    done, _ = run(engine, *(request(work, prefix=bytes([65 + work % 3])) for work in range(23)))
    assert {one.finish for one in done} == {"stop"}
    assert llama.most_at_once <= 4


def test_a_rollout_cut_in_mid_character_still_has_all_its_tokens(engine, llama):
    for limit in range(1, len(llama.answer)):
        (done,), _ = run(engine, request(max_tokens=limit))
        assert done.token_ids == tuple(llama.answer[:limit])
        assert done.finish == "length"


def test_totals_add_up(engine, llama):
    run(engine, request(1), request(2))
    usage = engine.usage()
    assert usage["requests"] == 2
    assert usage["generated"] == 2 * len(llama.answer)
    assert (usage["prefilled"], usage["cached"]) == (3, 2 + 5)
    assert usage["computed"] == usage["generated"] + 3


def test_a_model_that_writes_past_the_end_of_its_turn_is_stopped(engine, llama):
    llama.answer = [*b"Yes", END, *b"<|im_start|>user"]
    (done,), _ = run(engine, request())
    assert (done.text, done.finish, done.token_ids[-1]) == ("Yes", "stop", END)


def test_a_context_without_room_is_refused_with_the_figures(engine):
    (done,), _ = run(engine, request(prefix=[65] * 5000))
    assert done.finish == "failed"
    assert "5000 tokens" in (done.error or "")
    assert "4096" in (done.error or "")


def test_what_is_asked_for_is_cut_to_the_room_that_the_context_has(engine, llama):
    run(engine, request(prefix=[65] * 4090, max_tokens=100))
    assert llama.calls[0]["n_predict"] == 6


def test_a_server_without_logprobs_says_so(llama):
    llama.logprobs = False
    engine = ServerEngine(llama.url, tokenizer=Bytes())
    assert engine.info.logprobs is False
    (done,), _ = run(engine, request())
    assert done.token_ids == tuple(llama.answer)
    assert set(done.logprobs) == {None}
    assert set(done.top) == {()}
    engine.close()


# Cancelling


def test_a_cancelled_request_ends_with_what_was_written_and_the_server_is_let_go(engine, llama):
    hung_up = threading.Event()

    def write_a_little(handler: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        begin_stream(handler)
        for event in list(llama.events(0, 100))[:4]:
            send(handler, event)
        if handler.connection.recv(1) == b"":
            hung_up.set()
        return False

    llama.behaviour = [write_a_little]
    told: queue.Queue[Chunk | Completion] = queue.Queue()
    asked = request()
    engine.submit([asked], told.put)
    for _ in range(4):
        assert isinstance(told.get(timeout=30), Chunk)
    asked.cancel.set()
    done = told.get(timeout=30)
    assert isinstance(done, Completion)
    assert (done.finish, done.text) == ("cancelled", ANSWER[:4])
    assert hung_up.wait(30)


def test_a_request_is_cancelled_also_while_the_server_still_reads_the_prompt(engine, llama):
    reading, hung_up = threading.Event(), threading.Event()

    def read_for_ever(handler: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        reading.set()
        if handler.connection.recv(1) == b"":
            hung_up.set()
        return False

    llama.behaviour = [read_for_ever]
    told: queue.Queue[Chunk | Completion] = queue.Queue()
    asked = request()
    engine.submit([asked], told.put)
    assert reading.wait(30)
    asked.cancel.set()
    done = told.get(timeout=30)
    assert isinstance(done, Completion)
    assert (done.finish, done.token_ids) == ("cancelled", ())
    assert hung_up.wait(30)
    assert run(engine, request())[0][0].finish == "stop"


def test_cancelling_one_sibling_leaves_the_others(engine, llama):
    going_on = threading.Event()

    def wait_first(handler: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        return going_on.wait(30)

    llama.behaviour = [wait_first]
    told: queue.Queue[Chunk | Completion] = queue.Queue()
    one, other = request(1), request(2)
    engine.submit([one, other], told.put)
    one.cancel.set()
    first = told.get(timeout=30)
    going_on.set()
    rest = [first]
    while not isinstance(rest[-1], Completion) or rest[-1].work != 2:
        rest.append(told.get(timeout=30))
    assert isinstance(first, Completion)
    assert (first.work, first.finish) == (1, "cancelled")
    assert rest[-1].finish == "stop"
    assert all(isinstance(told_one, Completion) or told_one.work == 2 for told_one in rest)


def test_requests_that_wait_for_a_slot_can_be_cancelled(engine, llama):
    going_on = threading.Event()
    llama.behaviour = [lambda handler, body: going_on.wait(30)]
    told: queue.Queue[Chunk | Completion] = queue.Queue()
    engine.submit([request(work) for work in range(4)], lambda _: None)
    waiting = request(9, prefix=b"later")
    engine.submit([waiting], told.put)
    waiting.cancel.set()
    done = told.get(timeout=30)
    going_on.set()
    assert isinstance(done, Completion)
    assert done.finish == "cancelled"
    assert len(llama.calls) <= 1


def test_closing_ends_what_is_under_way_and_refuses_more(llama):
    engine = ServerEngine(llama.url, tokenizer=Bytes())
    reached = threading.Event()
    llama.behaviour = [lambda handler, body: bool(reached.set()) or bool(handler.connection.recv(1))]
    told: queue.Queue[Chunk | Completion] = queue.Queue()
    engine.submit([request()], told.put)
    assert reached.wait(30)
    engine.close()
    engine.close()
    done = told.get(timeout=30)
    assert isinstance(done, Completion)
    assert done.finish == "cancelled"
    with pytest.raises(EngineError, match="closed"):
        engine.submit([request()], told.put)


# A server that does not behave


def failing(status: int, message: str) -> Callable[[http.server.BaseHTTPRequestHandler, dict[str, Any]], bool]:
    return lambda handler, body: bool(say(handler, status, {"error": {"message": message}}))


def hang_up(handler: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
    handler.connection.shutdown(socket.SHUT_RDWR)
    return False


@pytest.mark.parametrize("trouble", [failing(503, "busy"), failing(429, "slow down"), hang_up])
def test_trouble_before_the_first_token_is_tried_again(engine, llama, trouble):
    llama.behaviour = [trouble]
    (done,), _ = run(engine, request())
    assert (done.finish, done.text) == ("stop", ANSWER)
    assert len(llama.calls) == 2


def test_trouble_that_stays_is_told_with_the_servers_name(engine, llama):
    llama.behaviour = [failing(500, "out of paper")] * 2
    (done,), _ = run(engine, request())
    assert done.finish == "failed"
    assert done.error == f"The server at {llama.url} failed 2 times (HTTP 500: out of paper)."


def test_a_refusal_is_not_tried_again(engine, llama):
    llama.behaviour = [failing(400, "prompt is empty")]
    (done,), _ = run(engine, request())
    assert done.error == f"The server at {llama.url} refused the request (HTTP 400: prompt is empty)."
    assert len(llama.calls) == 1


def test_a_stream_that_breaks_off_keeps_what_came(engine, llama):
    def break_off(handler: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        begin_stream(handler)
        for event in list(llama.events(0, 100))[:5]:
            send(handler, event)
        return False

    llama.behaviour = [break_off]
    (done,), _ = run(engine, request())
    assert (done.finish, done.text) == ("failed", ANSWER[:5])
    assert f"The server at {llama.url} broke off in the middle of an answer" in (done.error or "")
    assert len(llama.calls) == 1


@pytest.mark.parametrize(
    "event",
    [
        {"content": "x"},
        {"tokens": "many", "stop": False, "tokens_predicted": 1},
        {"tokens": [], "stop": False, "tokens_predicted": 1, "completion_probabilities": [{"id": 1}]},
        {
            "tokens": [65],
            "stop": False,
            "tokens_predicted": 1,
            "completion_probabilities": [{"id": 65, "bytes": [65], "logprob": float("nan"), "top_logprobs": []}],
        },
        ["a", "list"],
        7,
        None,
    ],
)
def test_a_chunk_that_makes_no_sense_fails_the_rollout(engine, llama, event):
    def babble(handler: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        begin_stream(handler)
        send(handler, event)
        return False

    llama.behaviour = [babble]
    (done,), _ = run(engine, request())
    assert done.finish == "failed"
    assert f"The server at {llama.url} sent a chunk that makes no sense" in (done.error or "")
    assert run(engine, request())[0][0].finish == "stop"


def test_an_error_in_mid_stream_is_passed_on(engine, llama):
    def fail_late(handler: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        begin_stream(handler)
        send(handler, {"error": {"code": 500, "message": "Context size has been exceeded."}})
        return False

    llama.behaviour = [fail_late]
    (done,), _ = run(engine, request())
    assert "Context size has been exceeded." in (done.error or "")


def test_withheld_tokens_that_cannot_be_told_fail_the_rollout(engine, llama):
    def swallow(handler: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        begin_stream(handler)
        send(handler, {"content": "a", "tokens": [97], "stop": False, "tokens_predicted": 4})
        return False

    llama.behaviour = [swallow]
    (done,), _ = run(engine, request())
    assert done.finish == "failed"
    assert "left out 3 tokens" in (done.error or "")


def test_a_listener_that_fails_takes_no_sibling_with_it(engine):
    told: queue.Queue[Completion] = queue.Queue()

    def listen(one: Chunk | Completion) -> None:
        if one.work == 1:
            raise RuntimeError("no room for this one")
        if isinstance(one, Completion):
            told.put(one)

    engine.submit([request(1), request(2)], listen)
    assert told.get(timeout=30).text == ANSWER


def test_a_tokenizer_that_fails_fails_the_rollout_only(engine, monkeypatch):
    def broken(ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        raise ServerError("It could not tokenise.")

    with monkeypatch.context() as patch:
        patch.setattr(engine.tokenizer, "decode", broken)
        (done,), _ = run(engine, request())
    assert (done.finish, done.error) == ("failed", "It could not tokenise.")
    assert run(engine, request())[0][0].finish == "stop"


# Looking at a server


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_nobody_there_is_told_at_once():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServerUnreachable, match=f"No server answers at {url}"):
        ServerEngine(url, tokenizer=Bytes())


def test_a_proxy_in_the_environment_is_not_for_this_machine(llama, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    engine = ServerEngine(llama.url, tokenizer=Bytes())
    assert run(engine, request())[0][0].text == ANSWER
    engine.close()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"engine": "llama.cpp", "base_urls": ("http://127.0.0.1:1",)}, "left out with engine llama.cpp"),
    ],
)
def test_addresses_that_will_not_be_used_are_refused(options, told):
    with pytest.raises(InvalidOption, match=told):
        open_engine(ModelConfig(**options))


def test_something_else_there_is_no_server(llama):
    llama.props = {"hello": "world"}
    with pytest.raises(ServerUnreachable, match="no server that Marco knows"):
        ServerEngine(llama.url, tokenizer=Bytes())


def test_the_key_comes_from_the_environment(llama, monkeypatch):
    llama.key = "secret"
    monkeypatch.delenv("MARCO_API_KEY", raising=False)
    with pytest.raises(ServerUnreachable, match="MARCO_API_KEY") as caught:
        ServerEngine(llama.url, tokenizer=Bytes())
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("MARCO_API_KEY", "secret")
    ServerEngine(llama.url, tokenizer=Bytes()).close()


def test_the_address_may_end_as_openai_clients_want_it(llama):
    engine = ServerEngine(llama.url + "/v1/", tokenizer=Bytes())
    assert engine.base_url == llama.url
    assert engine.info == EngineInfo(
        engine="server", model="model.gguf", device=f"llama.cpp at {llama.url}", context=4096, slots=4, logprobs=True
    )
    engine.close()


def test_a_server_whose_model_is_not_here_tokenises_itself(llama):
    engine = ServerEngine(llama.url)
    tokenizer = engine.tokenizer
    assert isinstance(tokenizer, ServerTokenizer)
    assert tokenizer.end_ids == {END}
    ids = tokenizer.chat_ids([{"role": "user", "content": "a<end>你"}], prefill="<Thought>")
    assert ids == (*b"user:a<end>", *"你".encode(), END, *b"assistant:<Thought>")
    assert tokenizer.decode([*"你!".encode(), END]) == ("你!", (0, 0, 1, 2, 2))
    assert tokenizer.decode("你".encode()[:2]) == ("\ufffd", (0, 0))
    (done,), _ = run(engine, request())
    assert done.token_ids == tuple(llama.answer)
    engine.close()


# vLLM


def test_vllm_chunks_are_read_with_ids_and_the_five_most_probable():
    names = {f"token_id:{number}": -float(number) for number in (3, 1, 6, 2, 5, 4)}
    choice = {
        "index": 1,
        "text": "six",
        "token_ids": [6],
        "logprobs": {"tokens": ["token_id:6"], "token_logprobs": [-6.0], "top_logprobs": [names]},
        "finish_reason": None,
    }
    (delta,) = VLLM("m").deltas({"choices": [choice]})
    assert (delta.index, delta.data, delta.finish) == (1, b"six", None)
    (token,) = delta.tokens
    assert (token.id, token.logprob) == (6, -6.0)
    assert token.top == tuple((number, -float(number)) for number in (1, 2, 3, 4, 5))


@pytest.mark.parametrize(("reason", "finish"), [("stop", "stop"), ("length", "length")])
def test_vllm_says_how_a_rollout_ended(reason, finish):
    event = {"choices": [{"index": 0, "text": "", "token_ids": [], "logprobs": None, "finish_reason": reason}]}
    assert VLLM("m").deltas(event)[0].finish == finish


def test_vllm_is_asked_for_ids_and_raw_choice():
    call = VLLM("m").payload((1, 2), SamplingConfig(temperature=0.5, top_p=0.9, max_tokens=8), 3, 4)
    assert (call["prompt"], call["n"], call["seed"], call["max_tokens"]) == ([1, 2], 4, 3, 8)
    assert call["return_token_ids"] is True
    assert (call["logprobs"], call["top_k"]) == (5, -1)
