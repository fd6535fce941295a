"""The local engine: exact, shared, fair, and alive whatever happens to it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import tiny  # noqa: E402

from marco.config import SamplingConfig  # noqa: E402
from marco.engines.base import Chunk, Completion, Engine, Request  # noqa: E402
from marco.engines.decode import draw, uniforms  # noqa: E402
from marco.engines.local import LocalEngine  # noqa: E402
from marco.errors import ModelUnavailable  # noqa: E402

PATIENCE = 60.0
EXACT = 1e-4


@pytest.fixture(scope="module", params=tiny.ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("models") / "qwen2", "qwen2")


Start = Callable[..., LocalEngine]


@pytest.fixture
def start() -> Iterator[Start]:
    """Engines that are closed when the test ends."""
    engines: list[LocalEngine] = []

    def make(path: Path, **options: Any) -> LocalEngine:
        options = {"slots": 8, "context": 1024, "dtype": torch.float32, "device": "cpu"} | options
        engines.append(LocalEngine(path, **options))
        engines[-1].ignore_ends = True
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


class Listener:
    """Collects what an engine delivers and waits for completions."""

    def __init__(self) -> None:
        self.completions: dict[int, Completion] = {}
        self.texts: dict[int, str] = {}
        self.order: list[int] = []
        self.changed = threading.Condition()

    def __call__(self, message: Chunk | Completion) -> None:
        with self.changed:
            if isinstance(message, Chunk):
                self.texts[message.work] = self.texts.get(message.work, "") + message.text
            else:
                assert message.work not in self.completions, "delivered twice"
                self.completions[message.work] = message
                self.order.append(message.work)
            self.changed.notify_all()

    def wait(self, count: int) -> dict[int, Completion]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.completions) >= count, PATIENCE), "no completion in time"
            return dict(self.completions)

    def wait_for_text(self, work: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: work in self.texts, PATIENCE), "no chunk in time"


def request(
    work: int,
    prefix: Sequence[int],
    *,
    tokens: int = 12,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    search: str = "a",
    cancel: threading.Event | None = None,
) -> Request:
    sampling = SamplingConfig(temperature=temperature, top_p=top_p, max_tokens=tokens)
    return Request(work, tuple(prefix), sampling, work if seed is None else seed, cancel or threading.Event(), search)


def run(engine: Engine, requests: Sequence[Request]) -> dict[int, Completion]:
    listener = Listener()
    engine.submit(requests, listener)
    return listener.wait(len(requests))


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(3, tiny.VOCABULARY, length).tolist())


def assert_exact(engine: LocalEngine, prefix: Sequence[int], completion: Completion) -> None:
    """What was reported is what the model says about the whole text at once, without any cache."""
    assert completion.finish in ("stop", "length"), completion.error
    ids = torch.tensor([[*prefix, *completion.token_ids]])
    with torch.no_grad():
        logits = engine._model(input_ids=ids).logits[0, len(prefix) - 1 : -1]
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
    assert torch.allclose(torch.tensor(completion.logprobs), chosen, atol=EXACT)
    best = logprobs.topk(5)
    assert torch.allclose(torch.tensor([[v for _, v in top] for top in completion.top]), best.values, atol=EXACT)
    for top, row in zip(completion.top, logprobs, strict=True):
        for token, value in top:
            assert abs(row[token].item() - value) < EXACT


# The cached path is the uncached one


def test_siblings_of_one_prompt_are_exact_and_read_it_once(folder: Path, start: Start) -> None:
    engine = start(folder)
    prefix = prompt(40)
    done = run(engine, [request(work, prefix) for work in range(6)])
    for completion in done.values():
        assert_exact(engine, prefix, completion)
    assert sum(c.prefilled for c in done.values()) == 40
    assert engine.usage()["prefilled"] == 40


def test_ragged_rows_in_one_batch_are_exact(folder: Path, start: Start) -> None:
    engine = start(folder)
    prefixes = [prompt(length, seed=length) for length in (1, 3, 17, 64, 130)]
    requests = [request(work, prefix, tokens=5 + 7 * work) for work, prefix in enumerate(prefixes)]
    done = run(engine, requests)
    for asked in requests:
        assert_exact(engine, asked.prefix, done[asked.work])


def test_a_deep_path_is_exact_and_nothing_of_it_is_computed_again(folder: Path, start: Start) -> None:
    engine = start(folder)
    path = prompt(20)
    for work in range(12):
        completion = run(engine, [request(work, path, tokens=20)])[work]
        assert_exact(engine, path, completion)
        # Its last token was drawn and never read: whoever continues there reads that one.
        assert completion.prefilled == (20 if work == 0 else 0)
        path += completion.token_ids[:13]
    usage = engine.usage()
    assert usage["computed"] == usage["distinct"] == 20 + 12 * 20
    assert usage["recomputed"] == 0


def test_a_path_continued_behind_its_last_token_reads_that_one_token(folder: Path, start: Start) -> None:
    engine = start(folder)
    prefix = prompt(9)
    first = run(engine, [request(1, prefix, tokens=6)])[1]
    path = prefix + first.token_ids
    second = run(engine, [request(2, path, tokens=6)])[2]
    assert_exact(engine, path, second)
    assert (second.prefilled, second.cached) == (1, len(path) - 1)


def test_forced_tokens_behind_a_thought_are_prefilled_and_exact(folder: Path, start: Start) -> None:
    engine = start(folder)
    prefix = prompt(15)
    first = run(engine, [request(1, prefix, tokens=20)])[1]
    path = prefix + first.token_ids[:11] + prompt(7, seed=3)
    second = run(engine, [request(2, path)])[2]
    assert_exact(engine, path, second)
    assert (second.prefilled, second.cached) == (7, 26)


def test_evicted_segments_are_computed_again_counted_and_exact(folder: Path, start: Start) -> None:
    engine = start(folder, memory_limit=0)
    prefix = prompt(30)
    first = run(engine, [request(1, prefix, tokens=15)])[1]
    path = prefix + first.token_ids[:10]
    run(engine, [request(2, prompt(25, seed=8), search="b")])
    second = run(engine, [request(3, path)])[3]
    assert_exact(engine, path, second)
    assert second.prefilled == 40
    assert engine.usage_of("a")["recomputed"] == 40
    assert engine.usage_of("b")["recomputed"] == 0
    assert engine.usage()["stored_bytes"] == 0


def test_a_small_memory_keeps_to_its_limit_and_stays_exact(folder: Path, start: Start) -> None:
    probe = start(folder)
    run(probe, [request(1, prompt(5), tokens=2)])
    working = int(probe.usage()["cache_bytes"])
    limit = working + 50 * probe._geometry.bytes_per_position
    engine = start(folder, memory_limit=limit)
    for work in range(8):
        prefix = prompt(30, seed=work % 3)
        assert_exact(engine, prefix, run(engine, [request(work, prefix)])[work])
        assert engine.usage()["cache_bytes"] <= limit
    assert engine.usage()["evicted"] > 0


def test_a_long_prompt_is_read_in_stretches_while_others_go_on(folder: Path, start: Start) -> None:
    engine = start(folder)
    long, short = prompt(900), prompt(12, seed=1)
    listener = Listener()
    engine.submit([request(1, short, tokens=60), request(2, long, search="b")], listener)
    done = listener.wait(2)
    assert_exact(engine, short, done[1])
    assert_exact(engine, long, done[2])


def test_rows_that_outgrow_their_slots_stay_exact(qwen: Path, start: Start) -> None:
    engine = start(qwen, context=2048)
    prefix = prompt(490)
    done = run(engine, [request(1, prefix, tokens=60), request(2, prefix[:100], tokens=500)])
    assert_exact(engine, prefix, done[1])
    assert_exact(engine, prefix[:100], done[2])


def test_bfloat16_is_close_to_itself_uncached(qwen: Path, start: Start) -> None:
    engine = start(qwen, dtype=torch.bfloat16)
    prefix = prompt(40)
    done = run(engine, [request(work, prefix) for work in range(4)])
    for completion in done.values():
        ids = torch.tensor([[*prefix, *completion.token_ids]])
        with torch.no_grad():
            logprobs = engine._model(input_ids=ids).logits[0, 39:-1].float().log_softmax(-1)
        chosen = logprobs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        assert (torch.tensor(completion.logprobs) - chosen).abs().mean() < 0.1


# What is counted


def test_a_search_computes_no_position_twice(qwen: Path, start: Start) -> None:
    """A tree grown as a search grows it: rollouts from random nodes of earlier rollouts' paths."""
    chance = np.random.default_rng(5)
    engine = start(qwen)
    paths = [prompt(50)]
    listener = Listener()
    for work in range(24):
        source = paths[int(chance.integers(len(paths)))]
        node = source[: int(chance.integers(50, len(source) + 1))]
        engine.submit([request(work, node, tokens=30)], listener)
        done = listener.wait(work + 1)[work]
        paths.append(node + done.token_ids[:-1])
    counts = engine.usage_of("a")
    assert counts["computed"] == counts["prefilled"] + counts["generated"]
    assert counts["generated"] == 24 * 30
    assert counts["distinct"] == 50 + 24 * 30
    assert counts["computed"] / counts["distinct"] <= 1.02


