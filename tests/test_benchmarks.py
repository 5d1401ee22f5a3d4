"""Benchmark rows become problems; the rows here are invented, the real files are read when they are there."""

import base64
import gzip
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.judge import Judge
from distill.judge.judge import Said
from distill.problems.benchmarks import BENCHMARKS, benchmark_files, load_benchmark
from distill.records import Exchange

DATA = os.environ.get("DISTILL_DATA", "")
needs_data = pytest.mark.skipif(not Path(DATA, "gsm8k_test.jsonl").is_file(), reason="DISTILL_DATA has no benchmarks")


def write(path: Path, *rows: Any) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def gsm(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"gsm8k/test/{number}",
        "question": "Two hens lay 3 eggs each. How many?",
        "answer": "Each 3, so 2*3=<<2*3=6>>6 eggs.\n#### 6",
        "final": "6",
    }
    return row | changes


def mbpp(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "task_id": number,
        "text": "Write a function to double.",
        "code": "class Box:\r\n    pass\r\ndef double(x):\r\n    return 2 * x",
        "test_list": ["assert int(double(Box and 2)) == 4"],
        "test_setup_code": "",
        "challenge_test_list": [],
    }
    return row | changes


def test_a_human_rationale_loses_its_calculator_marks_and_its_answer_line(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k_test.jsonl", gsm(0))
    (problem,) = load_benchmark("gsm8k", "test", tmp_path)
    assert problem.solution == "Each 3, so 2*3=6 eggs."
    assert (problem.kind, problem.answer, problem.split) == ("answer", "6", "test")


def test_limit_takes_the_first_rows_and_gzip_reads_the_same(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k_test.jsonl.gz", gsm(0), gsm(1), gsm(2))
    assert [found.id for found in load_benchmark("gsm8k", "test", tmp_path, 2)] == ["gsm8k/test/0", "gsm8k/test/1"]
    assert benchmark_files("gsm8k", "test", tmp_path) == [tmp_path / "gsm8k_test.jsonl.gz"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [("Level 3", 3), ("Level ?", None), (4, 4)],
    ids=["in words", "two rows of the real file have no level", "MATH-500 has a number"],
)
def test_a_level_is_a_number_or_absent(tmp_path: Path, level: Any, expected: int | None) -> None:
    row = {"id": "math500/0", "problem": "1+1?", "solution": "2", "answer": "2", "level": level, "subject": "Algebra"}
    write(tmp_path / "math500.jsonl", row)
    assert load_benchmark("math500", "test", tmp_path)[0].level == expected


def test_a_humaneval_program_starts_with_its_prompt(tmp_path: Path) -> None:
    row = {"task_id": "HumanEval/0", "prompt": "def one():\n", "entry_point": "one"}
    row |= {"canonical_solution": "    return 1\n", "test": "def check(candidate):\n    assert candidate() == 1\n"}
    write(tmp_path / "humaneval.jsonl", row)
    (problem,) = load_benchmark("humaneval", "test", tmp_path)
    assert problem.tests is not None
    assert (problem.tests.prefix, problem.tests.entry_point) == ("def one():\n", "one")
    assert problem.tests.check == row["test"]


def test_mbpp_is_split_by_task_id_and_tests_the_function_not_the_class(tmp_path: Path) -> None:
    write(tmp_path / "mbpp.jsonl", mbpp(10), mbpp(11, test_setup_code="a = Box()\r\n"), mbpp(510), mbpp(511))
    tests = load_benchmark("mbpp", "test", tmp_path)
    assert [found.id for found in tests] == ["mbpp/11", "mbpp/510"]
    assert [found.id for found in load_benchmark("mbpp", "train", tmp_path)] == ["mbpp/10", "mbpp/511"]
    assert tests[0].tests is not None
    assert tests[0].tests.entry_point == "double"
    assert tests[0].tests.check == ("a = Box()\n", "assert int(double(Box and 2)) == 4")
    assert "\r" not in str(tests[0].solution)


def test_mbpps_imports_are_set_up_for_program_and_tests(tmp_path: Path) -> None:
    write(tmp_path / "mbpp.jsonl", mbpp(11, test_imports=["import math", "import re"]))
    (problem,) = load_benchmark("mbpp", "test", tmp_path)
    assert problem.tests is not None
    assert problem.tests.setup == "import math\nimport re"


def test_a_problem_recorded_many_times_is_one_problem(tmp_path: Path) -> None:
    rows = [{"problem_id": 7, "problem": "1+1?", "gold": "2"}, {"problem_id": 7, "problem": None, "gold": "2"}]
    write(tmp_path / "math_cot_samples_qwen.jsonl", *rows, *rows[1:])
    assert [found.id for found in load_benchmark("math_cot_samples", "test", tmp_path)] == ["math_cot_samples/7"]
    traces = [{"id": f"m/{how}/problem_5", "problem": "2+2?", "gold": "4", "level": "Level 5"} for how in "ab"]
    write(tmp_path / "r1_distill_math_traces.jsonl", *traces)
    (problem,) = load_benchmark("r1_distill_math_traces", "test", tmp_path)
    assert (problem.id, problem.level) == ("r1_distill_math_traces/5", 5)


def test_traced_problems_are_those_a_recording_names(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k_train.jsonl", gsm(0), gsm(1), gsm(2))
    write(tmp_path / "gsm8k_train_traces_qwen2.5-coder-1.5b.jsonl", {"problem_id": "gsm8k/test/1", "sample": 0})
    assert [found.id for found in load_benchmark("gsm8k_traced", "train", tmp_path)] == ["gsm8k/test/1"]


def test_every_malformed_line_is_named_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k_test.jsonl", gsm(0, final=6), gsm(1), "{torn", gsm(2) | {"question": None})
    with pytest.raises(UserError) as error:
        load_benchmark("gsm8k", "test", tmp_path, 1)
    lines = str(error.value).splitlines()
    assert [line.partition("gsm8k_test.jsonl")[2][:3] for line in lines] == [":1:", ":3:", ":4:"]
    assert "final" in lines[0]


def test_a_program_that_is_not_python_is_a_malformed_line(tmp_path: Path) -> None:
    write(tmp_path / "mbpp.jsonl", mbpp(11), mbpp(12, code="def ("), mbpp(13, test_list=["assert len([]) == 0"]))
    with pytest.raises(UserError, match=r"mbpp\.jsonl:2: .*not Python") as error:
        load_benchmark("mbpp", "test", tmp_path)
    assert "mbpp.jsonl:3: " in str(error.value)


def test_a_cut_gzip_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "gsm8k_test.jsonl.gz", *(gsm(number) for number in range(50)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not a whole gzip file"):
        load_benchmark("gsm8k", "test", tmp_path)


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k_test.jsonl", gsm(0), gsm(0))
    with pytest.raises(UserError, match="'gsm8k/test/0' occurs twice"):
        load_benchmark("gsm8k", "test", tmp_path)


@pytest.mark.parametrize(
    ("name", "split", "limit", "message"),
    [
        ("gsm8k", "test", None, r"gsm8k_test\.jsonl.*DISTILL_DATA"),
        ("gsm9k", "test", None, "did you mean gsm8k"),
        ("math500", "train", None, "no split 'train'; there is test"),
        ("gsm8k", "test", 0, "limit"),
    ],
    ids=["file missing", "name misspelled", "split unknown", "limit of nothing"],
)
def test_a_wrong_request_says_what_was_expected(
    tmp_path: Path, name: str, split: str, limit: int | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_benchmark(name, split, tmp_path, limit)


COUNTS = {
    ("gsm8k", "train"): 7473,
    ("gsm8k", "test"): 1319,
    ("gsm8k_traced", "train"): 86,
    ("math", "train"): 7500,
    ("math", "test"): 5000,
    ("math500", "test"): 500,
    ("aime24", "test"): 30,
    ("aime25", "test"): 30,
    ("humaneval", "test"): 164,
    ("mbpp", "train"): 474,
    ("mbpp", "test"): 500,
    ("mbpp_sanitized", "train"): 170,
    ("mbpp_sanitized", "test"): 257,
    ("math_cot_samples", "test"): 100,
    ("r1_distill_math_traces", "test"): 10,
}


@pytest.mark.data
@needs_data
def test_the_real_files_have_their_published_sizes() -> None:
    found = {
        (name, split): len(load_benchmark(name, split, Path(DATA)))
        for name, benchmark in BENCHMARKS.items()
        for split in benchmark.files
        if name in {known for known, _ in COUNTS}
    }
    assert found == COUNTS


def lcb(**changes: Any) -> dict[str, Any]:
    cases = json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}])
    row = {
        "question_id": "abc_1",
        "question_content": "Add two numbers.",
        "platform": "atcoder",
        "difficulty": "easy",
        "starter_code": "",
        "public_test_cases": cases,
        "private_test_cases": packed(cases),
        "metadata": "{}",
    }
    return row | changes


def packed(text: str) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(text))).decode()


def test_livecodebench_tests_are_taken_out_of_their_pickle_without_loading_it(tmp_path: Path) -> None:
    method = json.dumps([{"input": '[1, 2]\n"a"', "output": "true", "testtype": "functional"}])
    functional = lcb(
        question_id="lc_2",
        starter_code="class Solution:\n    def has(self, xs: List[int], s: str) -> bool:",
        public_test_cases=method,
        private_test_cases=method,
        metadata=json.dumps({"func_name": "has"}),
    )
    write(tmp_path / "livecodebench_v6.jsonl", lcb(), functional)
    reads, calls = load_benchmark("livecodebench_v6", "test", tmp_path)
    assert reads.tests is not None
    assert reads.tests.check == (Exchange(stdin="1 2\n", stdout="3\n"),) * 2
    assert "standard input" in reads.prompt
    assert calls.tests is not None
    assert calls.tests.check == ("assert Solution().has([1, 2], 'a') == True",) * 2
    assert "class Solution" in calls.prompt


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("private", "complaint"),
    [
        pytest.param(base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode(), "a pickle of", id="code"),
        pytest.param("not base64!", "neither JSON nor zlib", id="no base64"),
        pytest.param(base64.b64encode(b"plain").decode(), "neither JSON nor zlib", id="no zlib"),
    ],
)
def test_livecodebench_tests_that_are_no_text_are_refused(tmp_path: Path, private: str, complaint: str) -> None:
    write(tmp_path / "livecodebench_v6.jsonl", lcb(private_test_cases=private))
    with pytest.raises(UserError, match=complaint):
        load_benchmark("livecodebench_v6", "test", tmp_path)


