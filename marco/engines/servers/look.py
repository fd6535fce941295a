"""Looking at a server before work begins: what kind it is, whose tokenizer it has, and what it lacks.

`look_at` finds the kind, `find_tokenizer` a tokenizer that agrees with the server's, and `examine` asks for single
tokens in the way that all later calls will, and says in sentences what is missing and what follows from it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marco.config import SamplingConfig
from marco.engines import models
from marco.engines.base import ChatTokenizer
from marco.engines.chat import load_tokenizer
from marco.engines.servers.base import TOP, Adapter, Broken, Token, complaint, read_line, refuse, said
from marco.engines.servers.llamacpp import LlamaCpp
from marco.engines.servers.sglang import SGLang
from marco.engines.servers.tokenizer import ServerTokenizer
from marco.engines.servers.vllm import VLLM
from marco.errors import ModelUnavailable, ServerError, ServerUnreachable

if TYPE_CHECKING:
    import httpx

SAMPLE = "Let x = 17.5; 你好, wörld 🎉\n\n  <Thought>"
HOT = 2.0
"""A temperature that shows whether log-probabilities include it: distances between them would halve."""
FIRST_TOKEN_SECONDS = 150.0
"""Longest wait for the tokens of the examination: a server that others use as well may be busy."""

NO_LOGPROBS = "It gives no log-probabilities: confidence is not available, and agreement steers the search instead."
NO_TOP = (
    "It names fewer than five candidates a token: the confidence is over those that it names, and higher than it "
    "would be over five."
)
TEMPERED = (
    "Its log-probabilities include the temperature. Marco takes it out: the confidence is exact, the log-probabilities "
    "themselves are known among the five most probable tokens only (SGLang: start it with "
    "SGLANG_RETURN_ORIGINAL_LOGPROB=1; vLLM: with --logprobs-mode raw_logprobs)."
)
NO_CACHE = "It keeps no prefixes (SGLang: --disable-radix-cache): every thought is read again from its beginning."


@dataclass(frozen=True, slots=True)
class Found:
    """A server, as it describes itself."""

    adapter: Adapter
    model: str
    slots: int = 0
    context: int = 0
    file: Path | None = None
    """Where the server says its model lies, on the server's machine."""
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Examined:
    """What a server's first tokens show."""

    logprobs: bool
    tempered: bool
    """Log-probabilities include the temperature."""
    lacks: tuple[str, ...]


