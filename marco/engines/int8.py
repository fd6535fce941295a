"""Products of eight-bit integers for processors that have instructions for them.

bitsandbytes computes its `8bit` form for GPUs; on a processor it is no faster than float32. Here weights are rounded to
integers with a scale for each output, each position's activations with a scale of their own as they come, and the
product is exact in 32 bits: y = (q_x q_w) s_x s_w. Rows don't share a scale, so what a row becomes does not depend on
who shares its batch. The scheme is the vector-wise one of LLM.int8 (arXiv 2208.07339, section 2.2); instead of that
paper's decomposition, long rows are cut into blocks with scales of their own, so that an outlier coarsens its block
alone. `marco bench precision` says what is lost, `marco bench steps` what is won.
"""

from __future__ import annotations

from pathlib import Path

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
