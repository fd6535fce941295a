"""`marco bench`: the same work three ways, on a tiny model; figures are looked at for sense, never for speed."""

from __future__ import annotations

import json

import pytest
import tiny

from marco import provenance
from marco.benchmarks.speed import bench_speed
from marco.config import ModelConfig, options

FIELDS = {
    "model", "engine", "quantize", "device", "batch", "naive_tokens_per_second", "batched_tokens_per_second",
    "search_tokens_per_second", "search_over_naive", "search_over_batched", "computed_over_distinct",
    "roofline_tokens_per_second", "roofline_fraction", "peak_memory_bytes",
}  # fmt: skip


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    folder = tiny.build(tmp_path_factory.mktemp("tiny") / "model")
    config = ModelConfig(model=str(folder), engine="local", quantize="none", dtype="float32", slots=4)
    return bench_speed(config, options("marco", action="mini-step-8", seed=1), rollouts=4, max_tokens=24)


def test_every_field_that_is_promised_is_there(figures):
    assert figures.keys() >= FIELDS


def test_all_three_ways_write_past_end_tokens_to_the_same_length(figures):
    assert figures["generated_tokens"] == 4 * 24
    assert figures["batch"] == 4


def test_the_search_computes_every_position_once(figures):
    assert figures["computed_over_distinct"] == pytest.approx(1.0, abs=0.02)


def test_ratios_follow_from_the_speeds(figures):
    search = figures["search_tokens_per_second"]
    assert figures["search_over_naive"] == pytest.approx(search / figures["naive_tokens_per_second"])
    assert figures["search_over_batched"] == pytest.approx(search / figures["batched_tokens_per_second"])
    assert figures["roofline_fraction"] == pytest.approx(search / figures["roofline_tokens_per_second"])


def test_the_precision_is_the_one_that_was_asked_for(figures):
    assert figures["dtype"] == "float32"


def test_a_precision_that_does_not_exist_is_refused():
    from marco.errors import InvalidOption

    with pytest.raises(InvalidOption, match="dtype"):
        ModelConfig(dtype="float8")


def test_a_step_is_measured_for_each_batch_that_was_asked_for(tmp_path, marco_cli):
    folder = tiny.build(tmp_path / "model")
    code, out, _ = marco_cli("bench", "steps", "--model", folder, "--batch", 1, "--batch", 3, "--steps", 2, "--json")
    figures = json.loads(out)
    assert code == 0
    assert figures["milliseconds_a_step"].keys() == figures["tokens_per_second"].keys() == {"1", "3"}
    seconds = figures["milliseconds_a_step"]["3"] / 1000
    assert figures["tokens_per_second"]["3"] == pytest.approx(3 / seconds, rel=0.1)


def test_a_form_is_compared_with_the_unquantized_model(tmp_path, marco_cli):
    folder = tiny.build(tmp_path / "model")

    def measured(form):
        arguments = ("--model", folder, "--quantize", form, "--dtype", "float32", "--tokens", 8, "--json")
        code, out, _ = marco_cli("bench", "precision", *arguments)
        assert code == 0
        return json.loads(out)

    same, rounded = measured("none"), measured("8bit")
    assert (same["divergence_mean"], same["agreement"]) == (pytest.approx(0, abs=1e-5), 1)
    assert 0 < rounded["divergence_mean"] <= rounded["divergence_p95"] * 4
    assert rounded["weight_bytes"] < rounded["weight_bytes_unquantized"] == same["weight_bytes"]


def test_every_benchmark_names_its_machine_its_seed_and_its_commit(marco_cli):
    code, out, _ = marco_cli("bench", "tree", "--nodes", 50, "--seed", 7, "--json")
    figures = json.loads(out)
    assert code == 0
    assert figures["seed"] == 7
    assert figures["machine"] == provenance.machine()
    assert figures["commit"] == provenance.commit()
