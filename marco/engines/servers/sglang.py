"""SGLang's own `/generate`, which takes and gives token ids.

Log-probabilities of sampled tokens are computed after the logits were divided by the temperature, unless the server
was started with `SGLANG_RETURN_ORIGINAL_LOGPROB=1`; the check at the start finds out which. A stream repeats everything
from the beginning in each event, unless the server was started to send only what is new; both are understood.
Seeds count only under its `--enable-deterministic-inference`; otherwise siblings differ all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marco.config import SamplingConfig
from marco.engines.base import Finish, TopTokens
from marco.engines.servers.base import TOP, Delta, Reader, Token, logprob_of, most_probable


class SGLang:
    """An SGLang server."""

    kind = "sglang"
    path = "/generate"
    keeps_connections = True

    def __init__(self, model: str) -> None:
        self.model = model

    def payload(self, prefix: Sequence[int], sampling: SamplingConfig, seed: int, count: int) -> dict[str, Any]:
        drawn = {
            "max_new_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": -1,
            "min_p": 0.0,
            "skip_special_tokens": False,
            "no_stop_trim": True,
        }
        return {
            # A list and not `n`: each sibling has a seed of its own then, and the cache serves them as well.
            "input_ids": [list(prefix)] * count,
            "sampling_params": [{**drawn, "sampling_seed": (seed + index) % 2**31} for index in range(count)],
            "return_logprob": True,
            "logprob_start_len": -1,
            "top_logprobs_num": TOP,
            "return_text_in_logprobs": False,
            "stream": True,
        }

    def reader(self) -> Reader:
        known: dict[int, tuple[int, int]] = {}

        def deltas(event: Mapping[str, Any]) -> list[Delta]:
            index = int(event.get("index", 0))
            meta = event["meta_info"]
            tokens_known, text_known = known.get(index, (0, 0))
            written = int(meta["completion_tokens"])
            ids = event["output_ids"]
            text = str(event.get("text") or "")
            # What is repeated grows until the moment it is sent: it may be ahead of the count, which was taken before.
            whole = len(ids) >= written
            fresh = len(ids) - tokens_known if whole else written - tokens_known
            if fresh < 0 or len(ids) < fresh:
                raise ValueError(f"{len(ids)} tokens where {fresh} are new")
            tokens = _tokens(ids[len(ids) - fresh :], meta, tokens_known if whole else -fresh)
            new_text = text[text_known:] if whole else text
            known[index] = (tokens_known + fresh, len(text) if whole else text_known + len(text))
            cached = int(meta.get("cached_tokens") or 0)
            return [
                Delta(
                    index,
                    tokens,
                    new_text.encode("utf-8", "replace"),
                    finish=_finish(meta.get("finish_reason")),
                    prefilled=max(0, int(meta.get("prompt_tokens") or 0) - cached),
                    cached=cached,
                )
            ]

        return deltas

    def tokenize(self, text: str) -> dict[str, Any]:
        return {"model": self.model, "prompt": text, "add_special_tokens": False}


def _tokens(ids: Sequence[Any], meta: Mapping[str, Any], start: int) -> tuple[Token, ...]:
    """The new tokens; theirs begin at `start` of the lists of log-probabilities, `[log-probability, id, text]` each."""
    chosen = meta.get("output_token_logprobs")
    tops = meta.get("output_top_logprobs")
    if not chosen or not ids:
        return tuple(Token(int(number)) for number in ids)
    end = start + len(ids) or None
    told = chosen[start:end]
    given: Sequence[Any] = tops[start:end] if tops else [()] * len(told)
    tokens = []
    for number, (value, named, *_), top in zip(ids, told, given, strict=True):
        if int(named) != int(number):
            raise ValueError(f"token {number} comes with the log-probability of token {named}")
        tokens.append(Token(int(number), None if value is None else logprob_of(value), _top(top or ())))
    return tuple(tokens)


def _top(told: Sequence[Any]) -> TopTokens:
    return most_probable([(int(number), logprob_of(value)) for value, number, *_ in told if value is not None])


def _finish(reason: Any) -> Finish | None:
    if reason is None:
        return None
    kind = reason.get("type") if isinstance(reason, Mapping) else reason
    if kind == "abort":
        message = reason.get("message", "") if isinstance(reason, Mapping) else ""
        raise ValueError(f"the server gave up: {message}")
    return "length" if kind == "length" else "stop"