def test_searches_are_counted_apart_and_share_what_they_have_in_common(qwen: Path, start: Start) -> None:
    engine = start(qwen)
    prefix = prompt(32)
    run(engine, [request(1, prefix, search="a")])
    run(engine, [request(2, prefix, search="b")])
    assert engine.usage_of("a")["prefilled"] == 32
    assert engine.usage_of("b")["prefilled"] == 0
    assert engine.usage_of("b")["cached"] == 32
    assert engine.usage_of("nobody")["generated"] == 0


# Sampling


def test_a_seed_gives_the_same_tokens_in_any_company(folder: Path, start: Start) -> None:
    engine = start(folder)
    asked = request(1, prompt(20), tokens=30, seed=77)
    alone = run(engine, [asked])[1]
    company = run(engine, [request(work, prompt(5 * work, seed=work)) for work in range(2, 8)] + [asked])[1]
    assert company.token_ids == alone.token_ids


def test_the_same_requests_give_the_same_bits_again(qwen: Path, start: Start) -> None:
    asked = [request(1, prompt(20), tokens=30), request(2, prompt(20), tokens=25)]
    first, second = run(start(qwen), asked[:1]), run(start(qwen), asked[:1])
    assert first[1].token_ids == second[1].token_ids
    assert first[1].logprobs == second[1].logprobs


