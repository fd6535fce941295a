"""The `8bit` form, computed otherwise than by bitsandbytes: products of integers on a processor that has instructions
for them, integers as weights alone on a GPU.

bitsandbytes on a processor is no faster than float32. Here (`Int8Linear`) weights are rounded to integers with a scale
for each output, each position's activations with a scale of their own as they come, and the product is exact in 32
bits: y = (q_x q_w) s_x s_w. Rows don't share a scale, so what a row becomes does not depend on who shares its batch.
The scheme is the vector-wise one of LLM.int8 (arXiv 2208.07339, section 2.2); instead of that paper's decomposition,
long rows are cut into blocks with scales of their own, so that an outlier coarsens its block alone.

On a GPU bitsandbytes looks in every layer of every step for outliers. Its integers are kept as they are, and
`Int8Weights` multiplies what they stand for with activations that nobody rounds: y = x (q_w s_w).

`marco bench precision` says what is lost, `marco bench steps` what is won.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Processor flags under which a product of integers beats one of floats."""
BLOCK = 1280
"""Inputs that share a scale, about: shorter blocks are more exact, longer ones faster."""
_LARGEST = 127
_TINY = torch.finfo(torch.float32).tiny


def processor_flags() -> frozenset[str] | None:
    """What this processor says that it can do; None where it doesn't say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return frozenset(next(line for line in lines if line.startswith("flags")).split())
    except (OSError, StopIteration):
        return None


def fast() -> bool:
    """Whether this processor multiplies eight-bit integers faster than floats."""
    return not (processor_flags() or frozenset()).isdisjoint(INSTRUCTIONS)


class Int8Linear(nn.Module):
    """A linear layer [..., in] to [..., out] whose product is one of integers; it can't be trained."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        blocks = max(1, round(linear.in_features / BLOCK))
        while linear.in_features % blocks:
            blocks += 1
        weight = linear.weight.detach().float().reshape(linear.out_features, blocks, -1).transpose(0, 1)
        scale = weight.abs().amax(2, keepdim=True).clamp_min(_TINY) / _LARGEST
        # [blocks, out, in / blocks] and [blocks, out]
        self.register_buffer("weight", (weight / scale).round_().to(torch.int8).contiguous())
        self.register_buffer("scale", scale[..., 0].contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blocks = len(self.weight)
        # [blocks, rows, in / blocks] and [blocks, rows, 1]
        rows = x.reshape(-1, blocks, self.in_features // blocks).transpose(0, 1).float()
        # NaN and infinity become a scale that isn't finite, and so a row that isn't: the engine looks for those.
        scales = rows.abs().amax(2, keepdim=True).clamp_min_(_TINY).div_(_LARGEST)
        whole = (rows / scales).round_().to(torch.int8, memory_format=torch.contiguous_format)
        products = (
            torch._int_mm(whole[block], self.weight[block].t()).float().mul_(scales[block]).mul_(self.scale[block])
            for block in range(blocks)
        )
        y = next(products)
        for product in products:
            y += product
        if self.bias is not None:
            y += self.bias
        return y.reshape(*x.shape[:-1], self.out_features).to(x.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def quantize(model: nn.Module) -> None:
    """Put integers in the place of every linear layer, one after the other: no more than one is ever held twice."""
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            model.set_submodule(path, Int8Linear(module))


class Int8Weights(nn.Module):
    """A linear layer [..., in] to [..., out] whose weights are integers, and nothing else is; it can't be trained."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        """`weight` [out, in] of integers, `scale` [out, 1] in the type that is computed in, `bias` [out]."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight * self.scale, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def keep_activations(model: nn.Module, dtype: torch.dtype) -> None:
    """Put `Int8Weights` in the place of every 8-bit layer of bitsandbytes, around the same integers; before the first
    pass, which would move them."""
    import bitsandbytes

    kind: Any = bitsandbytes.nn.Linear8bitLt
    for path, module in list(model.named_modules()):
        if isinstance(module, kind):
            # [out]: the largest of each output's weights.
            largest: torch.Tensor = module.weight.SCB
            bias = None if module.bias is None else module.bias.detach().to(dtype)
            scale = (largest.float() / _LARGEST).to(dtype)[:, None]
            model.set_submodule(path, Int8Weights(module.weight.CB, scale, bias))
