"""Products of eight-bit integers for processors that have instructions for them.

bitsandbytes computes its `8bit` form for GPUs; on a processor it is no faster than float32. Here each weight matrix is
rounded to integers with one scale a row (an output), each position's activations with a scale of their own as they
come, and the product is exact in 32 bits: y = (q_x q_w) s_x s_w. Rows don't share a scale, so what a row becomes does
not depend on who shares its batch. The scheme is the vector-wise one of LLM.int8 (arXiv 2208.07339, section 2.2)
without its decomposition of outliers: on the models measured here little is lost (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Processor flags under which a product of integers beats one of floats."""
_LARGEST = 127


def fast() -> bool:
    """Whether this processor multiplies eight-bit integers faster than floats."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        flags = next(line for line in lines if line.startswith("flags")).split()
    except (OSError, StopIteration):
        return False
    return any(flag in flags for flag in INSTRUCTIONS)


class Int8Linear(nn.Module):
    """A linear layer [..., in] to [..., out] whose product is one of integers; it can't be trained."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / _LARGEST
        self.register_buffer("weight", (weight / scale[:, None]).round_().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features).float()
        # NaN and infinity become a scale that isn't finite, and so a row that isn't: the engine looks for those.
        scale = rows.abs().amax(1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny).div_(_LARGEST)
        whole = (rows / scale).round_().to(torch.int8)
        y = torch._int_mm(whole, self.weight.t()).float().mul_(scale).mul_(self.scale)
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
