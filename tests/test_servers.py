"""How the answers of vLLM and SGLang are read, and what is said about what they lack.

The shapes here are written by hand after the two projects' documentation and source, for what a recording does not
show. Recordings of real servers are read in `test_recorded.py`; llama.cpp is tested live, in `test_llamacpp.py` and
`test_routing.py`.
"""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import httpx
import pytest
from apart import run_apart

from marco.config import SamplingConfig
from marco.engines.room import Room
from marco.engines.scripted import ByteTokenizer
from marco.engines.servers.base import Broken, Token, read_line, refuse, without_temperature
from marco.engines.servers.look import NO_CACHE, NO_LOGPROBS, NO_TOP, TEMPERED, Found, examine, look_at
from marco.engines.servers.sglang import SGLang
from marco.engines.servers.vllm import VLLM
from marco.errors import ServerError, ServerUnreachable

SAMPLING = SamplingConfig(temperature=0.5, top_p=0.9, max_tokens=8)


def top(*ids: int) -> list[list[object]]:
    return [[-float(place + 1), number, None] for place, number in enumerate(ids)]


def said(ids: list[int], text: str, *, done: int, whole: list[int] | None = None, **more: object) -> dict[str, object]:
    """One event of SGLang's: `ids` and `text` are what it repeats, `done` how many tokens there are."""
    meta = {
        "id": "a",
        "prompt_tokens": 7,
        "cached_tokens": 4,
        "completion_tokens": done,
        "output_token_logprobs": [[-1.0, number, None] for number in (whole or ids)],
        "output_top_logprobs": [top(number, 1, 2, 3, 4) for number in (whole or ids)],
        "finish_reason": None,
        **more,
    }
    return {"text": text, "output_ids": ids, "meta_info": meta, "index": 0}


# SGLang


def test_a_stream_that_repeats_itself_is_told_once():
    read = SGLang("m").reader()
    first, second = read(said([10], "a", done=1)), read(said([10, 11, 12], "abc", done=3))
    assert [token.id for delta in (*first, *second) for token in delta.tokens] == [10, 11, 12]
    assert b"".join(delta.data for delta in (*first, *second)) == b"abc"


def test_a_stream_of_what_is_new_reads_the_same():
    read = SGLang("m").reader()
    first, second = read(said([10], "a", done=1)), read(said([11, 12], "bc", done=3))
    assert [token.id for delta in (*first, *second) for token in delta.tokens] == [10, 11, 12]
    assert b"".join(delta.data for delta in (*first, *second)) == b"abc"


def test_new_ids_may_come_with_log_probabilities_from_the_beginning():
    read = SGLang("m").reader()
    read(said([10], "a", done=1))
    (delta,) = read(said([11, 12], "bc", done=3, whole=[10, 11, 12]))
    assert [token.top[0][0] for token in delta.tokens] == [11, 12]


def test_siblings_of_a_call_are_kept_apart():
    read = SGLang("m").reader()
    (one,) = read(said([10], "a", done=1))
    (other,) = read({**said([20], "b", done=1), "index": 1})
    assert (one.index, other.index) == (0, 1)
    assert [token.id for token in other.tokens] == [20]


@pytest.mark.parametrize(("kind", "finish"), [("stop", "stop"), ("length", "length")])
def test_the_end_says_why_and_what_the_prompt_cost(kind, finish):
    (delta,) = SGLang("m").reader()(said([10], "a", done=1, finish_reason={"type": kind, "matched": 5}))
    assert (delta.finish, delta.prefilled, delta.cached) == (finish, 3, 4)


@pytest.mark.parametrize(
    "event",
    [
        said([10], "a", done=5),
        said([10], "a", done=1, output_token_logprobs=[[-1.0, 11, None]]),
        said([10], "a", done=1, output_token_logprobs=[[float("nan"), 10, None]]),
        said([10], "a", done=1, finish_reason={"type": "abort", "message": "out of memory"}),
        {"text": "a", "output_ids": [1]},
        {},
        {"meta_info": None, "output_ids": None},
    ],
)
def test_an_event_that_makes_no_sense_is_refused(event):
    with pytest.raises(ServerError, match="makes no sense"):
        read_line("The server", SGLang("m").reader(), "data: " + json.dumps(event))