def test_different_seeds_give_different_rollouts(qwen: Path, start: Start) -> None:
    done = run(start(qwen), [request(work, prompt(20)) for work in range(8)])
    assert len({completion.token_ids for completion in done.values()}) == 8


def test_temperature_zero_takes_the_most_probable_token(qwen: Path, start: Start) -> None:
    done = run(start(qwen), [request(1, prompt(20), temperature=0.0), request(2, prompt(20), temperature=0.0)])
    assert done[1].token_ids == done[2].token_ids
    assert all(token == top[0][0] for token, top in zip(done[1].token_ids, done[1].top, strict=True))


def test_log_probabilities_are_raw_at_any_temperature(qwen: Path, start: Start) -> None:
    engine = start(qwen)
    prefix = prompt(20)
    for temperature, top_p in ((0.3, 1.0), (2.0, 0.9), (0.0, 0.5)):
        assert_exact(engine, prefix, run(engine, [request(1, prefix, temperature=temperature, top_p=top_p)])[1])


def sample(logits: torch.Tensor, temperature: float, top_p: float, draws: int = 4000) -> torch.Tensor:
    """How often each token is drawn."""
    rows = np.arange(draws)
    drawn = draw(
        logits.expand(draws, -1),
        np.full(draws, temperature),
        np.full(draws, top_p),
        uniforms(np.full(draws, 3, np.uint64), rows),
    )
    return torch.bincount(torch.from_numpy(drawn.tokens), minlength=logits.shape[-1]) / draws


@pytest.mark.parametrize("size", [8, 500])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_draws_follow_the_distribution(size: int, temperature: float) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(size))
    expected = (logits / temperature).softmax(-1)
    assert (sample(logits, temperature, 1.0) - expected).abs().sum() < (0.05 if size == 8 else 0.35)


@pytest.mark.parametrize(("size", "top_p"), [(8, 0.6), (500, 0.5), (500, 0.95)])
def test_the_nucleus_is_the_smallest_set_that_reaches_its_share(size: int, top_p: float) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(size))
    order = logits.softmax(-1).sort(descending=True)
    count = int((order.values.cumsum(0) < top_p).sum()) + 1
    frequencies = sample(logits, 1.0, top_p, draws=8_000)
    inside = order.indices[:count]
    assert frequencies[inside].sum() == pytest.approx(1.0)
    expected = order.values[:count] / order.values[:count].sum()
    assert (frequencies[inside] - expected).abs().sum() < 0.25


