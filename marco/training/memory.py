"""What a run will take, foretold before anything is loaded; what can't fit is refused with the figures.

Weights, gradients and optimiser states follow from the shapes (Adam: two numbers a trained weight). Activations are
those of gradient checkpointing, or of keeping all; they are estimated on the safe side, not counted.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from marco.engines import loading
from marco.errors import ModelUnavailable

USABLE = 0.95
"""Share of the free memory that a run may be planned to take."""
LIBRARIES = {"cpu": 800 << 20, "cuda": 1 << 30}
"""Bytes that the libraries take."""

_TRAINED = 4
"""Bytes of a trained weight, of its gradient, and of each of its two optimiser states: float32."""
_LOGIT_TILE = (4096, 32_768, 3)
"""Positions, vocabulary entries and buffers of the tile in which the loss is computed."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes, by what takes them."""

    method: str
    trained: int
    """Weights that are trained (a number, not bytes)."""
    weights: int
    gradients: int
    optimizer: int
    activations: int
    reading: int
    """The weights' file while it is read: on a CPU its pages are in the same memory."""
    libraries: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.reading + self.libraries

    @property
    def sentence(self) -> str:
        return (
            f"{self.method} takes {_gb(self.total)}: {_gb(self.weights)} of weights, {_gb(self.gradients)} of "
            f"gradients, {_gb(self.optimizer)} of optimiser states, about {_gb(self.activations)} of activations, "
            f"{_gb(self.reading + self.libraries)} for libraries and reading"
        )

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "total": self.total}


def base_dtype(method: str, device: Any) -> Any:
    """In what the weights are held: float32 where they are trained, else the fastest that the device has."""
    import torch

    if method == "full":
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if loading.fast_bfloat16() else torch.float32


def lora_weights(config: Any, rank: int) -> int:
    """Weights of an adapter of this rank on every linear layer but the head."""
    return sum(rank * (layer.in_features + layer.out_features) for layer in _linear_layers(config))


def _linear_layers(config: Any) -> list[Any]:
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    return [module for module in model.base_model.modules() if isinstance(module, nn.Linear)]


def estimate(
    config: Any, method: str, *, device: Any, rank: int, length: int, batch: int, checkpointing: bool
) -> Estimate:
    """What a step of `batch` rows of `length` tokens takes. `config` is the model's, of transformers."""
    counts = loading.weight_counts(config)
    dtype = base_dtype(method, device)
    weights = loading.weight_bytes(counts, "4bit" if method == "qlora" else "none", dtype)
    trained = sum(counts) if method == "full" else lora_weights(config, rank)
    # Mixed precision keeps a second copy of what it multiplies by while a step is under way.
    copies = 2 * sum(counts) if method == "full" and device.type == "cuda" else 0
    if method == "qlora":
        # One layer at a time is unpacked.
        copies = dtype.itemsize * max(layer.in_features * layer.out_features for layer in _linear_layers(config))
    adapter = 0 if method == "full" else trained * _TRAINED
    return Estimate(
        method=method,
        trained=trained,
        weights=weights + adapter,
        gradients=trained * _TRAINED,
        optimizer=2 * trained * _TRAINED,
        activations=_activations(config, dtype.itemsize, length * batch, checkpointing) + copies,
        reading=0 if device.type == "cuda" else sum(counts) * getattr(getattr(config, "dtype", None), "itemsize", 2),
        libraries=LIBRARIES.get(device.type, 1 << 30),
    )


def _activations(config: Any, width: int, tokens: int, checkpointing: bool) -> int:
    hidden = config.hidden_size
    # Of one layer, forward and backward: its norms and projections, and the three parts of the feed-forward.
    layer = tokens * width * (14 * hidden + 5 * config.intermediate_size)
    # Without a fused kernel for packed rows, attention holds a mask and a block of scores.
    attention = tokens * tokens * (1 + width)
    kept = tokens * width * hidden * config.num_hidden_layers
    layers = layer + kept if checkpointing else layer * config.num_hidden_layers
    positions, entries, buffers = _LOGIT_TILE
    head = min(tokens, positions) * min(config.vocab_size, entries) * 4 * buffers + tokens * hidden * 4 * 3
    return int(layers + attention + head)


def check(found: Estimate, free: int, device: Any, cheaper: list[Estimate]) -> None:
    """Raise `ModelUnavailable` with the figures where a run can't fit. `cheaper` are other methods, to be named."""
    if found.total <= free * USABLE:
        return
    fitting = [other for other in cheaper if other.total <= free * USABLE]
    if fitting:
        advice = "method " + " or ".join(f"{other.method} takes {_gb(other.total)}" for other in fitting)
    else:
        advice = "take a smaller model, a shorter max_length or a smaller batch"
    raise ModelUnavailable(f"{found.sentence}; {_gb(free)} are free on {device}: {advice}.")


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