def test_each_sibling_has_a_seed_of_its_own():
    call = SGLang("m").payload((1, 2), SAMPLING, 3, 2)
    assert call["input_ids"] == [[1, 2], [1, 2]]
    assert [drawn["sampling_seed"] for drawn in call["sampling_params"]] == [3, 4]
    assert call["top_logprobs_num"] == 5


# vLLM


def vllm_event(index: int = 0, **more: object) -> dict[str, object]:
    names = {f"token_id:{number}": -float(number) for number in range(1, 6)}
    choice = {
        "index": index,
        "text": "x",
        "token_ids": [1],
        "logprobs": {"tokens": ["token_id:1"], "token_logprobs": [-1.0], "top_logprobs": [names]},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}
    return {"choices": [{**choice, **more}], "usage": usage}


@pytest.mark.parametrize(("index", "cost"), [(0, (5, 4)), (1, (0, 9))])
def test_the_prompt_is_counted_once_for_all_choices_of_a_call(index, cost):
    (delta,) = VLLM("m").deltas(vllm_event(index))
    assert (delta.prefilled, delta.cached) == cost


def test_more_ids_than_log_probabilities_are_refused():
    with pytest.raises(ServerError, match="makes no sense"):
        read_line("The server", VLLM("m").reader(), "data: " + json.dumps(vllm_event(token_ids=[1, 2])))


# Log-probabilities that include the temperature


@pytest.mark.parametrize("temperature", [0.3, 0.8, 1.7])
def test_the_confidence_is_the_same_as_without_the_temperature(temperature):
    logits = [4.0, 3.5, 2.0, 1.0, 0.5]
    whole = math.log(sum(math.exp(value / temperature) for value in logits))
    scaled = tuple((place, value / temperature - whole) for place, value in enumerate(logits))
    token = without_temperature(Token(1, scaled[1][1], scaled), temperature)
    raw = [math.exp(value) for value in logits]
    assert token.logprob is not None
    assert math.exp(token.logprob) / sum(math.exp(value) for _, value in token.top) == pytest.approx(raw[1] / sum(raw))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_greedy_and_plain_sampling_are_left_alone(temperature):
    token = Token(1, -0.5, ((1, -0.5), (2, -1.5)))
    assert without_temperature(token, temperature) is token


def test_candidates_that_were_cut_off_by_top_p_are_left_out():
    token = without_temperature(Token(1, -0.1, ((1, -0.1), (2, -math.inf))), 0.5)
    assert [number for number, _ in token.top] == [1]
    assert without_temperature(Token(1, None, ((1, -math.inf),)), 0.5).top == ((1, -math.inf),)


# What a server lacks


def client(answers: dict[str, object]) -> httpx.Client:
    def handle(request: httpx.Request) -> httpx.Response:
        told = answers.get(request.url.path)
        if callable(told):
            told = told(json.loads(request.content))
        if told is None:
            return httpx.Response(404)
        return told if isinstance(told, httpx.Response) else httpx.Response(200, json=told)

    return httpx.Client(base_url="http://server", transport=httpx.MockTransport(handle))


def sglang_writes(body: dict[str, object], *, tempered: bool, names: int = 5) -> httpx.Response:
    heat = body["sampling_params"][0]["temperature"] or 1.0  # type: ignore[index]
    spread = [[-(0.1 + place) / (heat if tempered else 1.0), 10 + place, None] for place in range(names)]
    event = said([10], "a", done=1, output_top_logprobs=[spread], finish_reason={"type": "length"})
    return httpx.Response(200, text="data: " + json.dumps(event) + "\n\ndata: [DONE]\n\n")


