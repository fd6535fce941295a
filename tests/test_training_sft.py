"""Fine-tuning, on a tiny random Qwen2: what carries loss, what is learnt, what is kept, and that it can go on."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import tiny

pytest.importorskip("trl", reason="fine-tuning needs what make setup-train installs")
pytest.importorskip("peft", reason="fine-tuning needs what make setup-train installs")

from transformers import TrainerCallback

from marco import Solver, options
from marco.config import ModelConfig
from marco.engines import loading, open_engine
from marco.engines.base import Completion, Request
from marco.engines.chat import load_tokenizer
from marco.engines.local import LocalEngine
from marco.errors import InvalidOption, ModelUnavailable, OutOfMemory, UserMistake
from marco.prompts import THINK
from marco.training import memory, sft
from marco.training.examples import IGNORED, example_of, prompt_of
from marco.training.merge import merge
from marco.training.sources import Row

QUESTIONS = ["one and one", "two and one", "ten less one", "six halved", "two twice", "five and two", "zero", "a ten"]
ANSWERS = ["2", "3", "9", "3", "4", "7", "0", "10"]


def reply(number: int) -> str:
    return f"<Thought>\nI see {ANSWERS[number]}.\n</Thought>\n<Output>\n{ANSWERS[number]}\n</Output>"


def as_json(number: int) -> dict[str, object]:
    turns = [{"role": "user", "content": QUESTIONS[number]}, {"role": "assistant", "content": reply(number)}]
    return {"messages": turns}


@pytest.fixture(scope="module", autouse=True)
def tracker(tmp_path_factory):
    """trackio's store, away from this machine's own; it reads the variable when it is imported."""
    if "trackio" not in sys.modules:
        os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))
    trackio = pytest.importorskip("trackio", reason="fine-tuning needs what make setup-train installs")
    yield trackio
    os.environ.pop("TRACKIO_DIR", None)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A model this small is slower on several threads, and on a busy machine much slower."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("tiny-qwen2"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "train.jsonl").write_text("\n".join(json.dumps(as_json(number)) for number in range(8)))
    (folder / "validation.jsonl").write_text(json.dumps(as_json(0)))
    return folder


SHORT = sft.SftConfig(
    method="lora", steps=6, learning_rate=5e-3, max_length=400, accumulate=1, evaluations=3, samples=1,
    sample_tokens=4, rank=4, system="none",
)  # fmt: skip
OVERFIT = dataclasses.replace(SHORT, steps=30, max_length=800, evaluations=1, sample_tokens=60, rank=16)
RATES = {"full": 5e-3, "lora": 2e-2, "qlora": 2e-2}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, model, rows):
    """Run folder of a method, after it has seen the 8 rows many times."""
    made: dict[str, Path] = {}

    def of(method: str) -> Path:
        if method not in made:
            config = dataclasses.replace(OVERFIT, method=method, learning_rate=RATES[method])
            made[method] = tmp_path_factory.mktemp("runs") / method
            sft.train(sft.prepare(str(model), rows, config), made[method])
        return made[method]

    return of


# -- what is shown, and what carries loss ------------------------------------------------------------------------------


def row(**given: object) -> Row:
    messages = ({"role": "user", "content": "How many?"}, {"role": "assistant", "content": reply(0)})
    return Row(**{"messages": messages, "source": "s", "place": "f, line 1", **given})  # type: ignore[arg-type]


def test_the_response_and_its_end_carry_loss_and_nothing_else(model):
    tokenizer = load_tokenizer(model)
    example = example_of(row(), tokenizer)
    learnt_ids = [label for label in example.labels if label != IGNORED]
    assert tokenizer.decode(learnt_ids)[0] == reply(0)
    assert learnt_ids[-1] == tokenizer.turn_end
    assert example.labels[example.prompt :] == example.input_ids[example.prompt :]
    assert set(example.labels[: example.prompt]) == {IGNORED}


def test_the_prompt_is_the_one_that_solve_asks_with(model):
    engine = LocalEngine(model, slots=1, context=2048, name="tiny")
    try:
        task = Solver(engine, options("marco")).task("How many?")
        asked = engine.tokenizer.chat_ids(task.messages)
        example = example_of(row(), load_tokenizer(model), model="tiny")
        assert example.input_ids[: example.prompt] == asked
    finally:
        engine.close()


def test_a_typed_end_of_turn_is_text(model):
    tokenizer = load_tokenizer(model)
    messages = ({"role": "user", "content": "a<|im_end|>b"}, {"role": "assistant", "content": "c<|im_end|>d"})
    ids = example_of(row(messages=messages), tokenizer).input_ids
    plain = example_of(
        row(messages=({"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"})), tokenizer
    ).input_ids
    assert ids.count(tokenizer.turn_end) == plain.count(tokenizer.turn_end)


def test_instructions_are_for_rows_that_think():
    plain = ({"role": "user", "content": "Say A."}, {"role": "assistant", "content": "A"})
    own = ({"role": "system", "content": "Be brief."}, *row().messages)
    history = (*plain, *row().messages)
    assert prompt_of(row())[0]["content"].endswith(THINK.format(language=""))
    assert prompt_of(row(messages=plain)) == plain[:1]
    assert prompt_of(row(messages=own)) == own[:-1]
    assert [turn["role"] for turn in prompt_of(row(messages=history))] == ["user", "assistant", "user"]
    assert prompt_of(row(), system="none") == row().messages[:-1]
    assert prompt_of(row(messages=own), system="Think!")[0]["content"] == "Think!"
    assert [turn["role"] for turn in prompt_of(row(), model="AIDC-AI/Marco-o1")] == ["user"]


@pytest.fixture(scope="module")
def trainers(model, rows, tmp_path_factory):
    """TRL's trainer as Marco makes it, packed and not."""

    def of(**changes: object):
        prepared = sft.prepare(str(model), rows, dataclasses.replace(SHORT, **changes))
        folder = tmp_path_factory.mktemp("trainer")
        return sft._trainer(prepared, folder, loading.silent, lambda line: None, ()), prepared

    return of


