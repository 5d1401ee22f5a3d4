"""A hostile chat server on loopback: each call meets its next behavior, and no behavior may become a trace.

`BEHAVIORS` are wrong in one way each; `good` is the only one whose answer may be kept. What
may pass is tried again; what cannot (`FINAL`) ends a harvest at once.
"""

import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behave = Callable[["Handler", dict[str, Any]], None]

GOOD = {
    "choices": [{"message": {"role": "assistant", "content": "4"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


class Handler(BaseHTTPRequestHandler):
    """Answers each call by the server's next behavior; the last one is kept up."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        with server.lock:
            server.calls.append((self.path, dict(self.headers), body, time.monotonic()))
            behave: Behave = server.behaviors.pop(0) if len(server.behaviors) > 1 else server.behaviors[0]
        behave(self, body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on the test's screen."""

    def reply(self, body: object, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)


def good(handler: Handler, body: dict[str, Any]) -> None:
    handler.reply(GOOD)


def says(body: object, status: int = 200, **headers: str) -> Behave:
    return lambda handler, _: handler.reply(body, status, **headers)


def choice(message: dict[str, Any], finish: str | None = "stop") -> dict[str, Any]:
    return GOOD | {"choices": [{"message": message, "finish_reason": finish}]}


def drip(handler: Handler, body: dict[str, Any]) -> None:
    """A byte at a time, each well within any per-read timeout."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(40):
        try:
            handler.wfile.write(b" ")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


def drop(handler: Handler, body: dict[str, Any]) -> None:
    handler.close_connection = True


def cut(handler: Handler, body: dict[str, Any]) -> None:
    """Announces more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(json.dumps(GOOD).encode())
    handler.close_connection = True


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@contextmanager
def serving(*behaviors: Behave) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients that hang up are part of the plan
    server.behaviors, server.calls, server.lock = list(behaviors), [], threading.Lock()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def says_raw(*parts: bytes, then: str = "close") -> Behave:
    """Bytes as they are; `then` the connection is closed, reset, or kept open in silence."""

    def behave(handler: Handler, body: dict[str, Any]) -> None:
        handler.close_connection = True
        try:
            for part in parts:
                handler.wfile.write(part)
                handler.wfile.flush()
                time.sleep(0.01)
            if then == "silence":
                handler.rfile.read(1)  # until the other side has had enough
        except OSError:
            return
        if then == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()

    return behave


def drip_slowly(handler: Handler, body: dict[str, Any]) -> None:
    """A whole answer, one byte every 0.2 seconds."""
    whole = json.dumps(GOOD).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(whole)))
    handler.end_headers()
    for byte in whole:
        try:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.2)


def endless(handler: Handler, body: dict[str, Any]) -> None:
    """White space in chunks, for as long as anybody listens."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    until = time.monotonic() + 30.0
    while time.monotonic() < until:
        try:
            handler.wfile.write(b"10\r\n" + b" " * 16 + b"\r\n")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.02)


def huge(handler: Handler, body: dict[str, Any]) -> None:
    """64 MB around an answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(64 << 20))
    handler.end_headers()
    try:
        for _ in range(64):
            handler.wfile.write(b" " * (1 << 20))
    except OSError:
        return


def numbered(*numbers: int) -> dict[str, Any]:
    """Choices under these numbers."""
    one = GOOD["choices"][0]  # type: ignore[index]
    return GOOD | {"choices": [one | {"index": number} for number in numbers]}


def chunks(*data: object, end: bytes = b"data: [DONE]\n\n", head: bytes = STREAM) -> bytes:
    """A stream of events, closed cleanly."""
    return head + b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in data) + end


def piece(text: str | None, finish: str | None = None, **more: object) -> dict[str, Any]:
    """One chunk of a chat."""
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more}


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WHOLE = json.dumps(GOOD).encode()
USAGE = {"choices": [], "usage": GOOD["usage"]}
BOMB = gzip.compress(b" " * (32 << 20))

