"""Recorded answers come back as completions of the right problem, in recorded order."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.harvest import HarvestConfig, harvest
from distill.jsonl import read_jsonl, write_jsonl
from distill.ledger import read_ledger
from distill.problems.benchmarks import load_benchmark
from distill.progress import Progress
from distill.prompts import split_thought
from distill.records import Message, Params, Problem, Trace
from distill.sampling.protocols import Request
from distill.sampling.replay import RECORDINGS, Label, ReplayConfig, ReplaySampler, open_recording, write_labels
from distill.selection import Selection

DATA = os.environ.get("DISTILL_DATA", "")
needs_data = pytest.mark.skipif(not Path(DATA, "gsm8k_test.jsonl").is_file(), reason="DISTILL_DATA has no benchmarks")

CODEGEN = Params(max_tokens=300, temperature=0.8, top_p=0.95)
ANY = Params(max_tokens=7)


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def codegen(folder: Path, samples: int = 3) -> ReplaySampler:
    rows = [
        {"task_id": task, "sample": index, "completion": f"    return {index}\n", "verdict": verdict}
        for task in ("HumanEval/0", "HumanEval/1")
        for index, verdict in zip(range(samples), ("passed", "failed:TypeError", "timeout"), strict=False)
    ]
    write(folder / "humaneval_samples_codegen16b.jsonl", *rows)
    return open_recording(ReplayConfig(recording="humaneval_samples"), folder)


def asked(problem: str, n: int, params: Params = ANY, first: int = 0) -> Request:
    return Request(problem, (Message(role="user", content="?"),), params, n, seed=5 + first, first=first)


def texts(sampler: ReplaySampler, request: Request) -> list[str]:
    (answered,) = sampler.sample([request])
    return [completion.text for completion in answered.completions]


def test_samples_keep_their_order_and_their_white_space(tmp_path: Path) -> None:
    assert texts(codegen(tmp_path), asked("HumanEval/1", 2, CODEGEN)) == ["    return 0\n", "    return 1\n"]


def test_a_resumed_harvest_gets_the_samples_it_is_missing(tmp_path: Path) -> None:
    assert texts(codegen(tmp_path), asked("HumanEval/0", 1, CODEGEN, first=2)) == ["    return 2\n"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (asked("HumanEval/0", 4, CODEGEN), "'HumanEval/0' has 3 recorded, 4 asked for"),
        (asked("HumanEval/0", 1, CODEGEN, first=3), "has 3 recorded, 4 asked for"),
        (asked("HumanEval/9", 1, CODEGEN), "no answer to problem 'HumanEval/9'"),
        (asked("HumanEval/0", 1, CODEGEN.model_copy(update={"temperature": 0.2})), "recorded with 0.8, asked for 0.2"),
    ],
    ids=["more than recorded", "past the last one", "another problem", "another temperature"],
)
def test_what_was_not_recorded_is_refused(tmp_path: Path, request_: Request, message: str) -> None:
    with pytest.raises(UserError, match=message):
        texts(codegen(tmp_path), request_)


def test_a_file_with_two_models_needs_one_named(tmp_path: Path) -> None:
    row: dict[str, Any] = {"problem_id": "gsm8k/test/0", "gold": "1", "solution": "A: 1", "is_correct": True}
    write(tmp_path / "gsm8k_model_solutions.jsonl", *(row | {"model": name} for name in ("small", "large")))
    with pytest.raises(UserError, match="there are large, small"):
        open_recording(ReplayConfig(recording="gsm8k_model_solutions"), tmp_path)
    with pytest.raises(UserError, match="did you mean large"):
        open_recording(ReplayConfig(recording="gsm8k_model_solutions", model="larg"), tmp_path)
    chosen = open_recording(ReplayConfig(recording="gsm8k_model_solutions", model="large"), tmp_path)
    assert chosen.identity.name == "large"


def test_the_revision_follows_the_content_of_the_file(tmp_path: Path) -> None:
    before = codegen(tmp_path).identity.revision
    assert codegen(tmp_path).identity.revision == before
    assert codegen(tmp_path, samples=2).identity.revision != before


def test_an_r1_response_continues_a_thought_the_prompt_opened(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "id": "r1/correct/problem_12",
        "model": "r1",
        "problem": "1+1?",
        "gold": "2",
        "level": "Level 5",
    }
    row |= {"level": "Level 5", "response": "One and one.\n</think>\n\\boxed{2}", "is_correct": True}
    write(tmp_path / "r1_distill_math_traces.jsonl", row)
    sampler = open_recording(ReplayConfig(recording="r1_distill_math_traces"), tmp_path)
    (text,) = texts(sampler, asked("r1_distill_math_traces/12", 1))
    parts = split_thought(text, think_open=sampler.think_open)
    assert (parts.reasoning, parts.answer) == ("One and one.", "\\boxed{2}")


def test_a_human_rationale_ends_with_its_boxed_answer(tmp_path: Path) -> None:
    row = {"id": "gsm8k/train/0", "question": "?", "answer": "2*3=<<2*3=6>>6\n#### 6", "final": "6"}
    write(tmp_path / "gsm8k_train.jsonl", row)
    sampler = open_recording(ReplayConfig(recording="gsm8k_rationales"), tmp_path)
    assert texts(sampler, asked("gsm8k/train/0", 1)) == ["2*3=6\nThe final answer is \\boxed{6}."]


def test_a_completion_cut_by_the_limit_says_so(tmp_path: Path) -> None:
    row = {"problem_id": "gsm8k/train/0", "sample": 0, "model": "m", "text": "So", "finish_reason": "length"}
    write(tmp_path / "gsm8k_train_traces_qwen2.5-coder-1.5b.jsonl", row)
    sampler = open_recording(ReplayConfig(recording="gsm8k_train_traces"), tmp_path)
    params = Params(max_tokens=400, temperature=0.7, top_p=0.95)
    (answered,) = sampler.sample([asked("gsm8k/train/0", 1, params)])
    assert answered.completions[0].finish == "length"


def test_labels_name_the_trace_they_judge(tmp_path: Path) -> None:
    sampler = codegen(tmp_path)
    problems = [Problem(id=f"HumanEval/{n}", kind="open", prompt="?", source="humaneval", split="test") for n in (0, 1)]
    write_jsonl(tmp_path / "problems.jsonl", problems)
    config = HarvestConfig(
        problems="problems",
        sampler="replay",
        replay=ReplayConfig(recording="humaneval_samples"),
        select=Selection(split="test"),
        samples=3,
        temperature=0.8,
        top_p=0.95,
        max_tokens=300,
        defer_verdicts=True,
    )
    out = tmp_path / "out"
    harvest(tmp_path / "problems.jsonl", out, config, sampler=sampler, judge=None, seed=0, progress=Progress("quiet"))
    assert write_labels(out, sampler) == 6
    labels = read_jsonl(out / "labels.jsonl", Label)
    traces = {trace.id: trace.sample_index for trace in read_ledger(out / "traces", Trace)}
    assert {(traces[row.trace_id], row.label) for row in labels} == {(0, True), (1, False), (2, False)}


def test_no_score_comes_from_a_recording(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only a model can score"):
        codegen(tmp_path).score([1, 2], 1)


REAL = {
    ("gsm8k_model_solutions", "175b_verification"): ("gsm8k", "test", 1, Counter({True: 742, False: 577})),
    ("math_cot_samples", None): ("math_cot_samples", "test", 8, None),
    ("humaneval_samples", None): ("humaneval", "test", 20, Counter({False: 2554, True: 726})),
    ("gsm8k_train_traces", None): ("gsm8k_traced", "train", 2, Counter({None: 172})),
    ("r1_distill_math_traces", "deepseek-r1-distill-qwen-14b"): (
        "r1_distill_math_traces",
        "test",
        2,
        Counter({True: 10, False: 10}),
    ),
    ("gsm8k_rationales", None): ("gsm8k", "train", 1, Counter({None: 7473})),
}


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("named", REAL, ids=lambda named: named[0])
def test_every_real_recording_answers_every_problem_of_its_benchmark(named: tuple[str, str | None]) -> None:
    benchmark, split, n, labels = REAL[named]
    recording, model = named
    sampler = open_recording(ReplayConfig(recording=recording, model=model), Path(DATA))
    params = RECORDINGS[recording].params or ANY
    problems = load_benchmark(benchmark, split, Path(DATA))
    answered = list(sampler.sample(asked(problem.id, n, params) for problem in problems))
    assert sum(len(found.completions) for found in answered) == n * len(problems)
    if labels is not None:
        assert Counter(sampler.label(problem.id, index) for problem in problems for index in range(n)) == labels
