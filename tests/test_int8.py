"""Products of integers: near the floats they stand for, one row at a time, and where the processor has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from marco.engines import int8, loading


def layer(inputs: int = 96, outputs: int = 40, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(inputs, outputs, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_of_integers_is_near_the_product_of_floats(bias: bool) -> None:
    exact = layer(bias=bias)
    x = torch.randn(2, 7, 96)
    with torch.no_grad():
        wanted, got = exact(x), int8.Int8Linear(exact)(x)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_an_outlier_coarsens_its_own_block_alone() -> None:
    exact = layer(4 * int8.BLOCK, 16)
    x = torch.randn(3, 4 * int8.BLOCK)
    x[:, 7] = 300.0
    whole = int8.Int8Linear(exact)
    assert len(whole.weight) == 4
    with torch.no_grad():
        wanted = exact(x)
        cut = (whole(x) - wanted).abs().mean()
        int8_of_one = int8.Int8Linear(exact)
        int8_of_one.weight, int8_of_one.scale = _as_one(exact)
        uncut = (int8_of_one(x) - wanted).abs().mean()
    assert cut < 0.6 * uncut


def _as_one(linear: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    weight = linear.weight.detach()
    scale = weight.abs().amax(1) / 127
    return (weight / scale[:, None]).round().to(torch.int8)[None], scale[None]


@given(rows=st.integers(1, 40), row=st.integers(0, 39), loud=st.floats(1, 1e6))
def test_a_row_does_not_depend_on_who_shares_its_batch(rows: int, row: int, loud: float) -> None:
    quantized = int8.Int8Linear(layer())
    x = torch.randn(40, 96, generator=torch.Generator().manual_seed(1))
    alone = quantized(x[row : row + 1])
    others = x[:rows] * loud
    together = quantized(torch.cat([others, x[row : row + 1]]))
    assert torch.equal(alone[0], together[-1])


def test_zeros_stay_zeros_and_what_is_not_finite_spoils_its_own_row_alone() -> None:
    quantized = int8.Int8Linear(layer(bias=False))
    x = torch.zeros(3, 96)
    x[1, 5], x[2, 0] = torch.nan, torch.inf
    y = quantized(x)
    assert torch.equal(y[0], torch.zeros(40))
    assert not y[1].isfinite().any()
    assert not y[2].isfinite().any()


def test_every_linear_layer_becomes_one_of_integers_the_head_included() -> None:
    model = nn.ModuleDict({"body": nn.Sequential(layer(), nn.ReLU()), "head": layer(40, 8)})
    int8.quantize(model)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    assert model["head"].weight.dtype == torch.int8


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("sse avx512f avx512_vnni", True), ("avx_vnni", True), ("avx512f", False), ("not_avx512_vnni_x", False)],
)
def test_only_a_processor_with_the_instructions_uses_them(
    flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_kwargs: f"processor : 0\nflags : {flags}\n")
    assert int8.fast() is expected


def test_without_them_8bit_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not loading.in_integers("8bit", torch.device("cuda"))
    assert not loading.in_integers("4bit", torch.device("cpu"))
    monkeypatch.setattr(int8, "fast", lambda: False)
    assert not loading.in_integers("8bit", torch.device("cpu"))
