"""The model as the peers use it: `generate` of transformers, with the prompt read anew at every call.

It is the very model object that Marco's local engine holds, so weights, precision and threads are the same. What is
computed is counted, and of it what had not been computed before: positions are told apart by all that precedes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from marco.engines.base import ChatTokenizer
from marco.reward import mean, token_confidences


@dataclass
class Counts:
    """Positions. `prefilled + generated` were computed; `distinct` of them had to be."""

    prefilled: int = 0
    generated: int = 0
    distinct: int = 0
    calls: int = 0
    seen: set[int] = field(default_factory=set)

    def note(self, prompt: Sequence[int], written: Sequence[Sequence[int]]) -> None:
        self.calls += 1
        self.prefilled += len(prompt)
        self.generated += sum(map(len, written))
        for ids in ([*prompt, *row] for row in written):
            path = 0
            for token in ids:
                path = hash((path, token))
                if path not in self.seen:
                    self.seen.add(path)
                    self.distinct += 1


@dataclass(frozen=True)
class Piece:
    """What one row wrote: ids without the end token, whether it ended, and the mean confidence (the paper's v)."""

    ids: tuple[int, ...]
    ended: bool
    confidence: float


class PlainModel:
    """`write` continues a prefix `n` times in one batch; siblings share its reading, nothing else is kept."""

    def __init__(self, model: Any, tokenizer: ChatTokenizer, temperature: float, top_p: float) -> None:
        self._model = model
        self.tokenizer = tokenizer
        self._sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        self.counts = Counts()

    def write(
        self, prefix: Sequence[int], max_tokens: int, n: int = 1, temperature: float | None = None
    ) -> list[Piece]:
        ids = torch.tensor([list(prefix)], device=self._model.device)
        how = self._sampling if temperature is None else {**self._sampling, "temperature": temperature}
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                num_return_sequences=n,
                eos_token_id=sorted(self.tokenizer.end_ids),
                pad_token_id=min(self.tokenizer.end_ids),
                use_cache=True,
                output_logits=True,
                return_dict_in_generate=True,
                **how,
            )
        rows = out.sequences[:, ids.shape[1] :].tolist()
        pieces, written = [], []
        for row, sampled in enumerate(rows):
            end = next((at for at, token in enumerate(sampled) if token in self.tokenizer.end_ids), None)
            count = len(sampled) if end is None else end + 1
            known = torch.log_softmax(torch.stack([step[row] for step in out.logits[:count]]).float(), -1)
            best = known.topk(5)
            logprobs = [float(known[at, token]) for at, token in enumerate(sampled[:count])]
            top = [
                tuple(zip(ids, values, strict=True))
                for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            confidence = mean(token_confidences(logprobs, top)) or 0.0
            written.append(sampled[:count])
            pieces.append(Piece(tuple(sampled[: count if end is None else end]), end is not None, confidence))
        self.counts.note(prefix, written)
        return pieces