def seen(answer: object) -> tuple[bool, tuple[str, ...]]:
    found = Found(SGLang("m"), "m")
    examined = examine(client({"/generate": answer}), found, ByteTokenizer(), "The server")
    return examined.tempered, examined.lacks


def test_log_probabilities_with_the_temperature_are_found_out():
    assert seen(lambda body: sglang_writes(body, tempered=True)) == (True, (TEMPERED,))
    assert seen(lambda body: sglang_writes(body, tempered=False)) == (False, ())


def test_fewer_than_five_candidates_are_told():
    assert seen(lambda body: sglang_writes(body, tempered=False, names=2)) == (False, (NO_TOP,))


def test_no_log_probabilities_are_told():
    event = said([10], "a", done=1, output_token_logprobs=None, finish_reason={"type": "length"})
    text = "data: " + json.dumps(event) + "\n\n"
    assert seen(lambda body: httpx.Response(200, text=text)) == (False, (NO_LOGPROBS,))


def listed(owner: str) -> dict[str, object]:
    return {"data": [{"id": "org/m", "owned_by": owner, "root": "/models/m", "max_model_len": 4096}]}


def test_sglang_is_known_by_its_list_of_models_and_tells_more():
    info = {"disable_radix_cache": True, "max_running_requests": 12}
    found = look_at(client({"/v1/models": listed("sglang"), "/get_server_info": info}), "http://server")
    assert (found.adapter.kind, found.slots, found.context) == ("sglang", 12, 4096)
    assert found.lacks == (NO_CACHE,)


def test_sglang_says_where_its_tokenizer_lies_whatever_its_model_is_called() -> None:
    info = {"tokenizer_path": "/models/tokenizer"}
    found = look_at(client({"/v1/models": listed("sglang"), "/server_info": info}), "http://server")
    assert found.file == Path("/models/tokenizer")


def test_vllm_is_known_by_its_list_of_models():
    found = look_at(client({"/v1/models": listed("vllm")}), "http://server")
    assert (found.adapter.kind, found.model, found.context) == ("vllm", "org/m", 4096)


@pytest.mark.parametrize("told", [listed("somebody"), {"data": []}, {"data": 7}, [], "hello", {"data": [None]}])
def test_whatever_else_answers_is_no_server(told):
    with pytest.raises(ServerUnreachable, match="What answers at http://server is"):
        look_at(client({"/v1/models": told}), "http://server")


@pytest.mark.parametrize(("status", "kind"), [(500, Broken), (503, Broken), (429, Broken), (400, ServerError)])
def test_what_may_be_tried_again(status, kind):
    with pytest.raises(kind):
        refuse("The server", status, b"{}")


# Fairness


def served(wishes: list[tuple[str, int]], slots: int) -> list[str]:
    """Whose turn comes when: each holds its slots for one turn of the loop."""
    order: list[str] = []

    async def ask(room: Room, search: str, count: int) -> None:
        async with room.taken(search, count, count):
            order.append(search)
            await asyncio.sleep(0)

    async def everybody() -> None:
        room = Room(slots, slots)
        await asyncio.gather(*(ask(room, search, count) for search, count in wishes))
        assert (room.free_slots, room.free_cells) == (slots, slots)

    run_apart(everybody())
    return order


def test_a_large_search_does_not_starve_small_ones():
    order = served([("huge", 1)] * 50 + [("small", 1)] * 2, slots=2)
    assert order.index("small") <= 2
    assert order[:6].count("small") == 2


def test_a_large_demand_is_not_overtaken_for_ever():
    order = served([("a", 1), ("wide", 4), *[("a", 1)] * 20], slots=4)
    assert order.index("wide") <= 4


def test_one_who_gives_up_waiting_leaves_no_gap():
    async def give_up() -> None:
        room = Room(1, 1)
        async with room.taken("a", 1, 1):
            waiting = asyncio.ensure_future(room.taken("b", 1, 1).__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        async with room.taken("c", 1, 1):
            assert room.free_slots == 0
        assert room.free_slots == 1

    run_apart(give_up())
