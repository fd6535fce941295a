"""A server that speaks as llama.cpp's does and breaks on demand, as a process that can be killed.

    python broken_server.py          # says its port on standard output, ends with its standard input

Tokens are bytes. What goes wrong next is posted to `/break` as {"how": ..., "times": ...}; `how` is one of `HOW`.
Only the standard library, so that it starts at once.
"""

from __future__ import annotations

import http.server
import json
import os
import sys
import threading
import time
from typing import Any

HOW = ("5xx", "hang", "cut", "malformed", "nan", "refuse")
END = 256
SAID = "<Thought>\nTwo and one.\n\nThat is three.\n</Thought>\n<Output>\nThe answer is 3.\n</Output>"


class Handler(http.server.BaseHTTPRequestHandler):
    breaking: list[str] = []  # noqa: RUF012
    lock = threading.Lock()

    def do_GET(self) -> None:
        if self.path == "/props":
            settings = {"n_ctx": 8192}
            self._say(200, {"default_generation_settings": settings, "total_slots": 8, "model_path": "/none/m.gguf"})
        else:
            self._say(200, {"status": "ok"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/break":
            with self.lock:
                Handler.breaking = [body["how"]] * body["times"]
            self._say(200, {})
            return
        with self.lock:
            how = Handler.breaking.pop() if Handler.breaking else ""
        if how == "5xx":
            self._say(500, {"error": {"message": "out of memory"}})
        elif how == "refuse":
            self._say(400, {"error": {"message": "no"}})
        elif how == "hang":
            time.sleep(3)
        else:
            self._complete(body, how)

    def _complete(self, body: dict[str, Any], how: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        said = [*SAID.encode(), END][: body["n_predict"]]
        for index in range(body["n_cmpl"]):
            for count, number in enumerate(said, start=1):
                if how == "cut" and count == 20:
                    return
                if how == "malformed" and count == 10:
                    self._send({"index": index, "content": "x", "tokens": "many", "stop": False})
                    return
                value = float("nan") if how == "nan" and count == 5 else -0.2
                text = "" if number == END else chr(number)
                top = [{"id": number, "logprob": value}, *({"id": i, "logprob": -2.0 - i} for i in range(1, 5))]
                told = {"id": number, "bytes": list(text.encode()), "logprob": value, "top_logprobs": top}
                self._send(
                    {
                        "index": index,
                        "content": text,
                        "tokens": [number],
                        "stop": False,
                        "tokens_predicted": count,
                        "completion_probabilities": [told],
                    }
                )
            ended = {"index": index, "content": "", "tokens": [], "stop": True, "tokens_predicted": len(said)}
            self._send({**ended, "stop_type": "eos", "timings": {"prompt_n": 1, "cache_n": 0}})

    def _send(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _say(self, status: int, told: Any) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what this is for."""


def main() -> None:
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    while sys.stdin.read(1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
