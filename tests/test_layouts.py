"""What others call their columns and how they mark a thought is read as what it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.imports.stage import open_walk
from distill.imports.thought import with_our_tags
from distill.judge import Judge
from tests.import_sets import ROW, TALK, config, jsonl, lines, run

PUBLISHED: dict[str, Mapping[str, Any]] = {
    "openthoughts": {
        "system": "Think first.",
        "conversations": [
            {"from": "user", "value": "1 + 1?"},
            {
                "from": "assistant",
                "value": "<|begin_of_thought|>\n\nso\n\n<|end_of_thought|>\n\n"
                "<|begin_of_solution|>\n\n2\n\n<|end_of_solution|>",
            },
        ],
    },
    "openthoughts-metadata": {
        "problem": "1 + 1?",
        "deepseek_reasoning": "so",
        "deepseek_solution": "2",
        "ground_truth_solution": "It is $\\boxed{2}$.",
        "domain": "math",
        "source": "numina",
        "test_cases": None,
        "starter_code": None,
    },
    "openthoughts3": {"difficulty": 7, "source": "x", "domain": "math", "conversations": TALK},
    "openr1": {
        "problem": "1 + 1?",
        "solution": "Add.",
        "answer": "2",
        "problem_type": "Algebra",
        "question_type": "math-word-problem",
        "source": "olympiads",
        "uuid": "u",
        "is_reasoning_complete": [True],
        "generations": ["<think>\nso\n</think>\n\n2"],
        "correctness_math_verify": [True],
        "correctness_llama": None,
        "finish_reasons": None,
        "messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "not this one"}],
    },
    "s1k": {
        "question": "1 + 1?",
        "solution": "2",
        "cot_type": "math",
        "thinking_trajectories": ["so"],
        "attempt": "2",
        "cot": None,
    },
    "s1k-1.1": {
        "question": "1 + 1?",
        "solution": "2",
        "cot_type": "math",
        "gemini_thinking_trajectory": "not this one",
        "gemini_attempt": "3",
        "deepseek_thinking_trajectory": "so",
        "deepseek_attempt": "2",
        "deepseek_grade": "Yes",
    },
    "limo": {"question": "1 + 1?", "solution": "<think>so</think>2", "answer": 2},
    "messages": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]},
            {"role": "assistant", "content": "2", "reasoning_content": "so"},
        ],
        "answer": "2",
    },
    "sharegpt": {"id": "a", "conversations": TALK},
    "fields": {"instruction": "1 + 1?", "thinking": "so", "answer": "2", "ground_truth": 2.0},
}
"""One row of each layout, as its card shows them. All say the same."""
WITHOUT_GOLD = ("openthoughts", "openthoughts3", "sharegpt")


@pytest.mark.parametrize("layout", PUBLISHED)
def test_a_published_layout_is_recognized_and_read(layout: str, tmp_path: Path) -> None:
    walk = open_walk(config(jsonl(tmp_path / "x.jsonl", PUBLISHED[layout])), tmp_path, None)
    (line,) = walk.lines()
    assert walk.layout.name == layout
    assert (line.problem.prompt, line.trace.reasoning, line.trace.answer) == ("1 + 1?", "so", "2")
    assert line.problem.answer == (None if layout in WITHOUT_GOLD else "2")
    assert line.problem.kind == ("open" if layout in WITHOUT_GOLD else "answer")


def test_columns_that_no_layout_has_are_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {"frage": "1 + 1?", "antwort": "2"})
    with pytest.raises(UserError, match="no column looks like an answer; there are frage, antwort"):
        lines(path)
    (line,) = lines(path, map={"prompt": "frage", "text": "antwort"})
    assert (line.problem.prompt, line.trace.answer) == ("1 + 1?", "2")


@pytest.mark.parametrize(
    ("mapped", "message"),
    [
        pytest.param({"text": "responze"}, r"map text=responze: no such column .*did you mean response", id="typo"),
        pytest.param({"prompt": "", "problem_id": ""}, "no column holds the question", id="no question left"),
    ],
)
def test_a_map_that_cannot_be_followed_is_refused(mapped: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        lines(jsonl(tmp_path / "x.jsonl", ROW), map=mapped)


def test_a_map_reaches_into_columns_and_overrides_one_of_a_layout(tmp_path: Path) -> None:
    row = {**PUBLISHED["sharegpt"], "extra": {"right": ["3"], "who": "Llama-3.1-8B"}}
    mapped = {"gold": "extra.right.0", "teacher": "extra.who"}
    (line,) = lines(jsonl(tmp_path / "x.jsonl", row), map=mapped)
    assert (line.problem.answer, line.trace.sampler.name, line.trace.answer) == ("3", "Llama-3.1-8B", "2")


@pytest.mark.parametrize(
    ("text", "whole", "mark"),
    [
        ("plain", "plain", ""),
        ("<think>a</think>b", "<think>a</think>b", "<think>"),
        ("a</think>b", "a</think>b", "</think>"),
        ("<think>a", "<think>a", "<think>"),
        ("<think> a </think> <answer> b </answer>", "<think> a </think>\nb", "<think>"),
        (
            "<|begin_of_thought|>a<|end_of_thought|> <|begin_of_solution|>b<|end_of_solution|>",
            "<think>a</think>\nb",
            "<|begin_of_thought|>",
        ),
        ("<|begin_of_thought|>a", "<think>a", "<|begin_of_thought|>"),
        ("◁think▷a◁/think▷b", "<think>a</think>b", "◁think▷"),
        ("<reasoning>a</reasoning><answer>b</answer>", "<think>a</think>\nb", "<reasoning>"),
        ("The tag <thinking> opens a thought.", "The tag <thinking> opens a thought.", ""),
        ("<think>a</think>Write <answer> b", "<think>a</think>Write <answer> b", "<think>"),
    ],
)
def test_foreign_marks_become_ours(text: str, whole: str, mark: str) -> None:
    assert with_our_tags(text) == (whole, mark)


def test_a_text_that_starts_in_a_thought_says_so(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {**ROW, "response": "so</think>2"}, {**ROW, "response": "cut of"})
    closed, cut = lines(path, think_open=True)
    assert (closed.trace.think_open, closed.trace.reasoning, closed.trace.answer) == (True, "so", "2")
    assert (cut.trace.think_open, cut.trace.answer) == (True, None)


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"gold": "5"}, "5"),
        ({"gold": 5.0}, "5"),
        ({"gold": 0}, "0"),
        ({"gold": ["1", "2"]}, "1, 2"),
        ({"gold": "so it is \\boxed{7}"}, "7"),
        ({"gold": "3 * 4 = <<3*4=12>>12\n#### 12"}, "12"),
        ({"gold": "proof"}, None),
        ({"gold": " "}, None),
        ({"gold": None}, None),
        ({"gold": None, "ground_truth_solution": "long\n#### 8"}, "8"),
        ({"gold": None, "ground_truth_solution": "128"}, "128"),
        ({"gold": None, "ground_truth_solution": "We prove it.\nBy induction."}, None),
        ({"gold": None, "ground_truth_solution": "\\boxed{open"}, None),
    ],
)
def test_a_gold_is_taken_from_where_it_stands_or_there_is_none(
    row: dict[str, Any], gold: str | None, tmp_path: Path
) -> None:
    (line,) = lines(jsonl(tmp_path / "x.jsonl", {**ROW, **row}))
    assert (line.problem.answer, line.problem.kind) == (gold, "open" if gold is None else "answer")


def test_a_row_of_several_generations_is_as_many_traces(tmp_path: Path) -> None:
    row = {
        **PUBLISHED["openr1"],
        "generations": ["<think>a</think>2", "<think>b</think>3", "<think>c"],
        "correctness_math_verify": [True, None, None],
        "correctness_llama": [None, False],
        "finish_reasons": ["stop", "stop", None],
        "is_reasoning_complete": [True, True, False],
    }
    found = lines(jsonl(tmp_path / "x.jsonl", row))
    assert [line.trace.sample_index for line in found] == [0, 1, 2]
    assert [line.label for line in found] == [True, False, None]
    assert [line.trace.finish for line in found] == ["stop", "stop", "length"]
    assert [line.new for line in found] == [True, False, False]


@pytest.mark.parametrize(
    ("tests", "check"),
    [
        ({"inputs": ["1\n", ["2", "3"]], "outputs": ["2\n", ["4"]]}, [("1\n", "2\n"), ("2\n3", "4")]),
        ({"inputs": [[1]], "outputs": [2], "fn_name": "double"}, None),
        ({"inputs": [], "outputs": []}, None),
        (None, None),
    ],
    ids=["reads and prints", "calls a function", "nothing", "none"],
)
def test_tests_of_a_code_set_make_its_problems_judged_by_running(
    tests: object, check: list[tuple[str, str]] | None, tmp_path: Path
) -> None:
    row = {**PUBLISHED["openthoughts-metadata"], "ground_truth_solution": None, "test_cases": json.dumps(tests)}
    (line,) = lines(jsonl(tmp_path / "x.jsonl", row if tests else {**row, "test_cases": None}))
    found = line.problem.tests and [(each.stdin, each.stdout) for each in line.problem.tests.check]  # type: ignore[union-attr]
    assert (line.problem.kind, found) == (("code", check) if check else ("open", None))


def test_a_program_of_an_imported_set_is_run(tmp_path: Path) -> None:
    said = "It doubles.\n```python\nprint(2 * int(input()))\n```"
    row = {"question": "Double it.", "input_output": {"inputs": ["3"], "outputs": ["6"]}, "response": said}
    wrong = {**row, "response": said.replace("2 *", "3 *")}
    with Judge() as judge:
        report = run(tmp_path / "out", config(jsonl(tmp_path / "x.jsonl", row, wrong)), judge=judge)
    assert (report.counts["correct"], report.counts["wrong"]) == (1, 1)
