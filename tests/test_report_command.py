import json
from pathlib import Path

import pytest

from distill.runs import read_manifest
from tests.report_runs import ANSWERS, made_runs
from tests.test_cli import SMALL, complaint, distill

SCORED = """
[bench]
problems = "problems"
traces = ["asked"]
[asked]
stage = "harvest"
problems = "problems"
select = { split = "test" }
sampler = "oracle"
error_rate = 0.5
max_tokens = 100
"""


@pytest.fixture
def walked(tmp_path: Path) -> Path:
    """A recipe with a bench, walked."""
    (tmp_path / "small.toml").write_text(SMALL + SCORED)
    assert distill("run", "--recipe", tmp_path / "small.toml", "--out", tmp_path / "runs", "-q").returncode == 0
    return tmp_path / "runs"


def test_a_folder_of_runs_needs_no_recipe(walked: Path, tmp_path: Path) -> None:
    out = tmp_path / "page"
    done = distill("report", walked, "--out", out, "--set", "report.title=Mine", "-q")
    assert (done.returncode, done.stdout) == (0, "")
    assert {path.name for path in out.iterdir()} == {
        "index.html",
        "report.md",
        "report.json",
        "recipe.toml",
        "every_eval_ever",
    }
    made = json.loads((out / "report.json").read_text())
    assert made["title"] == "Mine"
    assert [bench["name"] for bench in made["benches"]] == ["bench"]
    assert {step["name"] for step in made["steps"]} == {"problems", "traces", "curate", "asked", "bench"}


def test_the_recipe_it_writes_makes_the_same_runs(walked: Path, tmp_path: Path) -> None:
    assert distill("report", walked, "--out", tmp_path / "page", "-q").returncode == 0
    again = tmp_path / "again"
    assert distill("run", "--recipe", tmp_path / "page" / "recipe.toml", "--out", again, "-q").returncode == 0
    for name in ("problems", "traces", "curate", "asked", "bench"):
        assert read_manifest(again / name).fingerprint == read_manifest(walked / name).fingerprint
    assert (again / "bench" / "scores.jsonl").read_bytes() == (walked / "bench" / "scores.jsonl").read_bytes()


def test_one_bench_brings_what_it_was_made_from(tmp_path: Path) -> None:
    bench = made_runs(tmp_path).bench(ANSWERS)
    done = distill("report", bench, "--out", tmp_path / "page", "--json")
    assert json.loads(done.stdout)["counts"]["steps"] == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param((), "name run folders", id="nothing"),
        pytest.param(("{}", "--recipe", "mini"), "not both", id="runs and a recipe"),
        pytest.param(("{}/empty",), "no run folder (manifest.json is missing)", id="no run"),
        pytest.param(("{}", "--step", "x"), "--step x: means nothing without --recipe", id="step without a recipe"),
        pytest.param(
            ("{}", "--set", "report.titel=x"), "titel: unknown key (did you mean title?)", id="misspelled key"
        ),
        pytest.param(("{}", "--set", "seed=1"), "expected report.KEY=VALUE", id="a recipe's key"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    made_runs(tmp_path).bench(ANSWERS)
    (tmp_path / "empty").mkdir()
    told = complaint("report", *(argument.replace("{}", str(tmp_path)) for argument in arguments))
    assert said in told
    assert "\n" not in told