@pytest.mark.parametrize("packing", [True, False])
def test_the_batches_that_are_learnt_from_hold_loss_on_the_responses_alone(trainers, packing):
    trainer, prepared = trainers(packing=packing, batch=1 if packing else 3)
    said = []
    for batch in trainer.get_train_dataloader():
        for labels in batch["labels"].tolist():
            piece: list[int] = []
            for label in [*labels, IGNORED]:
                if label != IGNORED:
                    piece.append(label)
                elif piece:
                    said.append(piece)
                    piece = []
    end = prepared.tokenizer.turn_end
    assert all(piece[-1] == end and piece.count(end) == 1 for piece in said)
    assert sorted(prepared.tokenizer.decode(piece)[0] for piece in said) == sorted(reply(n) for n in range(8))


def test_rows_that_are_packed_together_do_not_see_each_other(trainers):
    import torch

    packed, _ = trainers(packing=True)
    alone, _ = trainers(packing=False)
    weights = {name: value.clone() for name, value in packed.model.state_dict().items()}
    alone.model.load_state_dict(weights)
    sums = []
    for trainer in (packed, alone):
        trainer.model.eval()
        total = count = 0.0
        batches = list(trainer.get_train_dataloader())
        for batch in batches:
            tokens = int((batch["labels"] != IGNORED).sum())
            with torch.no_grad():
                total += float(trainer.compute_loss(trainer.model, dict(batch))) * tokens
            count += tokens
        sums.append((total, count, len(batches)))
    assert sums[0][2] < sums[1][2] == 8
    assert sums[0][1] == sums[1][1]
    assert sums[0][0] == pytest.approx(sums[1][0], rel=1e-4)


@pytest.mark.parametrize(("checkpointing", "times"), [(True, 2), (False, 1)])
def test_gradient_checkpointing_computes_each_layer_twice(trainers, checkpointing, times):
    trainer, _ = trainers(checkpointing=checkpointing, steps=1, evaluations=1, samples=0)
    trainer.args.eval_on_start = False
    seen = {"training": 0}

    def count(module, *_):
        seen["training"] += module.training

    layers = [part for name, part in trainer.model.named_modules() if name.endswith(".mlp")]
    for layer in layers:
        layer.register_forward_pre_hook(count)
    trainer.train()
    assert seen["training"] == times * len(layers)


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", sft.METHODS)
def test_eight_rows_are_learnt_by_heart(learnt, method):
    result = json.loads((learnt(method) / "result.json").read_text())
    assert result["loss_first"] > 3
    assert result["loss_last"] < 0.3
    assert result["eval_loss"] < 0.3 < result["eval_loss_before"]


@pytest.mark.parametrize("method", sft.METHODS)
def test_what_was_learnt_is_written_after_the_last_step(learnt, method):
    samples = sft.read_lines(learnt(method) / "samples.jsonl")
    assert samples[-1]["text"] == reply(0)
    assert samples[-1]["ended"]
    assert json.loads((learnt(method) / "result.json").read_text())["well_formed_samples"] == 1