BEHAVIORS: dict[str, Behave] = {
    "status 500": says({"error": "busy"}, 500),
    "429 without an end": says({"error": "slow down"}, 429),
    "Retry-After in words": says({}, 429, Retry_After="soon"),
    "Retry-After negative": says({}, 503, Retry_After="-5"),
    "Retry-After in the past": says({}, 503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "dropped before an answer": drop,
    "a byte per 0.2 s": drip_slowly,
    "silence": says_raw(then="silence"),
    "silence behind the head": says_raw(HEAD + b"Content-Length: 100\r\n\r\n", then="silence"),
    "chunks without an end": endless,
    "body shorter than announced": cut,
    "body longer than announced": says_raw(HEAD + b"Content-Length: 20\r\n\r\n" + WHOLE),
    "reset in mid-body": says_raw(HEAD + b"Content-Length: 1000\r\n\r\n" + WHOLE, then="reset"),
    "two lengths": says_raw(HEAD + b"Content-Length: 5\r\nContent-Length: 500\r\n\r\n" + WHOLE),
    "no HTTP at all": says_raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "a chunk size that is no number": says_raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + WHOLE),
    "a web page with 200": says(b"<html>sign in</html>"),
    "nothing with 200": says(b""),
    "a gzip bomb": says(BOMB, Content_Encoding="gzip"),
    "an error with 200": says({"error": {"message": "overloaded", "code": 503}}),
    "no choices": says(GOOD | {"choices": []}),
    "choices null": says(GOOD | {"choices": None}),
    "null content": says(choice({"content": None})),
    "content is a number": says(choice({"content": 4})),
    "no finish reason": says(choice({"content": "par"}, None)),
    "filtered": says(choice({"content": "par"}, "content_filter")),
    "tool calls": says(choice({"content": "par"}, "tool_calls")),
    "a finish reason of its own": says(choice({"content": "par"}, "banana")),
    "more choices than asked for": says(numbered(0, 1, 2)),
    "one number twice": says(numbered(0, 0)),
    "a number out of range": says(numbered(5)),
    "a negative number": says(numbered(-1)),
    "no usage": says({"choices": GOOD["choices"]}),
    "negative usage": says(GOOD | {"usage": {"prompt_tokens": -1, "completion_tokens": 1}}),
    "usage is NaN": says(WHOLE.replace(b": 1,", b": NaN,")),
    "no UTF-8": says(WHOLE.replace(b'"4"', b'"\xff\xfe"')),
    "JSON within JSON, 100,000 deep": says(b"[" * 100_000 + b"]" * 100_000),
    "half of the JSON": says(WHOLE[: len(WHOLE) // 2]),
    "two answers in a row": says(WHOLE + WHOLE),
}
"""What may pass."""

FINAL: dict[str, Behave] = {
    "redirect to another origin": says({}, 307, Location="http://elsewhere.example/v1"),
    "64 MB": huge,
    "Retry-After 3600": says({}, 429, Retry_After="3600"),
    "Retry-After of 300 digits": says({}, 429, Retry_After="9" * 300),
    "no such model": says({"error": "no such model"}, 404),
    "a key it does not know": says({"error": "bad key"}, 401),
    "a page of another kind": says(b"<html>moved</html>", 410),
}
"""What will not."""

STREAMS: dict[str, Behave] = {
    "no finish reason": says_raw(chunks(piece("par"), USAGE)),
    "no finish reason and no end": says_raw(chunks(piece("par"), end=b"")),
    "no usage": says_raw(chunks(piece("4", "stop"))),
    "cut within an event": says_raw(chunks(piece("4"), end=b'data: {"choices": [{"index": 0, "finish_rea')),
    "an error in mid-stream": says_raw(chunks(piece("4"), {"error": "out of memory"}, USAGE)),
    "text behind the finish reason": says_raw(chunks(piece("4", "stop"), piece("2"), USAGE)),
    "filtered": says_raw(chunks(piece("4"), piece(None, "content_filter"), USAGE)),
    "no JSON": says_raw(STREAM + b"data: soon\n\n"),
    "a reset behind the finish reason": says_raw(
        STREAM.replace(b"\r\n\r\n", b"\r\nContent-Length: 9999\r\n\r\n") + chunks(piece("4", "stop"), USAGE, head=b""),
        then="reset",
    ),
    "silence": says_raw(chunks(piece("4"), end=b": still here\n\n"), then="silence"),
    "a whole answer instead": says(GOOD),
    "another choice than asked for": says_raw(
        chunks({"choices": [{"index": 3, "delta": {"content": "4"}, "finish_reason": "stop"}]}, USAGE)
    ),
}
"""What may pass, where a stream was asked for."""
GOOD_STREAM = says_raw(chunks(piece(None), piece("4"), piece("", "stop"), USAGE))
