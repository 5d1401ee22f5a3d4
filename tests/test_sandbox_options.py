"""Programs run without walls only when that is said twice, and then every verdict says so."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from distill.errors import UserError
from distill.jsonl import read_jsonl
from distill.judge.file import RowVerdict
from distill.sandbox import Sandbox

ROW = {"id": "a", "program": "def f(x): return x", "tests": ["assert f(1) == 1"]}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return path


HALVES = [
    pytest.param(["--sandbox", "none"], {}, "give --accept-unsandboxed as well", id="asked for and not accepted"),
    pytest.param(["--accept-unsandboxed"], {}, "give --sandbox none as well", id="accepted and not asked for"),
    pytest.param(["--sandbox", "docker"], {}, "--sandbox docker: expected none", id="another word"),
    pytest.param([], {"DISTILL_SANDBOX": "none"}, "DISTILL_ACCEPT_UNSANDBOXED=1", id="half in the environment"),
]


@pytest.mark.parametrize(("options", "environment", "said"), HALVES)
@pytest.mark.parametrize("command", ["judge", "run", "harvest", "rl", "sft", "kd", "bench", "preflight"])
def test_half_of_it_is_refused(
    rows: Path, command: str, options: list[str], environment: dict[str, str], said: str
) -> None:
    rest = [str(rows), "--out", str(rows.with_name("out.jsonl"))] if command == "judge" else ["--recipe", "mini"]
    done = CliRunner().invoke(app, [command, *rest, *options], env=environment)
    assert isinstance(done.exception, UserError)
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not rows.with_name("out.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        pytest.param(["--sandbox", "none", "--accept-unsandboxed"], {}, id="options"),
        pytest.param([], {"DISTILL_SANDBOX": "none", "DISTILL_ACCEPT_UNSANDBOXED": "1"}, id="environment"),
        pytest.param(["--accept-unsandboxed"], {"DISTILL_SANDBOX": "none"}, id="one of each"),
    ],
)
def test_all_of_it_runs_and_says_so(rows: Path, options: list[str], environment: dict[str, str]) -> None:
    out = rows.with_name("out.jsonl")
    done = CliRunner().invoke(app, ["judge", str(rows), "--out", str(out), *options], env=environment)
    assert "UNSANDBOXED: 1 programs ran without walls" in done.output
    assert [(row.status, row.isolation) for row in read_jsonl(out, RowVerdict)] == [("correct", "none")]


def test_without_either_the_summary_names_the_walls(rows: Path) -> None:
    done = CliRunner().invoke(app, ["judge", str(rows), "--out", str(rows.with_name("out.jsonl"))])
    assert "walls: Landlock " in done.output
    assert "UNSANDBOXED" not in done.output


def test_the_default_is_walled() -> None:
    assert Sandbox().walled
