"""Record what a real server answers to the requests that Marco sends, for the tests to replay.

    python tests/recorded/record.py http://127.0.0.1:8080 tests/recorded/llamacpp --version "b9000, Qwen2.5 0.5B"

Any server that Marco can talk to will do; a small model and a context of 512 keep the files small. A key is read from
MARCO_API_KEY and not written. Each file of OUT holds one conversation: requests and answers, byte for byte.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from marco.config import SamplingConfig
from marco.engines.servers.look import examine, look_at
from marco.errors import MarcoError

GREETING = "Hello, my name is"
RARE = "龘龘龘龘龘龘龘龘"
"""Most tokenizers spell it in several tokens: all but the last end in mid-character."""
GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_tokens=6)
SIBLINGS = SamplingConfig(temperature=0.8, top_p=0.9, max_tokens=5)
SEED = 3


class Recorder(httpx.BaseTransport):
    """Passes requests on to the server and keeps both sides."""

    def __init__(self) -> None:
        self.exchanges: list[dict[str, Any]] = []
        # llama.cpp closes kept-alive connections at moments of its own.
        self._real = httpx.HTTPTransport(limits=httpx.Limits(max_keepalive_connections=0))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._real.handle_request(request)
        body = answer.read()
        self.exchanges.append(
            {
                "method": request.method,
                "path": request.url.path,
                "json": json.loads(request.content) if request.content else None,
                "status": answer.status_code,
                **told(body),
            }
        )
        return httpx.Response(answer.status_code, content=body)


def told(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


class Asked:
    """The tokenizer on the server's side: enough of one for `examine`."""

    def __init__(self, client: httpx.Client, adapter: Any) -> None:
        self._client = client
        self._adapter = adapter

    def encode(self, text: str) -> tuple[int, ...]:
        answer = self._client.post("/tokenize", json=self._adapter.tokenize(text))
        return tuple(answer.raise_for_status().json()["tokens"])


def record(url: str, out: Path, version: str) -> None:
    recorder = Recorder()
    key = os.environ.get("MARCO_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    @contextlib.contextmanager
    def kept(name: str) -> Iterator[None]:
        recorder.exchanges.clear()
        yield
        text = json.dumps(recorder.exchanges, ensure_ascii=False, indent=1)
        (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")

    out.mkdir(parents=True, exist_ok=True)
    with httpx.Client(base_url=url, headers=headers, transport=recorder, timeout=300) as client:
        with kept("look"):
            found = look_at(client, url)
        adapter = found.adapter
        with kept("examine"):
            tokenizer: Any = Asked(client, adapter)
            examine(client, found, tokenizer, "The server")
        hello, rare = (tokenizer.encode(text) for text in (GREETING, RARE))
        calls = {
            "greedy": adapter.payload(hello, GREEDY, SEED, 1),
            "siblings": adapter.payload(hello, SIBLINGS, SEED, 3),
            "rare": adapter.payload(rare, GREEDY, SEED, 1),
            "too-long": adapter.payload(hello * (max(found.context, 512) // len(hello) + 1), GREEDY, SEED, 1),
            "nonsense": {**adapter.payload(hello, GREEDY, SEED, 1), **nonsense(adapter)},
        }
        whole = {**calls["greedy"], "stream": False}
        whole.pop("stream_options", None)
        for name, body in {**calls, "whole": whole}.items():
            with kept(name):
                client.post(adapter.path, json=body)
        if key:
            with kept("locked"), contextlib.suppress(MarcoError):
                del client.headers["Authorization"]
                look_at(client, url)
    (out / "VERSION").write_text(version + "\n", encoding="utf-8")


def nonsense(adapter: Any) -> dict[str, Any]:
    """Options that no server accepts."""
    return {"sampling_params": {"temperature": "hot"}} if adapter.kind == "sglang" else {"temperature": "hot"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--version", required=True, help="of the server, and which model it runs")
    arguments = parser.parse_args()
    record(arguments.url, arguments.out, arguments.version)