def test_gpqa_choices_have_an_order_of_their_own_and_the_letter_names_the_right_one(tmp_path: Path) -> None:
    head = (
        "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,High-level domain"
    )
    lines = [f'rec{i},"Which, of {i}?",right,wrong a,wrong b,wrong c,Physics' for i in range(40)]
    (tmp_path / "gpqa_diamond.csv").write_text("\n".join([head, *lines]))
    problems = load_benchmark("gpqa_diamond", "test", tmp_path)
    assert all(f"{problem.answer}) right" in problem.prompt for problem in problems)
    assert {problem.answer for problem in problems} == set("ABCD")
    assert problems == load_benchmark("gpqa_diamond", "test", tmp_path)
    assert problems[3].prompt.startswith("Which, of 3?")


def test_a_broken_table_names_its_rows(tmp_path: Path) -> None:
    (tmp_path / "gpqa_diamond.csv").write_text("Record ID,Question\nrec1,What?\n")
    with pytest.raises(UserError, match=r"gpqa_diamond\.csv: row 1: Correct Answer"):
        load_benchmark("gpqa_diamond", "test", tmp_path)


def test_mgsm_has_no_head_and_keeps_quotes(tmp_path: Path) -> None:
    (tmp_path / "mgsm_zh.tsv").write_text('她说"三"个\t1,200\n第二题\t7\n', encoding="utf-8")
    problems = load_benchmark("mgsm_zh", "test", tmp_path)
    assert [(one.id, one.prompt, one.answer) for one in problems] == [
        ("mgsm_zh/1", '她说"三"个', "1200"),
        ("mgsm_zh/2", "第二题", "7"),
    ]


