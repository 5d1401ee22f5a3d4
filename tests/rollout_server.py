"""A stand-in for vLLM and SGLang: their words for token ids and fresh weights, spoken over our engine.

It samples from a real model folder, one call at a time, and reads another folder when told to, as the two servers'
documentation describes. What it cannot show is that these servers do what they describe.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cli.loading import Folders
from distill.prompts import Chat
from distill.records import Params
from distill.sampling.engine import Engine


class Speaker:
    """The model behind the server, and what was asked of it."""

    def __init__(self, folder: Path, *, deaf: bool = False) -> None:
        """`deaf`: answers that it has read fresh weights, and has not."""
        self.lock, self.deaf = threading.Lock(), deaf
        self.read: list[str] = []
        self.calls = 0
        self._open(folder)

    def _open(self, folder: Path) -> None:
        loaded = Folders().load(folder)
        chat = Chat(loaded.tokenizer)
        self.engine = Engine(Folders().decoder(loaded.model), chat, slots=4, capacity=64)

    def reload(self, folder: str) -> None:
        with self.lock:
            self.read.append(folder)
            if not self.deaf:
                self._open(Path(folder))

    def say(self, prompt_ids: list[int], params: Params, seed: int) -> Any:
        with self.lock:
            self.calls += 1
            ((sample,),) = self.engine.rollout([prompt_ids], params, 1, [seed])
            return sample


class Handler(BaseHTTPRequestHandler):
    """Both servers' paths; `speaker` and `broken` belong to a subclass made for each server."""

    protocol_version = "HTTP/1.1"
    speaker: Speaker
    broken = ""

    def do_GET(self) -> None:
        self._say({"data": []})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/collective_rpc":
            assert asked["method"] == "reload_weights"
            self.speaker.reload(asked["kwargs"]["weights_path"])
            self._say({"results": [None]})
        elif self.path == "/reset_prefix_cache":
            self._say({})
        elif self.path == "/update_weights_from_disk":
            refused = self.broken == "weights"
            if not refused:
                self.speaker.reload(asked["model_path"])
            self._say(
                {"success": not refused, "message": "no such folder" if refused else "", "num_paused_requests": 0}
            )
        elif self.path == "/v1/completions":
            self._say(self._vllm(asked))
        elif self.path == "/generate":
            self._say(self._sglang(asked))
        else:
            self._say({"error": "not found"}, 404)

    def _vllm(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["return_token_ids"]
        params = Params(max_tokens=asked["max_tokens"], temperature=asked["temperature"], top_p=asked["top_p"])
        said = self.speaker.say(asked["prompt"], params, asked["seed"])
        choice = {
            "index": 0,
            "text": "",
            "finish_reason": said.finish,
            "token_ids": said.ids,
            "logprobs": {"token_logprobs": said.logprobs, "tokens": []},
        }
        if self.broken == "no ids":
            del choice["token_ids"]
        if self.broken == "no end" and said.finish == "stop":
            choice["token_ids"], choice["logprobs"] = (
                said.ids[:-1] or [5],
                {"token_logprobs": said.logprobs[:-1] or [0.0]},
            )
        return {"id": "x", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": len(said.ids)}}

    def _sglang(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["return_logprob"]
        how = asked["sampling_params"]
        params = Params(max_tokens=how["max_new_tokens"], temperature=how["temperature"], top_p=how["top_p"])
        said = self.speaker.say(asked["input_ids"], params, how["sampling_seed"])
        logprobs = [[logprob, token, None] for token, logprob in zip(said.ids, said.logprobs, strict=True)]
        return {"text": "", "meta_info": {"finish_reason": {"type": said.finish}, "output_token_logprobs": logprobs}}

    def _say(self, body: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextlib.contextmanager
def rollout_server(speaker: Speaker, broken: str = "") -> Iterator[str]:
    """Its root url for as long as the block lasts. `broken`: what it gets wrong."""
    handler = type("Own", (Handler,), {"speaker": speaker, "broken": broken})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
