"""`marco bench precision`: what a quantized form changes about a model's next tokens.

The unquantized model writes greedily; both forms then read what it wrote. At each written position their
distributions p (unquantized) and q are compared by the Kullback-Leibler divergence, sum p ln(p / q), in nats; 0 is no
difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from marco.config import ModelConfig

if TYPE_CHECKING:
    import torch

    from marco.engines.local import LocalEngine

Progress = Callable[[int, int, str], None]
Text = tuple[tuple[int, ...], int]
"""Ids, and how many of them are the prompt."""

QUESTIONS = (
    "A train leaves at 9:40 and arrives at 13:15. It stood still for 25 minutes. How long did it move?",
    "小明有 12 个苹果，给了朋友 5 个，又买了 3 袋，每袋 4 个。他现在有多少个苹果？",
    "What is the difference between a stack and a queue? Give an example of each.",
    "请把这句话翻译成英文：他说话总是拐弯抹角。",
)


def bench_precision(
    config: ModelConfig, progress: Progress | None = None, *, tokens: int = 96, questions: Sequence[str] = QUESTIONS
) -> dict[str, Any]:
    """Compare the form that `config` names with the unquantized model, `tokens` written positions a question.

    `agreement` is the share of positions with the same most probable token; `divergence_*` are in nats. `config` is for
    engine local. Raises `ModelUnavailable` where either form can't be loaded.
    """
    from marco.engines.local import open_local

    report = progress or (lambda _done, _total, _what: None)
    exact = open_local(replace(config, quantize="none", slots=1), progress)
    try:
        texts = []
        for done, question in enumerate(questions):
            report(done, len(questions), "The unquantized model writes")
            texts.append(_written(exact, question, tokens))
        wanted = [_distributions(exact, text) for text in texts]
        bytes_before = exact.info.details["weight_bytes"]
    finally:
        exact.close()
    del exact
    report(0, len(questions), "The other form reads")
    other = open_local(replace(config, slots=1), progress)
    try:
        divergences: list[float] = []
        same = 0
        for text, p in zip(texts, wanted, strict=True):
            q = _distributions(other, text)
            divergences += (p.exp() * (p - q)).sum(-1).clamp_min(0).tolist()
            same += int((p.argmax(-1) == q.argmax(-1)).sum())
        divergences.sort()
        return {
            "model": other.info.model,
            "quantize": other.info.details["quantize"],
            "dtype": other.info.details.get("dtype", ""),
            "device": other.info.device,
            "positions": len(divergences),
            "divergence_mean": round(math.fsum(divergences) / len(divergences), 5),
            "divergence_p95": round(divergences[int(0.95 * len(divergences))], 5),
            "agreement": round(same / len(divergences), 4),
            "weight_bytes": other.info.details["weight_bytes"],
            "weight_bytes_unquantized": bytes_before,
        }
    finally:
        other.close()


def _written(engine: LocalEngine, question: str, tokens: int) -> Text:
    import torch

    prompt = engine.tokenizer.chat_ids([{"role": "user", "content": question}])
    with torch.inference_mode():
        ids = engine.model.generate(
            torch.tensor([prompt], device=engine.model.device), max_new_tokens=tokens, do_sample=False
        )
    return tuple(ids[0].tolist()), len(prompt)


def _distributions(engine: LocalEngine, text: Text) -> torch.Tensor:
    """[written positions, vocabulary]: log-probabilities of what follows each written token."""
    import torch

    ids, prompt = text
    with torch.inference_mode():
        logits = engine.model(torch.tensor([ids], device=engine.model.device)).logits[0, prompt:]
    known: torch.Tensor = logits.float().log_softmax(-1).cpu()
    return known