def test_uniform_numbers_are_uniform_and_belong_to_seed_and_position() -> None:
    many = uniforms(np.arange(10_000, dtype=np.uint64), np.zeros(10_000, np.int64))
    along = uniforms(np.full(10_000, 9, np.uint64), np.arange(10_000))
    for numbers in (many, along):
        assert ((numbers >= 0) & (numbers < 1)).all()
        assert abs(numbers.mean() - 0.5) < 0.02
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.04
    assert along[17] == uniforms(np.array([9], np.uint64), np.array([17]))[0]


def test_forbidden_tokens_are_never_drawn_and_unsound_rows_are_marked() -> None:
    logits = torch.zeros(4, 10)
    logits[0, 3:] = -math.inf
    logits[1, 2] = math.nan
    logits[2, 2] = math.inf
    logits[3] = -math.inf
    drawn = draw(logits, np.ones(4), np.ones(4), np.full(4, 0.999))
    assert drawn.sound.tolist() == [True, False, False, False]
    assert drawn.tokens[0] < 3
    assert drawn.logprobs[0] == pytest.approx(math.log(1 / 3))


# Ends


def test_an_end_token_ends_a_rollout_and_adds_no_text(qwen: Path, start: Start) -> None:
    engine = start(qwen)
    engine.ignore_ends = False
    done = run(engine, [request(work, prompt(20), tokens=900, temperature=1.5) for work in range(8)])
    stopped = [completion for completion in done.values() if completion.finish == "stop"]
    assert stopped
    for completion in stopped:
        assert completion.token_ids[-1] in engine.tokenizer.end_ids
        assert not set(completion.token_ids[:-1]) & engine.tokenizer.end_ids
        assert len(completion.offsets) == len(completion.token_ids)
        assert "<|im_end|>" not in completion.text


def test_max_tokens_and_the_context_end_a_rollout(qwen: Path, start: Start) -> None:
    engine = start(qwen, context=300)
    done = run(engine, [request(1, prompt(20), tokens=7), request(2, prompt(290), tokens=50)])
    assert (done[1].finish, len(done[1].token_ids)) == ("length", 7)
    assert (done[2].finish, len(done[2].token_ids)) == ("length", 10)


@pytest.mark.parametrize(
    ("prefix", "said"), [((), "empty"), (prompt(1100), "no room"), ((1, 99_999), "vocabulary"), ((-1,), "vocabulary")]
)
def test_a_prefix_that_can_not_be_served_fails_with_a_sentence(
    qwen: Path, start: Start, prefix: tuple[int, ...], said: str
) -> None:
    completion = run(start(qwen), [request(1, prefix)])[1]
    assert completion.finish == "failed"
    assert said in (completion.error or "")


def test_chunks_add_up_to_the_text(qwen: Path, start: Start) -> None:
    engine = start(qwen)
    listener = Listener()
    engine.submit([request(work, prompt(20), tokens=120) for work in range(4)], listener)
    for work, completion in listener.wait(4).items():
        assert listener.texts[work] == completion.text


# Company


def test_more_requests_than_slots_all_get_their_turn(qwen: Path, start: Start) -> None:
    done = run(start(qwen, slots=3), [request(work, prompt(10 + work)) for work in range(11)])
    assert all(completion.finish == "length" for completion in done.values())


def test_a_callback_may_ask_for_more(qwen: Path, start: Start) -> None:
    engine = start(qwen)
    listener = Listener()

    def deliver(message: Chunk | Completion) -> None:
        if isinstance(message, Completion) and message.work < 5:
            engine.submit([request(message.work + 1, prompt(20) + message.token_ids)], deliver)
        listener(message)

    engine.submit([request(1, prompt(20))], deliver)
    assert all(completion.finish == "length" for completion in listener.wait(5).values())


def test_a_callback_that_fails_harms_nobody(qwen: Path, start: Start) -> None:
    engine = start(qwen)

    def deliver(message: Chunk | Completion) -> None:
        raise RuntimeError("the listener is gone")

    engine.submit([request(1, prompt(20))], deliver)
    assert run(engine, [request(2, prompt(20))])[2].finish == "length"


def test_cancel_takes_out_one_search_and_leaves_the_other(qwen: Path, start: Start) -> None:
    engine = start(qwen)
    gone, listener = threading.Event(), Listener()
    engine.submit([request(work, prompt(20), tokens=900, cancel=gone) for work in (1, 2)], listener)
    engine.submit([request(3, prompt(20), tokens=200, search="b")], listener)
    listener.wait_for_text(1)
    gone.set()
    done = listener.wait(3)
    assert [done[work].finish for work in (1, 2, 3)] == ["cancelled", "cancelled", "length"]
    assert listener.order[-1] == 3
    assert 0 < len(done[1].token_ids) < 900
    assert len(done[1].logprobs) == len(done[1].token_ids)


