"""The scripts of docs/serving-teachers.md, run with a stand-in for vLLM and without Slurm; its recipe, checked."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from distill.harvest import HarvestConfig
from distill.sampling.endpoint.urls import addresses

PAGE = (Path(__file__).parent.parent / "docs/serving-teachers.md").read_text(encoding="utf-8")
BLOCKS = [(kind, text) for kind, text in re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)]
VLLM = f"""#!{sys.executable}
import http.server, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        up = time.monotonic() - begun > 0.5  # weights take a while
        self.send_response(200 if up and self.path == "/health" else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass
begun = time.monotonic()
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
SBATCH = next(text for kind, text in BLOCKS if kind == "bash" and "--array" in text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def begin(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/vllm").write_text(VLLM)
    (folder / "bin/vllm").chmod(0o755)
    (folder / "job.sh").write_text(SBATCH.replace("sleep 5", "sleep 0.1"))
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    settings = {"PATH": path, "URLS": str(folder / "urls"), "PORT": str(port), "VLLM_API_KEY": "k", "DRAIN": "0"}
    return subprocess.Popen(["bash", str(folder / "job.sh")], env={**os.environ, **settings}, start_new_session=True)


def wait_for(file: Path, lines: int) -> list[str]:
    until = time.monotonic() + 30.0
    while time.monotonic() < until:
        found = file.read_text().splitlines() if file.is_file() else []
        if len(found) == lines:
            return found
        time.sleep(0.05)
    raise AssertionError(f"expected {lines} lines in {file}")


@pytest.mark.skipif(
    not all(map(os.access, ["/bin/bash", "/usr/bin/curl"], [os.X_OK] * 2)), reason="needs bash and curl"
)
def test_jobs_announce_themselves_when_healthy_and_leave_when_they_are_told_to(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    jobs = [begin(tmp_path, port) for port in ports]
    try:
        found = wait_for(tmp_path / "urls", 2)
        assert {int(url.split(":")[2].removesuffix("/v1")) for url in found} == set(ports)
        table = next(text for kind, text in BLOCKS if kind == "toml")
        config = HarvestConfig.model_validate(tomllib.loads(table)["harvest"])
        endpoint = (config.teachers or {})["r1"].endpoint
        assert endpoint is not None
        assert len(addresses(endpoint.model_copy(update={"urls_file": str(tmp_path / "urls")}))) == 2
        jobs[0].send_signal(signal.SIGTERM)
        (left,) = wait_for(tmp_path / "urls", 1)
        assert f":{ports[1]}/" in left
        assert jobs[0].wait(30) == 0
    finally:
        for job in jobs:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
                job.wait()


@pytest.mark.parametrize("block", [text for kind, text in BLOCKS if kind == "bash"], ids=lambda text: text[:20])
def test_every_script_parses(block: str) -> None:
    checked = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")
