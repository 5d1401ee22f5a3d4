"""A file of answers and programs in, verdicts in input order out."""

import json
import os
from pathlib import Path

import pytest

from distill.errors import UserError
from distill.jsonl import read_jsonl
from distill.judge.file import RowVerdict, judge_file
from distill.judge.style import LOOKS
from distill.progress import Progress

ROWS = [
    ({"id": "half", "gold": "1/2", "prediction": "so \\boxed{0.5}"}, "correct"),
    ({"id": "cut", "gold": "7", "prediction": "<think> 8", "finish": "length"}, "truncated"),
    ({"id": "open", "gold": "7", "prediction": "7", "think_open": True}, "unparsed"),
    ({"id": "check", "program": "def f(x):\n    return x + 1", "entry_point": "f",
      "tests": "def check(candidate):\n    assert candidate(1) == 2\n"}, "correct"),
    ({"id": "asserts", "program": "def f(x):\n    return x", "tests": ["assert f(1) == 1",
      "assert f(1) == 2"]}, "wrong"),
    ({"id": "setup", "setup": "import math", "program": "def f(x):\n    return math.sqrt(x)",
      "tests": ["assert f(4) == 2"]}, "correct"),
    ({"id": "setup for the tests", "setup": "import math", "program": "def f(x):\n    return 2 * x",
      "tests": ["assert f(1) == math.floor(2.5)"]}, "correct"),
    ({"id": "prints", "program": "print(sum(map(int, input().split())))",
      "tests": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "0 0", "stdout": "0"}]}, "correct"),
    ({"id": "prints wrong", "program": "print(3)",
      "tests": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "0 0", "stdout": "0"}]}, "wrong"),
]  # fmt: skip


def judged(tmp_path: Path, rows: list[dict[str, object]], *, style: bool = False) -> list[RowVerdict]:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge_file(path, out, workers=2, timeout=10.0, progress=Progress("quiet"), style=style)
    return read_jsonl(out, RowVerdict)


def test_mixed_rows_are_judged_in_order(tmp_path: Path) -> None:
    verdicts = judged(tmp_path, [row for row, _ in ROWS])
    assert [(verdict.id, verdict.status) for verdict in verdicts] == [(str(row["id"]), status) for row, status in ROWS]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"id": "x"}, id="neither"),
        pytest.param({"id": "x", "gold": "1"}, id="no prediction"),
        pytest.param({"id": "x", "gold": "1", "prediction": "1", "program": "", "tests": ""}, id="both"),
    ],
)
def test_row_that_is_neither_is_named_before_anything_is_judged(tmp_path: Path, row: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"in\.jsonl:2: .*either gold and prediction, or program and tests"):
        judged(tmp_path, [ROWS[0][0], row])
    assert not (tmp_path / "out.jsonl").exists()


BAD_TESTS = {
    "mixed": (["assert f(1)", {"stdin": "", "stdout": ""}], "test 1: expected all asserts"),
    "another key": ([{"stdin": "", "output": ""}], "test 0: expected the keys stdin and stdout, both texts; got "),
    "a key too many": ([{"stdin": "", "stdout": "", "seconds": 1}], "test 0: expected the keys stdin and stdout"),
    "a number for a text": ([{"stdin": 1, "stdout": "1"}], "test 0: expected the keys stdin and stdout, both texts"),
    "a number": ([1], "test 0: expected all asserts"),
    "an object": ({"stdin": "", "stdout": ""}, "expected `def check"),
    "source without an entry point": ("def check(candidate): pass", "entry_point: missing"),
}


@pytest.mark.parametrize("name", BAD_TESTS)
def test_malformed_tests_are_one_clear_line_before_anything_is_judged(tmp_path: Path, name: str) -> None:
    tests, said = BAD_TESTS[name]
    with pytest.raises(UserError) as refused:
        judged(tmp_path, [ROWS[0][0], {"id": "x", "program": "def f(x): return x", "tests": tests}])
    assert str(refused.value).startswith(f"{tmp_path / 'in.jsonl'}:2: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_output_over_the_input_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(ROWS[0][0]) + "\n")
    with pytest.raises(UserError, match="is the input itself"):
        judge_file(path, path, workers=1, timeout=1.0, progress=Progress("quiet"))


def test_output_that_is_no_plain_file_of_its_own_is_refused(tmp_path: Path) -> None:
    path, link, pipe = tmp_path / "in.jsonl.tmp", tmp_path / "link", tmp_path / "pipe"
    path.write_text(json.dumps(ROWS[0][0]) + "\n")
    link.symlink_to(tmp_path / "elsewhere")
    os.mkfifo(pipe)
    for out, why in ((link, "no regular file"), (pipe, "no regular file"), (tmp_path / "x.gz", "plain JSONL"),
                     (tmp_path / "in.jsonl", "is the input itself")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            judge_file(path, out, workers=1, timeout=1.0, progress=Progress("quiet"))
    assert path.read_text()
    for timeout in (float("inf"), float("nan"), 1e9, 0.0):
        with pytest.raises(UserError, match="timeout"):
            judge_file(path, tmp_path / "out", workers=1, timeout=timeout, progress=Progress("quiet"))


@pytest.mark.parametrize(
    "tests",
    [[], [""], ["# nothing"], "", "x = 1", "def check(candidate)", ["assert f(1) =="]],
    ids=["none", "empty", "comment", "empty source", "no check", "check cut", "assert cut"],
)
def test_tests_that_can_judge_nothing_are_the_golds_fault(tmp_path: Path, tests: object) -> None:
    row = {"id": "x", "program": "def f(x):\n    return 3", "entry_point": "f", "tests": tests}
    assert judged(tmp_path, [row])[0].status == "gold_bad"


@pytest.mark.parametrize("said", [{"prediction": ""}, {"prediction": "5"}, {"prediction": "5", "finish": "length"}])
def test_an_empty_gold_is_bad_whatever_was_said(tmp_path: Path, said: dict[str, object]) -> None:
    assert judged(tmp_path, [{"id": "x", "gold": " ", **said}])[0].status == "gold_bad"


def test_style_is_added_where_it_is_asked_for(tmp_path: Path) -> None:
    rows = [ROWS[0][0] | {"question": "Wie viel ist die Hälfte von dem, was wir gestern gekauft haben?"}, ROWS[3][0]]
    rows[0]["prediction"] = "so we take one half of it all and find that the answer must be \\boxed{0.5"
    assert [verdict.style for verdict in judged(tmp_path, rows)] == [None, None]
    answer, program = [verdict.style for verdict in judged(tmp_path, rows, style=True)]
    assert answer is not None
    assert tuple(answer) == LOOKS
    assert "not in de" in answer["language"].reason
    assert "left open" in answer["readability"].reason
    assert tuple(program or ()) == ("repetition",)


def test_the_summary_gives_the_mean_of_each_look(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    said = ["<think> a </think> 7", "<think> a </think> 7 {"]
    path.write_text("".join(json.dumps({"id": text, "gold": "7", "prediction": text}) + "\n" for text in said))
    quiet = Progress("quiet")
    report = judge_file(path, tmp_path / "out.jsonl", workers=1, timeout=10.0, progress=quiet, style=True)
    assert report.counts["style_readability"] == 0.75
    assert any(line.startswith("style: format 1.000  readability 0.750  language 1.000") for line in report.lines)
