"""`distill traces`: a stranger's file becomes a run folder with one command, or is refused in one line."""

import json
from pathlib import Path

import pytest

from tests.import_sets import DATA
from tests.test_cli import complaint, distill

ROW = {"question": "What is 1 + 1?", "response": "<think>so</think>\\boxed{2}", "answer": "2"}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "set.v2.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, "answer": "3"}) + "\n")
    return path


def test_a_file_beside_the_user_is_imported_judged_and_found_done(rows: Path) -> None:
    first = distill("traces", "import", rows.name, "--teacher", "DeepSeek-R1", "--licence", "MIT")
    assert first.returncode == 0, first.stderr
    for said in ("[runs/imports/set.v2]", "2 rows, 2 traces of 2 problems", "correct 1  wrong 1", "licence MIT"):
        assert said in first.stdout
    again = distill("traces", "import", rows.name, "--teacher", "DeepSeek-R1", "--licence", "MIT", "--json")
    told = json.loads(again.stdout)
    assert (told["ran"], told["stage"], told["report"]["counts"]["traces"]) == (False, "import", 2)


def test_a_preview_shows_the_mapping_and_writes_nothing(rows: Path) -> None:
    done = distill("traces", "import", rows, "--teacher", "gpt-4o", "--preview", "--rows", 1, "--map", "gold=")
    assert done.returncode == 0, done.stderr
    for said in ("prompt <- question", "text <- response", "forbids-training", "thought", "none, kind open"):
        assert said in done.stdout
    assert [path.name for path in rows.parent.iterdir()] == [rows.name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param([], "teacher: missing", id="nobody speaks"),
        pytest.param(["--teacher", "x", "--map", "promt=question"], "did you mean prompt", id="what is a promt"),
        pytest.param(["--teacher", "x", "--map", "prompt"], "expected WHAT=COLUMN", id="no column"),
        pytest.param(["--teacher", "x", "--layout", "s1"], "layout", id="no such layout"),
        pytest.param(["--teacher", "x", "--layout", "s1k"], "no column thinking_trajectories, attempt", id="not it"),
        pytest.param(["--teacher", "x", "--terms", "yes"], "terms: Input should be 'allows-training'", id="terms"),
        pytest.param(["--teacher", "x", "--dataset", "a/b"], "files and dataset: give one", id="two sources"),
        pytest.param(["--teacher", "x", "--dataset-split", "a"], "only a dataset has one", id="split of a file"),
    ],
)
def test_a_mistake_is_one_line(rows: Path, options: list[str], message: str) -> None:
    assert message in complaint("traces", "import", rows, *options)


def test_without_a_file_it_says_what_it_needs() -> None:
    assert complaint("traces", "import") == "traces import: name files, or a --dataset"


def test_an_import_is_benched_like_a_harvest(rows: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f"""
[import]
files = "{rows}"
source = "set"
split = "test"
teacher = "someone"
[bench]
traces = ["import"]
problems = "import"
"""
    )
    done = distill("run", "--recipe", recipe, "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "50.0%" in done.stdout


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "gsm8k_test.jsonl").is_file(), reason="DISTILL_DATA has no benchmarks")
def test_real_sets_are_curated_together_and_every_drop_has_its_reason(tmp_path: Path) -> None:
    done = distill("run", "--recipe", "import", "--to", "curate", "--out", tmp_path, "--data", DATA)
    assert done.returncode == 0, done.stderr
    history = [json.loads(line) for line in (tmp_path / "curate" / "history.jsonl").read_text().splitlines()]
    assert len(history) == 40 + 800 + 172
    dropped = [row for row in history if not row["kept"]]
    assert all(row["steps"][-1][1] == "dropped" and row["steps"][-1][2] for row in dropped)
    examples = [json.loads(line) for line in (tmp_path / "curate" / "examples.jsonl").read_text().splitlines()]
    assert len(examples) == len(history) - len(dropped)
    sets = {example["problem_id"].partition("/")[0] for example in examples}
    assert sets == {"gsm8k", "r1-distill-math"}  # all problems of the Qwen set are MATH test
    assert (tmp_path / "curate" / "card.md").is_file()
