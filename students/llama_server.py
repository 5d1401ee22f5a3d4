"""Llama server: llama.cpp serving a GGUF file on loopback, for as long as a `with` block lasts.

A real OpenAI-compatible server without a GPU or a download: the endpoint sampler is pointed
at it. It answers one request at a time, with the chat template of the file.

What is not covered: other processes of this machine can talk to the port, and outside
Linux a killed parent leaves the server behind.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from distill.errors import UserError

LAUNCH = """
import ctypes, os, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the parent, however it ends
if os.getppid() == int(sys.argv.pop(1)):
    runpy.run_module("llama_cpp.server", run_name="__main__", alter_sys=True)
"""
"""What the child runs; its first argument is its parent."""
START_SECONDS = 120.0
"""Longest start allowed; the 98 MB file takes about 5 s."""
STOP_SECONDS = 5.0
"""Grace between SIGTERM and SIGKILL."""


@contextmanager
def llama_server(gguf: Path, *, model: str, context: int = 2048, threads: int | None = None) -> Iterator[str]:
    """The url of a healthy server that knows the file as `model`; the server ends with the block.

    Raises UserError when llama-cpp-python is missing or the server does not come up.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        raise UserError("llama.cpp is not installed; run pip install 'distill-toolkit[smollm]'")
    port = _free_port()
    settings = {
        "--model": str(gguf),
        "--model_alias": model,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--n_ctx": str(context),
        "--n_threads": str(threads or os.cpu_count() or 1),
        "--interrupt_requests": "false",
    }
    command = [sys.executable, "-c", LAUNCH, str(os.getpid()), *(part for pair in settings.items() for part in pair)]
    # Two threads that spin while they wait are ten times slower than one on a busy machine.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    url = f"http://127.0.0.1:{port}/v1"
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait_until_healthy(server, url, log, gguf)
            yield url
        finally:
            _stop(server)


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: IO[bytes], gguf: Path) -> None:
    import httpx2

    until = time.monotonic() + START_SECONDS
    with httpx2.Client(trust_env=False, timeout=2.0) as client:
        while time.monotonic() < until:
            if server.poll() is not None:
                raise UserError(f"{gguf}: llama.cpp ended with code {server.returncode}: {_last_line(log)}")
            try:
                if client.get(f"{url}/models").status_code == 200:
                    return
            except httpx2.TransportError:
                pass  # not listening yet
            time.sleep(0.1)
    raise UserError(f"{gguf}: llama.cpp did not answer within {START_SECONDS:g} s: {_last_line(log)}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