def test_cancel_ends_a_row_within_one_step(qwen: Path, start: Start) -> None:
    engine = start(qwen)
    cancel, listener = threading.Event(), Listener()
    steps_at_cancel: list[float] = []

    def deliver(message: Chunk | Completion) -> None:
        if isinstance(message, Chunk) and not cancel.is_set():
            steps_at_cancel.append(engine.usage()["steps"])
            cancel.set()
        listener(message)

    engine.submit([request(1, prompt(20), tokens=900, cancel=cancel)], deliver)
    listener.wait(1)
    assert engine.usage()["steps"] - steps_at_cancel[0] <= 1


def test_a_waiting_request_can_be_cancelled(qwen: Path, start: Start) -> None:
    engine = start(qwen, slots=1)
    cancel, first, listener = threading.Event(), threading.Event(), Listener()
    engine.submit([request(1, prompt(20), tokens=900, cancel=first), request(2, prompt(20), cancel=cancel)], listener)
    cancel.set()
    assert listener.wait(1)[2].finish == "cancelled"
    first.set()
    assert listener.wait(2)[1].finish == "cancelled"


def test_a_small_search_need_not_wait_for_a_large_one(qwen: Path, start: Start) -> None:
    engine = start(qwen, slots=2)
    listener = Listener()
    engine.submit([request(work, prompt(20), tokens=40, search="large") for work in range(12)], listener)
    engine.submit([request(100, prompt(20), tokens=40, search="small")], listener)
    listener.wait(13)
    assert listener.order.index(100) <= 4


def test_closing_cancels_what_is_under_way_and_refuses_the_rest(qwen: Path, start: Start) -> None:
    engine = start(qwen, slots=1)
    listener = Listener()
    engine.submit([request(work, prompt(20), tokens=900) for work in (1, 2)], listener)
    listener.wait_for_text(1)
    engine.close()
    engine.close()
    assert {completion.finish for completion in listener.wait(2).values()} == {"cancelled"}
    refused = run(engine, [request(3, prompt(20))])[3]
    assert (refused.finish, refused.error) == ("failed", "The engine is closed.")


# Trouble


def sabotage(engine: LocalEngine, work: Callable[[Any], None]) -> None:
    """Have `work` look at every batch before the model's body sees it."""
    body = engine._decoder.body
    original = body.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        work(options["input_ids"])
        return original(*arguments, **options)

    body.forward = forward


def test_out_of_memory_halves_the_batch_and_the_work_goes_on(folder: Path, start: Start) -> None:
    engine = start(folder)
    asked = [request(work, prompt(10 + work, seed=work), tokens=20) for work in range(8)]
    largest = []

    def short_of_memory(tokens: Any) -> None:
        if tokens.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        largest.append(tokens.shape[0])

    sabotage(engine, short_of_memory)
    done = run(engine, asked)
    for one in asked:
        assert_exact_without(engine, one, done[one.work])
    assert max(largest) == 2


def assert_exact_without(engine: LocalEngine, asked: Request, completion: Completion) -> None:
    """As `assert_exact`, on a model whose body is sabotaged for more than two rows (one is fine)."""
    assert_exact(engine, asked.prefix, completion)


def test_a_row_that_does_not_fit_alone_fails_with_a_sentence_and_the_engine_recovers(qwen: Path, start: Start) -> None:
    engine = start(qwen)
    trouble = threading.Event()
    trouble.set()

    def short_of_memory(tokens: Any) -> None:
        if trouble.is_set() and tokens.shape[1] == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    sabotage(engine, short_of_memory)
    done = run(engine, [request(work, prompt(20)) for work in range(4)])
    for completion in done.values():
        assert completion.finish == "failed"
        assert "Memory ran out" in (completion.error or "")
    trouble.clear()
    again = run(engine, [request(work, prompt(20)) for work in range(10, 14)])
    assert all(completion.finish == "length" for completion in again.values())


