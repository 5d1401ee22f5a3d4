"""The key reaches the server and nothing else: no screen, no file, no traceback."""

import io
import pickle
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cli.main import main
from distill.errors import UserError
from distill.records import Message, Params
from distill.sampling.endpoint import EndpointConfig, EndpointSampler, retry
from distill.sampling.endpoint.key import Key, find_key
from distill.sampling.protocols import Request
from tests.hostile_server import GOOD, Handler, choice, good, says, serving

CANARY = "sk-canary-8f1e5150"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF", 0.02)


def config(**fields: Any) -> EndpointConfig:
    return EndpointConfig(**{"url": "https://a/v1", "model": "m", "revision": "1", **fields})


def told(error: BaseException) -> str:
    """The traceback with every local variable, this file's own frame left out."""
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    text = "".join(traceback.TracebackException(type(error), error, frames, capture_locals=True).format())
    assert "endpoint/" in text
    return text


def test_a_key_shows_itself_to_nobody() -> None:
    key = Key(CANARY)
    assert {repr(key), str(key), f"{key}", repr([key]), repr({"key": key})} == {"***", "[***]", "{'key': ***}"}
    with pytest.raises(TypeError):
        pickle.dumps(key)
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_is_read_from_a_file_of_its_own(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key"
    file.write_text(CANARY + "\n")
    file.chmod(mode)
    with serving(good) as server:
        made = EndpointSampler(config(url=server.url, key_file=str(file)))
        list(made.sample([Request("p", (Message(role="user", content="x"),), Params(max_tokens=9))]))
    assert server.calls[0][1]["Authorization"] == f"Bearer {CANARY}"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o700, 0o602])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key"
    file.write_text(CANARY)
    file.chmod(mode)
    with pytest.raises(UserError, match=f"mode is {mode:04o}, .*expected 0600"):
        find_key(config(key_file=str(file)))


@pytest.mark.parametrize("text", ["", "  \n", f"{CANARY} two", f"{CANARY}\r\nX-Other: 1", f"{CANARY}é"])
def test_what_is_no_key_is_refused_unshown(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TINY_KEY", text)
    with pytest.raises(UserError, match=r"TINY_KEY is (empty|no key)") as error:
        find_key(config(key_env="TINY_KEY"))
    assert CANARY not in told(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing: No such file or directory \(key_file\)"):
        find_key(config(key_file=str(tmp_path / "nothing")))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"url": "http://host/v1", "key_env": "K"}, "key unencrypted"),
        ({"url": "", "urls": ("https://a/v1", "http://10.0.0.2/v1"), "key_file": "k"}, "10.0.0.2.*key unencrypted"),
        ({"key_env": "K", "key_file": "k"}, "at most one"),
    ],
    ids=["plain http", "one of several", "two keys"],
)
def test_a_key_is_not_sent_where_it_can_be_read_on_the_way(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        config(**fields)
    if "plain" in complaint:
        config(**fields, key_in_the_clear=True)


def test_an_answer_that_repeats_the_key_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_KEY", CANARY)
    with serving(says(choice({"content": f"the key is {CANARY}"})), good) as server:
        made = EndpointSampler(config(url=server.url, key_env="TINY_KEY"))
        (answered,) = made.sample([Request("p", (Message(role="user", content="x"),), Params(max_tokens=9))])
    assert answered.completions[0].text == "4"


RECIPE = """
[problems.families.stories]
levels = [1]
train = 4
test = 1
[harvest]
problems = "problems"
sampler = "endpoint"
endpoint = {{ url = "{url}", model = "m", revision = "1", key_env = "TINY_KEY", tries = 20, deadline = 20.0 }}
max_tokens = 9
defer_verdicts = true
"""


def echoes(handler: Handler, body: dict[str, Any]) -> None:
    """Says the key in every way a server can."""
    server: Any = handler.server
    key = handler.headers["Authorization"]
    turn = len(server.calls) % 4
    if turn == 0:
        handler.reply({"error": f"slow down, {key}"}, 429)
    elif turn == 1:
        handler.reply(GOOD | {"choices": [], "key": key})
    elif turn == 2:
        handler.reply(choice({"content": key}))
    else:
        handler.reply(GOOD, X_Key=key)


def redirects(handler: Handler, body: dict[str, Any]) -> None:
    handler.reply({}, 307, Location=f"http://elsewhere.example/{handler.headers['Authorization']}")


@pytest.mark.parametrize(("behave", "code"), [(echoes, 0), (redirects, 2)], ids=["echoes", "redirects"])
def test_the_key_is_in_nothing_a_run_leaves_behind(
    behave: Any, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_KEY", CANARY)
    with serving(behave) as server:
        (tmp_path / "r.toml").write_text(RECIPE.format(url=server.url))
        ended, said = main_said("run", "--recipe", tmp_path / "r.toml", "--out", tmp_path / "out")
    assert ended == code, said
    assert server.calls[0][1]["Authorization"] == f"Bearer {CANARY}"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("traces" in path.parts for path in written)
    assert CANARY not in said + "".join(path.read_text(errors="replace") for path in written)


def main_said(*arguments: object) -> tuple[int, str]:
    """A command as a user types it: its exit code and all it wrote on the screen."""
    screen = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(screen), redirect_stderr(screen):
        patch.setattr(sys, "argv", ["distill", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0), screen.getvalue()


@pytest.mark.parametrize("behave", [redirects, echoes, says(b"<html>")], ids=["redirects", "echoes", "a web page"])
def test_the_key_is_in_no_traceback_even_with_its_locals(behave: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_KEY", CANARY)
    with serving(behave) as server:
        made = EndpointSampler(config(url=server.url, key_env="TINY_KEY", tries=1))
        answers = made.sample([Request("p", (Message(role="user", content="x"),), Params(max_tokens=9))])
        with pytest.raises(UserError) as error:
            list(answers)
    assert CANARY not in told(error.value)