def written_by(engine: LocalEngine, question: str) -> str:
    """What the app's engine writes, greedily."""
    done: list[Completion] = []
    arrived = threading.Event()

    def deliver(message: object) -> None:
        if isinstance(message, Completion):
            done.append(message)
            arrived.set()

    ids = engine.tokenizer.chat_ids([{"role": "user", "content": question}])
    sampling = options("marco", temperature=0.0, max_tokens=60).sampling
    engine.submit([Request(1, ids, sampling, 0, threading.Event())], deliver)
    assert arrived.wait(60)
    return done[0].text


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_app_s_engine_loads_the_adapter_and_says_what_was_learnt(learnt, model, method):
    said = []
    for adapter in (None, str(learnt(method) / "adapter")):
        quantize = "4bit" if method == "qlora" else "none"
        engine = LocalEngine(model, slots=1, context=512, quantize=quantize, adapter=adapter)
        said.append(written_by(engine, QUESTIONS[5]))
        engine.close()
    assert said[0] != said[1] == reply(5)


def test_an_adapter_is_for_engine_local_whatever_the_model_s_own_engine_is(learnt, model, tmp_path):
    gguf = tiny.write_gguf(model, tmp_path / "tiny.gguf")
    adapter = str(learnt("lora") / "adapter")
    for config in (
        ModelConfig(model=str(gguf), engine="llama.cpp", adapter=adapter),
        ModelConfig(base_urls=("http://127.0.0.1:9",), adapter=adapter),
    ):
        with pytest.raises(InvalidOption, match="adapter"):
            open_engine(config)
    engine = open_engine(ModelConfig(model=str(model), adapter=adapter, slots=1, context=512))
    assert engine.info.engine == "local"
    assert engine.info.details["adapter"] == adapter
    engine.close()


def test_the_app_takes_an_adapter(monkeypatch, marco_cli):
    from ui import serve

    served = []
    monkeypatch.setattr(serve, "serve", lambda config, **_: served.append(config))
    assert marco_cli("app", "--adapter", "run/adapter")[0] == 0
    assert served[0].adapter == "run/adapter"


def test_a_model_that_was_trained_as_a_whole_is_a_model(learnt):
    engine = LocalEngine(learnt("full") / "model", slots=1, context=512)
    assert written_by(engine, QUESTIONS[4]) == reply(4)
    engine.close()


def test_a_merged_model_says_the_same_without_an_adapter(learnt, tmp_path):
    out = merge(learnt("lora") / "adapter", tmp_path / "merged")
    engine = LocalEngine(out, slots=1, context=512)
    assert written_by(engine, QUESTIONS[6]) == reply(6)
    engine.close()
    with pytest.raises(UserMistake, match="not empty"):
        merge(learnt("lora") / "adapter", out)


def test_merging_refuses_what_is_no_adapter_or_another_model_s(learnt, tmp_path):
    with pytest.raises(ModelUnavailable, match=r"no adapter_config\.json"):
        merge(tmp_path, tmp_path / "out")
    other = tiny.build(tmp_path / "llama", "llama")
    (tmp_path / "llama" / "config.json").write_text(
        (tmp_path / "llama" / "config.json").read_text().replace('"intermediate_size": 96', '"intermediate_size": 64')
    )
    with pytest.raises((ModelUnavailable, RuntimeError)):
        merge(learnt("lora") / "adapter", tmp_path / "out", model=str(other))


# -- interruption ------------------------------------------------------------------------------------------------------