def look_at(client: httpx.Client, url: str) -> Found:
    """Which server answers at `url`. Raises `ServerUnreachable` where none does that Marco can talk to."""
    import httpx

    try:
        props = client.get("/props")
        if props.status_code in (401, 403):
            raise ServerUnreachable(f"The server at {url} lets nobody in without the right key: set MARCO_API_KEY.")
        if props.status_code == 503:
            raise ServerUnreachable(f"The server at {url} is not ready yet ({complaint(props.content)}).")
        if props.status_code == 200 and "default_generation_settings" in (told := props.json()):
            file = Path(told["model_path"])
            context = int(told["default_generation_settings"].get("n_ctx", 0))
            return Found(LlamaCpp(), file.name, int(told.get("total_slots", 0)), context, file)
        listed = client.get("/v1/models")
        if listed.status_code in (401, 403):
            raise ServerUnreachable(f"The server at {url} lets nobody in without the right key: set MARCO_API_KEY.")
        listed.raise_for_status()
        card = listed.json()["data"][0]
        root = Path(card.get("root") or card["id"])
        context = int(card.get("max_model_len") or 0)
        if card.get("owned_by") == "vllm":
            return Found(VLLM(card["id"]), card["id"], context=context, file=root)
        if card.get("owned_by") == "sglang":
            return _sglang(client, str(card["id"]), context, root)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ServerUnreachable(f"No server answers at {url} ({said(error)}).") from error
    except (httpx.HTTPError, KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ServerUnreachable(f"What answers at {url} is no server that Marco knows ({said(error)}).") from error
    raise ServerUnreachable(f"What answers at {url} is neither llama.cpp's server nor vLLM nor SGLang.")


def _sglang(client: httpx.Client, model: str, context: int, root: Path) -> Found:
    """SGLang says more about itself than its list of models does; where it doesn't, nothing is lost."""
    told: dict[str, Any] = {}
    for path in ("/server_info", "/get_server_info"):
        answer = client.get(path)
        if answer.status_code == 200:
            told = answer.json()
            break
    lacks = (NO_CACHE,) if told.get("disable_radix_cache") else ()
    slots = int(told.get("max_running_requests") or 0)
    # Served under a name of its own, or with a tokenizer from elsewhere, the model's path leads to no tokenizer.
    file = Path(told["tokenizer_path"]) if told.get("tokenizer_path") else root
    return Found(SGLang(model), model, slots, context or int(told.get("context_length") or 0), file, lacks)


def find_tokenizer(
    client: httpx.Client, found: Found, model: str | None, progress: models.Progress | None
) -> ChatTokenizer:
    """The tokenizer that the server uses. Raises `ModelUnavailable` where there is none, or another one."""
    if model is not None:
        tokenizer = load_tokenizer(models.resolve(model, progress=progress).path, progress=progress)
        if not _agree(client, found, tokenizer):
            raise ModelUnavailable(
                f"The tokenizer of {model} is not the one that the server at {client.base_url} uses."
            )
        return tokenizer
    if found.file is not None and found.file.exists():
        with contextlib.suppress(ModelUnavailable):
            tokenizer = load_tokenizer(found.file, progress=progress)
            if _agree(client, found, tokenizer):
                return tokenizer
    if isinstance(found.adapter, LlamaCpp):
        return ServerTokenizer(client)
    return load_tokenizer(models.resolve(found.model, progress=progress).path, progress=progress)


def _agree(client: httpx.Client, found: Found, tokenizer: ChatTokenizer) -> bool:
    """Whether server and tokenizer write a sample in the same ids; a server that can't say is believed."""
    answer = client.post("/tokenize", json=found.adapter.tokenize(SAMPLE))
    if answer.status_code == 404 and not isinstance(found.adapter, LlamaCpp):
        return True
    return answer.status_code == 200 and tuple(answer.json().get("tokens", ())) == tokenizer.encode(SAMPLE)


def examine(client: httpx.Client, found: Found, tokenizer: ChatTokenizer, name: str) -> Examined:
    """What one token, asked for as all others will be, comes with. Raises `ServerError` where it can't be had."""
    adapter = found.adapter
    prefix = tokenizer.encode("Hello, my name is")
    cold = _first_token(client, adapter, prefix, 0.0, name)
    if cold.logprob is None:
        return Examined(False, False, (*found.lacks, NO_LOGPROBS))
    lacks = list(found.lacks)
    if len(cold.top) < TOP:
        lacks.append(NO_TOP)
    # llama.cpp is told in each call which log-probabilities to give.
    tempered = not isinstance(adapter, LlamaCpp) and _is_tempered(
        cold, _first_token(client, adapter, prefix, HOT, name)
    )
    if tempered:
        lacks.append(TEMPERED)
    return Examined(True, tempered, tuple(lacks))


def _first_token(
    client: httpx.Client, adapter: Adapter, prefix: tuple[int, ...], temperature: float, name: str
) -> Token:
    import httpx

    body = adapter.payload(prefix, SamplingConfig(temperature=temperature, top_p=1.0, max_tokens=1), 0, 1)
    reader = adapter.reader()
    try:
        with client.stream("POST", adapter.path, json=body, timeout=FIRST_TOKEN_SECONDS) as answer:
            if answer.status_code >= 400:
                refuse(name, answer.status_code, answer.read())
            tokens = [
                token for line in answer.iter_lines() for d in read_line(name, reader, line) for token in d.tokens
            ]
    except (httpx.TransportError, Broken) as error:
        raise ServerError(f"{name} could not write a first token ({said(error)}).") from error
    return next((token for token in tokens if token.logprob is not None), tokens[0] if tokens else Token(-1))


def _is_tempered(cold: Token, hot: Token) -> bool:
    """Whether the distance between the best token and another has shrunk with the temperature."""
    known = dict(hot.top)
    common = [(number, value) for number, value in cold.top if number in known]
    if len(common) < 2:
        return False
    (best, highest), (other, lowest) = common[0], common[-1]
    distance = highest - lowest
    return distance > 0.2 and known[best] - known[other] < 0.75 * distance