def test_numbered_contest_problems_are_named_after_their_benchmark(tmp_path: Path) -> None:
    write(tmp_path / "aime26.jsonl", {"problem_idx": 1, "problem": "?", "answer": 70, "problem_type": ["Algebra"]})
    write(tmp_path / "hmmt25.jsonl", {"problem_idx": 1, "problem": "?", "answer": r"\sqrt{2}"})
    found = [load_benchmark(name, "test", tmp_path)[0] for name in ("aime26", "hmmt25")]
    assert [(one.id, one.answer) for one in found] == [("aime26/1", "70"), ("hmmt25/1", r"\sqrt{2}")]


PLUS = """\
import numpy as np

def is_floats(x):
    return isinstance(x, np.ndarray) or isinstance(x, float)

def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    assert out == exp or np.allclose(out, exp, rtol=1e-07, atol=atol)
"""


@pytest.mark.parametrize(("body", "status"), [("x / 3", "correct"), ("x / 3 + 1e-9", "correct"), ("x / 4", "wrong")])
def test_evalplus_compares_floats_where_numpy_is_missing(tmp_path: Path, body: str, status: str) -> None:
    check = f"{PLUS}\ndef check(candidate):\n    assertion(candidate(1), 1 / 3, 0)\n"
    head = "def third(x):\n"
    row = {"task_id": "HumanEval/0", "prompt": head, "entry_point": "third", "canonical_solution": "", "test": check}
    write(tmp_path / "humanevalplus.jsonl", row)
    tests = f"{PLUS}\nfor inp, exp in zip([[1]], [1 / 3]):\n    assertion(third(*inp), exp, 0)\n"
    task = {"task_id": 2, "prompt": "A third.", "code": "", "test": tests, "test_list": ["assert third(3) == 1"]}
    write(tmp_path / "mbppplus.jsonl", task)
    said = Said(f"```python\ndef third(x):\n    return {body}\n```")
    with Judge() as judge:
        for name in ("humanevalplus", "mbppplus"):
            (problem,) = load_benchmark(name, "test", tmp_path)
            assert judge.judge(problem, said).status == status, name


def test_ifeval_prompts_are_open_and_say_what_they_demand(tmp_path: Path) -> None:
    write(
        tmp_path / "ifeval.jsonl", {"key": 7, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"]}
    )
    (problem,) = load_benchmark("ifeval", "test", tmp_path)
    assert (problem.id, problem.kind, problem.subject) == ("ifeval/7", "open", "punctuation:no_comma")


def test_every_benchmark_says_where_it_comes_from_and_scores_are_fractions() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert all((benchmark.paper, benchmark.license, benchmark.origin)), name
        assert all(0 < score.score < 1 and score.how and score.source for score in benchmark.published), name