class Interrupt(TrainerCallback):
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_run_that_was_interrupted_goes_on_with_the_same_losses(model, rows, tmp_path, tracker, dropout):
    config = dataclasses.replace(SHORT, dropout=dropout)
    prepared = sft.prepare(str(model), rows, config)
    sft.train(prepared, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        sft.train(prepared, tmp_path / "broken", callbacks=[Interrupt(5)])
    assert not (tmp_path / "broken" / "result.json").exists()
    assert tracker.context_vars.current_run.get() is None
    said: list[str] = []
    sft.train(prepared, tmp_path / "broken", resume=True, say=said.append)
    assert any("behind step 4" in line for line in said)

    def curve(name: str) -> list[tuple[int, float]]:
        lines = sft.read_lines(tmp_path / name / "metrics.jsonl")
        return [(line["step"], line[key]) for line in lines for key in ("loss", "eval_loss") if key in line]

    assert curve("broken") == curve("whole")
    assert len(curve("whole")) == 6 + 4
    assert sft.read_lines(tmp_path / "broken" / "samples.jsonl") == sft.read_lines(tmp_path / "whole" / "samples.jsonl")
    kept = [path / "adapter" / "adapter_model.safetensors" for path in (tmp_path / "whole", tmp_path / "broken")]
    assert kept[0].read_bytes() == kept[1].read_bytes()


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\x0b", "\r"])
def test_a_line_of_the_record_ends_where_it_was_ended_whatever_the_model_wrote(tmp_path, character):
    lines = [{"step": step, "text": f"one{character}two"} for step in (1, 2)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (tmp_path / sft.SAMPLES).write_text(text, encoding="utf-8")
    sft._forget_after(tmp_path, 1)
    assert sft.read_lines(tmp_path / sft.SAMPLES) == lines[:1]


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(tmp_path):
    for step in (2, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step != 11:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert sft.last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sft.last_checkpoint(tmp_path / "none") is None


def test_a_finished_run_is_not_made_again(learnt, model, rows):
    config = dataclasses.replace(OVERFIT, method="lora", learning_rate=RATES["lora"])
    before = (learnt("lora") / "metrics.jsonl").read_text()
    result = sft.train(sft.prepare(str(model), rows, config), learnt("lora"), resume=True)
    assert result["steps"] == OVERFIT.steps
    assert (learnt("lora") / "metrics.jsonl").read_text() == before


def test_a_folder_with_another_run_is_refused(learnt, model, rows, tmp_path):
    prepared = sft.prepare(str(model), rows, SHORT)
    with pytest.raises(UserMistake, match="holds a run"):
        sft.train(prepared, learnt("lora"))
    with pytest.raises(UserMistake, match="other settings"):
        sft.train(prepared, learnt("lora"), resume=True)
    (tmp_path / "train.jsonl").write_text(json.dumps(as_json(1)))
    config = dataclasses.replace(OVERFIT, method="lora", learning_rate=RATES["lora"])
    with pytest.raises(UserMistake, match="other data"):
        sft.train(sft.prepare(str(model), tmp_path, config), learnt("lora"), resume=True)


# -- the run folder ----------------------------------------------------------------------------------------------------


def test_a_run_tells_where_it_comes_from(learnt, model, rows):
    config = json.loads((learnt("lora") / "config.json").read_text())
    assert config["model"] == str(model)
    assert config["seed"] == 0
    assert config["data_sha256"] == sft.data_hash(rows)
    assert config["settings"]["method"] == "lora"
    assert config["rows"]["train"] == 8
    assert set(config["versions"]) == set(sft.PACKAGES)
    for path in (learnt("lora") / "README.md", learnt("lora") / "adapter" / "README.md"):
        card = path.read_text()
        assert card.startswith("---\n")
        assert config["data_sha256"] in card
        assert "--adapter adapter" in card


def test_metrics_are_in_the_local_tracker(learnt, tracker):
    learnt("lora")
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_max_step_for_run(sft.PROJECT, "lora") == OVERFIT.steps


def test_nothing_is_sent_or_looked_up_elsewhere(model, rows, tmp_path, monkeypatch):
    asked = []

    def connect(self, address):
        asked.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: asked.append(host) or [])
    monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/somewhere")
    config = dataclasses.replace(SHORT, steps=1, evaluations=1, samples=0)
    sft.train(sft.prepare(str(model), rows, config), tmp_path / "run")
    assert asked == []
    assert os.environ["TRACKIO_SPACE_ID"] == "someone/somewhere"


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_is_foretold_of_weights_gradients_and_states_is_what_they_take(trainers, method):
    import torch

    trainer, prepared = trainers(method=method, steps=1, evaluations=1, samples=0)
    found = prepared.estimate
    held: dict[str, int] = {}

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **_):
            held["weights"] = sum(value.nbytes for value in model.parameters())
            held["gradients"] = sum(value.grad.nbytes for value in model.parameters() if value.grad is not None)

        def on_train_end(self, args, state, control, optimizer=None, **_):
            states = optimizer.state_dict()["state"].values()
            held["optimizer"] = sum(
                value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor)
            )

    trainer.add_callback(Look())
    trainer.train()
    assert held["weights"] == found.weights
    assert held["gradients"] == found.gradients == 4 * found.trained
    assert held["optimizer"] == pytest.approx(found.optimizer, rel=0.01)


