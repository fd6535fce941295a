"""llama.cpp's server, by its own completion API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marco.config import SamplingConfig
from marco.engines.base import Finish
from marco.engines.servers.base import TOP, Delta, Reader, Token, logprob_of


class LlamaCpp:
    """llama.cpp's own completion API: unlike its OpenAI-compatible one it counts, in every chunk, the tokens that
    it withholds because they end in mid-character."""

    kind = "llama.cpp"
    path = "/completion"
    keeps_connections = False  # it closes kept-alive connections at moments of its own

    def payload(self, prefix: Sequence[int], sampling: SamplingConfig, seed: int, count: int) -> dict[str, Any]:
        return {
            "prompt": list(prefix),
            "n_predict": sampling.max_tokens,
            "n_cmpl": count,
            "seed": seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            # Its default chain cuts by top_p before temperature, and filters in half a dozen other ways.
            "samplers": ["temperature", "top_p"],
            "n_probs": TOP,
            "post_sampling_probs": False,
            "return_tokens": True,
            "cache_prompt": True,
            "stop": [],
            "stream": True,
        }

    def reader(self) -> Reader:
        return self.deltas

    def tokenize(self, text: str) -> dict[str, Any]:
        return {"content": text, "add_special": False, "parse_special": False}

    def deltas(self, event: Mapping[str, Any]) -> list[Delta]:
        index = int(event.get("index", 0))
        written = int(event["tokens_predicted"])
        if event["stop"]:
            timings = event.get("timings", {})
            prefilled, cached = int(timings.get("prompt_n", 0)), int(timings.get("cache_n", 0))
            if index:
                # Siblings take over the first one's state, and its figures with it.
                prefilled, cached = 0, cached + prefilled
            return [Delta(index, written=written, finish=self._finish(event), prefilled=prefilled, cached=cached)]
        tokens = tuple(Token(int(number)) for number in event["tokens"])
        data = str(event.get("content", "")).encode()
        for told in event.get("completion_probabilities") or ():
            tokens = (self._token(told),)
            data = bytes(told["bytes"])
        return [Delta(index, tokens, data, written)]

    def rest_payload(self, prefix: Sequence[int], sampling: SamplingConfig, seed: int) -> dict[str, Any]:
        return {**self.payload(prefix, sampling, seed, 1), "stream": False}

    def rest(self, answer: Mapping[str, Any]) -> tuple[list[Token], Finish]:
        """All tokens of an answer that was not streamed; those in mid-character have no log-probability."""
        told = [self._token(one) for one in answer.get("completion_probabilities") or ()]
        tokens = []
        for number in answer["tokens"]:
            known = bool(told) and told[0].id == int(number)
            tokens.append(told.pop(0) if known else Token(int(number)))
        return tokens, self._finish(answer)

    def _finish(self, event: Mapping[str, Any]) -> Finish:
        return "stop" if event.get("stop_type") in ("eos", "word") else "length"

    def _token(self, told: Mapping[str, Any]) -> Token:
        top = tuple((int(one["id"]), logprob_of(one["logprob"])) for one in told["top_logprobs"][:TOP])
        return Token(int(told["id"]), logprob_of(told["logprob"]), top)
