"""How a model gets into memory: predicted, refused or quantized, converted once, and reported."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import tiny  # noqa: E402

from marco.config import ModelConfig, SamplingConfig  # noqa: E402
from marco.engines import heap, int8, loading  # noqa: E402
from marco.engines.base import Completion, Request  # noqa: E402
from marco.engines.local import LocalEngine, open_local  # noqa: E402
from marco.errors import InvalidOption, ModelUnavailable  # noqa: E402

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GB = 10**9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("models") / "qwen2")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MARCO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(engine: LocalEngine, prefix: tuple[int, ...], tokens: int = 12) -> Completion:
    done = threading.Event()
    got: list[Completion] = []

    def deliver(message: Any) -> None:
        if isinstance(message, Completion):
            got.append(message)
            done.set()

    engine.submit([Request(1, prefix, SamplingConfig(max_tokens=tokens), 0, threading.Event())], deliver)
    assert done.wait(60)
    return got[0]


def full_size() -> Any:
    return loading.read_config("shape:marco-o1")


# Prediction


def test_the_shape_of_marco_o1_has_its_number_of_weights() -> None:
    assert sum(loading.weight_counts(full_size())) == 7_615_616_512


def test_a_position_of_marco_o1_takes_56_kib_of_keys_and_values_in_bfloat16() -> None:
    geometry = loading.geometry(full_size(), torch.bfloat16, CPU)
    assert geometry.bytes_per_position - geometry.hidden * 2 == 56 * 1024


@pytest.mark.parametrize(
    ("free", "form"), [(40 * GB, "none"), (16 * GB, "8bit"), (11 * GB, "4bit")], ids=["all", "half", "quarter"]
)
def test_auto_takes_the_most_exact_form_that_fits_and_says_why(free: int, form: str) -> None:
    decided = loading.plan(full_size(), name="some-7b", device=CUDA, free=free, slots=8)
    assert decided.quantize == form
    assert decided.predicted_bytes <= free
    assert f"{free / 1e9:.2f} GB free" in decided.why
    assert ("would not fit" in decided.why) == (form != "none")


@pytest.mark.parametrize(("free", "form"), [(23 * GB, "none"), (16 * GB, "4bit"), (11 * GB, "4bit")])
def test_marco_o1_on_a_gpu_is_what_decodes_fastest_there(free: int, form: str) -> None:
    assert loading.plan(full_size(), name="marco-o1", device=CUDA, free=free, slots=8).quantize == form


def test_who_asks_for_a_form_gets_it() -> None:
    for form in ("none", "8bit", "4bit"):
        assert loading.plan(full_size(), form, name="marco-o1", device=CUDA, free=140 * GB).quantize == form


def test_what_can_not_fit_is_refused_with_the_figures() -> None:
    with pytest.raises(
        ModelUnavailable, match=r"does not fit into the 4\.00 GB .* 4bit \(nf4\) \(\d\.\d\d GB of weights"
    ):
        loading.plan(full_size(), name="marco-o1", device=CUDA, free=4 * GB)
    with pytest.raises(ModelUnavailable, match="try quantize 4bit"):
        loading.plan(full_size(), "none", name="marco-o1", device=CUDA, free=8 * GB)


def test_a_processor_without_bfloat16_computes_in_float32_where_that_fits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = loading.read_config(folder)
    monkeypatch.setattr(loading, "fast_bfloat16", lambda: False)
    assert loading.plan(config, device=CPU).dtype == torch.float32
    assert loading.plan(full_size(), device=CPU, free=24 * GB, slots=2).dtype == torch.bfloat16
    monkeypatch.setattr(loading, "fast_bfloat16", lambda: True)
    assert loading.plan(config, device=CPU).dtype == torch.bfloat16


def test_an_unknown_form_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidOption, match="quantize"):
        loading.plan(loading.read_config(folder), "2bit")


def test_free_memory_is_what_this_machine_has() -> None:
    assert 0 < loading.free_memory(CPU) < 1 << 50


# Loading


@pytest.mark.parametrize("form", ["none", "8bit", "4bit"])
@pytest.mark.parametrize("source", ["folder", "shape:tiny"])
def test_every_form_loads_writes_and_takes_what_was_predicted(source: str, form: str, folder: Path) -> None:
    engine = LocalEngine(
        folder if source == "folder" else source, quantize=form, slots=2, context=512, dtype=torch.float32
    )
    try:
        details = engine.info.details
        assert details["quantize"] == form
        # Whole blocks and look-up tables weigh more on a tiny model than on any real one.
        assert details["weight_bytes"] == pytest.approx(details["predicted_weight_bytes"], rel=0.1)
        done = write(engine, tuple(range(5, 30)))
        assert done.finish in ("stop", "length")
        assert all(value is not None and value <= 0 for value in done.logprobs)
    finally:
        engine.close()


@pytest.mark.parametrize("integers", [False, True])
def test_quantized_weights_are_smaller(folder: Path, integers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "fast", lambda: integers)
    config = loading.read_config(folder)
    whole, bytes_, nibbles = (
        loading.model_bytes(loading.load(folder, loading.plan(config, form, device=CPU, dtype=torch.float32)))
        for form in ("none", "8bit", "4bit")
    )
    assert max(bytes_, nibbles) < whole
    # bitsandbytes leaves the head as it is, Marco's integers don't: on a tiny model that outweighs the rest.
    assert integers or nibbles < bytes_


def test_on_a_gpu_8bit_is_integers_for_weights_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "fast", lambda: False)
    config = loading.read_config(folder)
    exact, rounded, model = (
        loading.load(folder, loading.plan(config, form, device=CPU, dtype=torch.float32))
        for form in ("none", "8bit", "8bit")
    )
    # What a GPU does after loading; this machine may have none.
    int8.keep_activations(model, torch.float32)
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        wanted, of_bitsandbytes, got = (each(ids).logits for each in (exact, rounded, model))
    layers = [module for module in model.modules() if isinstance(module, int8.Int8Weights)]
    assert len(layers) == 7 * config.num_hidden_layers
    assert all(layer.weight.dtype == torch.int8 for layer in layers)
    assert 0 < (got - wanted).abs().mean() <= (of_bitsandbytes - wanted).abs().mean() < 0.2 * wanted.abs().mean()


def test_open_local_takes_a_model_config(folder: Path) -> None:
    engine = open_local(ModelConfig(model=str(folder), engine="local", slots=3, context=256, quantize="none"))
    try:
        assert (engine.info.model, engine.info.slots, engine.info.context) == (folder.name, 3, 256)
        assert engine.info.model_hash
    finally:
        engine.close()


def test_a_shape_needs_no_files(cache: Path) -> None:
    engine = open_local(ModelConfig(model="shape:tiny", engine="local", slots=2))
    try:
        assert engine.info.model == "shape:tiny"
        prefix = engine.tokenizer.chat_ids([{"role": "user", "content": "Hello"}])
        assert write(engine, prefix).finish in ("stop", "length")
        assert not cache.exists()
    finally:
        engine.close()


def test_the_same_shape_has_the_same_weights_each_time() -> None:
    decided = loading.plan(loading.read_config("shape:tiny"), "none", device=CPU)
    first, second = (loading.load("shape:tiny", decided) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_an_unknown_shape_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ModelUnavailable, match="shape:marco-o1"):
        loading.read_config("shape:marco-o2")


def test_an_architecture_that_would_be_computed_wrongly_is_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for change in ({"model_type": "gpt2"}, {"layer_types": ["sliding_attention"] * 3}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelUnavailable, match="engine local runs"):
            loading.read_config(tmp_path)


def test_damaged_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    decided = loading.plan(loading.read_config(tmp_path), "none", device=CPU)
    with pytest.raises(ModelUnavailable, match="can't be read"):
        loading.load(tmp_path, decided)


# Adapters


def test_a_folder_without_an_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"adapter_config\.json"):
        LocalEngine(folder, adapter=str(tmp_path))


def test_an_adapter_changes_what_the_model_says(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="adapters need the package peft")
    decided = loading.plan(loading.read_config(folder), "none", device=CPU, dtype=torch.float32)
    plain = loading.load(folder, decided)
    tuned = peft.get_peft_model(
        loading.load(folder, decided), peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    tuned.save_pretrained(tmp_path)
    adapted = loading.load(folder, decided, adapter=str(tmp_path))
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.allclose(adapted(ids).logits, tuned(ids).logits, atol=1e-4)
        assert not torch.allclose(adapted(ids).logits, plain(ids).logits, atol=1e-2)


def test_an_adapter_without_its_package_says_which(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Qwen2ForCausalLM

    def missing(self: Any, path: str) -> None:
        raise ImportError("PEFT is not available")

    monkeypatch.setattr(Qwen2ForCausalLM, "load_adapter", missing)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="pip install peft"):
        LocalEngine(folder, adapter=str(tmp_path))


# GGUF


def test_a_gguf_file_is_converted_once_and_gives_the_same_model(folder: Path, cache: Path, tmp_path: Path) -> None:
    path = tiny.write_gguf(folder, tmp_path / "tiny.gguf")
    converted = loading.convert_gguf(path)
    made = (converted / "model.safetensors").stat().st_mtime_ns
    said: list[str] = []
    assert loading.convert_gguf(path, lambda done, total, what: said.append(what)) == converted
    assert (converted / "model.safetensors").stat().st_mtime_ns == made
    assert not said
    assert converted.is_relative_to(cache)
    decided = loading.plan(loading.read_config(converted), "none", device=CPU, dtype=torch.bfloat16)
    model = loading.load(converted, decided)
    original = loading.load(folder, decided)
    for (name, tensor), (_, expected) in zip(
        sorted(model.state_dict().items()), sorted(original.state_dict().items()), strict=True
    ):
        assert torch.equal(tensor, expected), name


def test_the_head_of_a_gguf_file_stays_apart_from_its_embedding(folder: Path, cache: Path, tmp_path: Path) -> None:
    converted = loading.convert_gguf(tiny.write_gguf(folder, tmp_path / "tiny.gguf"))
    assert json.loads((converted / "config.json").read_text())["tie_word_embeddings"] is False
    model = loading.load(converted, loading.plan(loading.read_config(converted), "none", device=CPU))
    assert not torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)


def test_an_engine_opens_a_gguf_file(folder: Path, cache: Path, tmp_path: Path) -> None:
    from marco.engines.chat import load_tokenizer

    path = tiny.write_gguf(folder, tmp_path / "tiny.gguf")
    engine = LocalEngine(path, tokenizer=load_tokenizer(folder), slots=2, context=256)
    try:
        assert write(engine, tuple(range(5, 30))).finish in ("stop", "length")
    finally:
        engine.close()


def test_a_file_that_only_begins_like_a_gguf_is_refused(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelUnavailable):
        loading.convert_gguf(tmp_path / "broken.gguf")
    assert not list((cache / "converted").glob("broken*/config.json"))


def test_a_full_disk_says_what_is_missing(
    folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.write_gguf(folder, tmp_path / "tiny.gguf")
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(ModelUnavailable, match="MARCO_CACHE"):
        loading.convert_gguf(path)


# -- memory that is freed ----------------------------------------------------------------------------------------------


def test_what_a_person_set_for_the_allocator_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not heap.keep()


def test_an_allocator_that_cannot_be_told_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not heap.keep()