def test_quantized_weights_take_what_is_foretold(trainers):
    trainer, prepared = trainers(method="qlora")
    assert loading.model_bytes(trainer.model) == pytest.approx(prepared.estimate.weights, rel=0.1)


def test_what_can_not_fit_is_refused_with_the_figures(model, rows):
    with pytest.raises(ModelUnavailable, match=r"lora takes 0\.\d\d GB: .* of weights.* 0\.01 GB are free") as refused:
        sft.prepare(str(model), rows, SHORT, free=10_000_000)
    assert "smaller model" in str(refused.value)


def test_a_cheaper_method_is_named_where_one_fits():
    import torch

    shape = loading.read_config("shape:marco-o1")
    device = torch.device("cuda")
    found = {
        method: memory.estimate(shape, method, device=device, rank=16, length=4096, batch=1, checkpointing=True)
        for method in sft.METHODS
    }
    adapters = [found["lora"], found["qlora"]]
    for gigabytes, fits in ((8, []), (20, ["qlora"]), (24, ["lora", "qlora"]), (139, ["lora", "qlora"])):
        with pytest.raises(ModelUnavailable) as refused:
            memory.check(found["full"], int(gigabytes * 1e9), device, adapters)
        assert "full takes 144" in str(refused.value)
        assert [name for name in ("lora", "qlora") if f" {name} takes" in str(refused.value)] == fits
    memory.check(found["full"], int(192e9), device, adapters)


def test_running_out_of_memory_all_the_same_is_one_sentence(model, rows, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(sft, "_trainer", full)
    with pytest.raises(OutOfMemory, match="foretold"):
        sft.train(sft.prepare(str(model), rows, SHORT), tmp_path / "run")


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"method": "magic"},
        {"steps": 0},
        {"epochs": 0},
        {"learning_rate": 2},
        {"rank": 0},
        {"dropout": 1.0},
        {"batch": 0},
    ],
)
def test_a_wrong_setting_is_refused(given):
    with pytest.raises(InvalidOption, match=next(iter(given))):
        sft.SftConfig(**given)


def test_rows_that_are_too_long_are_told_and_left_out(model, tmp_path):
    long = as_json(1)
    long["messages"][1]["content"] = reply(1) + " and so on" * 200  # type: ignore[index]
    (tmp_path / "train.jsonl").write_text(json.dumps(as_json(0)) + "\n" + json.dumps(long))
    prepared = sft.prepare(str(model), tmp_path, SHORT)
    assert len(prepared.train) == 1
    assert prepared.too_long == [f"{tmp_path}/train.jsonl, line 2"]
    with pytest.raises(UserMistake, match="All 2 rows are longer than 16 tokens"):
        sft.prepare(str(model), tmp_path, dataclasses.replace(SHORT, max_length=16))


@pytest.fixture
def marco_train(marco_cli):
    """Call `marco train ARGUMENTS`; returns (exit code, stdout, stderr)."""
    return partial(marco_cli, "train")


def test_the_command_trains_goes_on_and_merges(marco_train, model, rows, tmp_path):
    settings = (
        "--method", "lora", "--steps", 2, "--max-length", 400, "--accumulate", 1, "--evaluations", 1, "--samples", 1,
        "--sample-tokens", 4, "--rank", 4, "--system", "none",
    )  # fmt: skip
    code, out, err = marco_train(
        "sft", "--model", model, "--data", rows, "--out", tmp_path / "run", *settings, "--json"
    )
    assert code == 0, err
    result = json.loads(out)
    assert result["steps"] == 2
    assert "GB are free" in err
    code, out, err = marco_train("sft", "--out", tmp_path / "run", "--resume")
    assert (code, out) == (0, f"{tmp_path}/run/adapter\n")
    assert "finished" in err
    code, out, _ = marco_train("merge", "--adapter", tmp_path / "run" / "adapter", "--out", tmp_path / "merged")
    assert (code, out) == (0, f"{tmp_path}/merged\n")
    code, _, err = marco_train("sft", "--out", tmp_path / "run", "--resume", "--steps", 9)
    assert (code, err) == (2, f"marco: steps is 9, but must be 2, as the run in {tmp_path}/run began.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "ROWS", "--method", "magic"), "method"),
        (("--data", "nowhere"), "train.jsonl"),
        ((), "--data FOLDER is needed"),
        (("--data", "ROWS", "--model", "no/such/model"), "neither in the catalogue"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(marco_train, rows, tmp_path, arguments, message):
    arguments = [rows if part == "ROWS" else part for part in arguments]
    code, out, err = marco_train("sft", "--out", tmp_path / "run", *arguments)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1