def test_a_prompt_that_finds_no_memory_is_read_in_smaller_stretches(qwen: Path, start: Start) -> None:
    engine = start(qwen)

    def short_of_memory(tokens: Any) -> None:
        if tokens.shape[1] > 100:
            raise MemoryError

    sabotage(engine, short_of_memory)
    completion = run(engine, [request(1, prompt(700))])[1]
    assert completion.finish == "length"
    assert completion.prefilled == 700


def test_logits_that_are_not_finite_fail_their_row_only(folder: Path, start: Start) -> None:
    engine = start(folder)
    head = engine._decoder.head
    original = head.forward
    poisoned: list[int] = []

    def forward(hidden: Any) -> Any:
        logits = original(hidden)
        if logits.shape[0] == 4 and not poisoned:
            poisoned.append(1)
            logits[1, 7] = math.nan
        return logits

    head.forward = forward
    prefix = prompt(20)
    done = run(engine, [request(work, prefix, tokens=25) for work in range(4)])
    head.forward = original
    failed = [completion for completion in done.values() if completion.finish == "failed"]
    assert len(failed) == 1
    assert failed[0].error == "The model's logits were not finite numbers."
    for completion in done.values():
        if completion.finish != "failed":
            assert_exact(engine, prefix, completion)


def test_states_that_are_not_finite_do_not_reach_the_rows_beside_or_after(qwen: Path, start: Start) -> None:
    engine = start(qwen, slots=2)
    bad = 200

    def poison(module: Any, arguments: Any, output: Any) -> Any:
        return torch.where((arguments[0] == bad)[..., None], torch.nan, output)

    handle = engine._model.get_input_embeddings().register_forward_hook(poison)
    prefix = tuple(token for token in prompt(40) if token != bad)
    done = run(engine, [request(1, (*prefix[:5], bad, *prefix)), request(2, prefix[:30], tokens=40)])
    handle.remove()
    assert done[1].finish == "failed"
    after = run(engine, [request(3, prefix), request(4, prefix[:7], tokens=40)])
    assert_exact(engine, prefix, after[3])
    assert_exact(engine, prefix[:7], after[4])


def test_a_crash_fails_the_rows_under_way_and_nothing_else(qwen: Path, start: Start) -> None:
    engine = start(qwen)
    crashes = [True]

    def crash(tokens: Any) -> None:
        if tokens.shape == (3, 1) and crashes:
            crashes.clear()
            raise ValueError("a kernel went wrong")

    sabotage(engine, crash)
    done = run(engine, [request(work, prompt(20)) for work in range(3)])
    assert {completion.finish for completion in done.values()} == {"failed"}
    assert all("a kernel went wrong" in (completion.error or "") for completion in done.values())
    assert_exact(engine, prompt(20), run(engine, [request(9, prompt(20))])[9])


def test_a_crash_while_reading_a_prompt_fails_that_prompt(qwen: Path, start: Start) -> None:
    engine = start(qwen)

    def crash(tokens: Any) -> None:
        if tokens.shape[1] == 33:
            raise ValueError("a kernel went wrong")

    sabotage(engine, crash)
    done = run(engine, [request(1, prompt(33)), request(2, prompt(12, seed=1), search="b")])
    assert done[1].finish == "failed"
    assert run(engine, [request(3, prompt(12, seed=1))])[3].finish == "length"


# What it is


def test_it_keeps_the_protocol_and_says_what_it_is(qwen: Path, start: Start) -> None:
    engine = start(qwen)
    assert isinstance(engine, Engine)
    assert engine.info.engine == "local"
    assert engine.info.slots == 8
    assert engine.info.details["weight_bytes"] == pytest.approx(engine.info.details["predicted_weight_bytes"], rel=0.02)
    assert engine.info.details["why"]


def test_a_model_object_can_be_given(qwen: Path, start: Start) -> None:
    first = start(qwen)
    engine = LocalEngine(first._model, tokenizer=first.tokenizer, slots=2, context=256)
    try:
        assert run(engine, [request(1, prompt(20))])[1].finish == "length"
    finally:
        engine.close()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="No model can be read"):
        LocalEngine(tmp_path)


def test_an_idle_engine_wakes_up_at_once_and_sleeps_otherwise(qwen: Path, start: Start) -> None:
    engine = start(qwen)
    run(engine, [request(1, prompt(20))])
    steps = engine.usage()["steps"]
    spent = time.process_time()
    time.sleep(0.3)
    assert engine.usage()["steps"] == steps
    assert time.process_time() - spent < 0.25
    assert run(engine, [request(2, prompt(20))])[2].finish == "length"
