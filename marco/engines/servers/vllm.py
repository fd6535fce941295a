"""vLLM's OpenAI-compatible completions, with its options for token ids.

Its log-probabilities are raw unless it was started with another `--logprobs-mode`; it finds prefixes again by itself.
Sampling parameters of several choices get the seed plus the choice's index from vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marco.config import SamplingConfig
from marco.engines.base import Finish, TopTokens
from marco.engines.servers.base import TOP, Delta, Reader, Token, logprob_of, most_probable


class VLLM:
    """One model of a vLLM server."""

    kind = "vllm"
    path = "/v1/completions"
    keeps_connections = True

    def __init__(self, model: str) -> None:
        self.model = model

    def payload(self, prefix: Sequence[int], sampling: SamplingConfig, seed: int, count: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": list(prefix),
            "max_tokens": sampling.max_tokens,
            "n": count,
            "seed": seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": -1,
            "min_p": 0.0,
            "logprobs": TOP,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }

    def reader(self) -> Reader:
        return self.deltas

    def tokenize(self, text: str) -> dict[str, Any]:
        return {"model": self.model, "prompt": text, "add_special_tokens": False}

    def deltas(self, event: Mapping[str, Any]) -> list[Delta]:
        prefilled, cached = _prompt(event.get("usage") or {})
        deltas = []
        for choice in event.get("choices", ()):
            index = int(choice["index"])
            ids = [int(number) for number in choice.get("token_ids") or ()]
            told = choice.get("logprobs") or {}
            chosen = told.get("token_logprobs") or [None] * len(ids)
            tops = told.get("top_logprobs") or [None] * len(ids)
            tokens = tuple(
                Token(number, None if logprob is None else logprob_of(logprob), _named_top(top or {}))
                for number, logprob, top in zip(ids, chosen, tops, strict=True)
            )
            reason = choice.get("finish_reason")
            finish: Finish | None = None if reason is None else "length" if reason == "length" else "stop"
            deltas.append(
                Delta(
                    index,
                    tokens,
                    str(choice.get("text") or "").encode("utf-8", "replace"),
                    finish=finish,
                    # Siblings share the prompt: only the first one's reading of it cost anything.
                    prefilled=0 if index else prefilled,
                    cached=prefilled + cached if index else cached,
                )
            )
        return deltas


def _prompt(usage: Mapping[str, Any]) -> tuple[int, int]:
    """Positions of the prompt that were computed, and those that were found in the cache."""
    whole = int(usage.get("prompt_tokens") or 0)
    cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
    return max(0, whole - cached), cached


def _named_top(told: Mapping[str, Any]) -> TopTokens:
    """The shape {"token_id:17": -0.5, ...}; vLLM adds the chosen token, sixth where it is not among the five."""
    return most_probable([(int(name.rpartition(":")[2]), logprob_of(value)) for name, value in told.items()])
