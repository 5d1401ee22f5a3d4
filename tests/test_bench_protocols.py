"""Bench by protocol, of samplers that are no folders, and under a budget."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distill.errors import StoppedError, UserError
from distill.jsonl import read_jsonl, write_jsonl
from distill.judge import Judge
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.records import Completion, Problem, SamplerId, Score, Trace
from distill.runs import Report
from distill.sampling.protocols import Answered, Request
from evals.bench import BenchConfig, bench
from evals.examination import Read


class Speaker:
    """Says the same to everything, and remembers what it was asked."""

    think_open = True

    def __init__(self, says: str, name: str = "speaker") -> None:
        self.identity = SamplerId(name=name, revision="r1")
        self.says = says
        self.asked: list[Request] = []

    def sample(self, requests: Any) -> Any:
        for request in requests:
            self.asked.append(request)
            said = Completion(text=self.says, finish="stop", prompt_tokens=3, completion_tokens=5)
            yield Answered(request, (said,) * request.n)

    def score(self, token_ids: list[int], top_k: int) -> Any:
        raise UserError("no scores")

    score_many = score


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    """Six test questions of GSM8K's shape whose answers are 0 to 5, with a training split to draw from."""
    for split, n in (("train", 20), ("test", 6)):
        lines = (
            {"id": f"gsm8k/{split}/{i}", "question": "?" * (i + 1), "answer": f"#### {i}", "final": str(i)}
            for i in range(n)
        )
        (tmp_path / f"gsm8k_{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = [
        Problem(id=f"gsm8k/test/{i}", kind="answer", prompt="?" * (i + 1), answer=str(i), source="gsm8k", split="test")
        for i in range(6)
    ]
    write_jsonl(tmp_path / "exam.jsonl", rows)
    return tmp_path / "exam.jsonl"


def run(exam: Path, settings: dict[str, Any], **speakers: Speaker) -> tuple[Report, dict[tuple[str, str], Score]]:
    config = BenchConfig.model_validate({"problems": "exam", **settings})
    out = exam.parent / "bench"
    out.mkdir(exist_ok=True)

    def opened(name: str) -> AbstractContextManager[Any]:
        return nullcontext(speakers[name])

    with Judge() as judge:
        report = bench(
            {name: Path(name) for name in config.checkpoints},
            exam,
            out,
            config,
            sampler_for=lambda folder: speakers[folder.name],
            others={name: (lambda name=name: opened(name)) for name in config.samplers},  # type: ignore[misc]
            data=exam.parent,
            judge=judge,
            seed=0,
            progress=Progress("quiet"),
        )
    scores = read_jsonl(out / "scores.jsonl", Score)
    return report, {(row.checkpoint, row.metric): row for row in scores if row.task == "all"}


def test_a_protocol_says_its_words_and_its_name_tells_what_was_changed(exam: Path) -> None:
    speaker = Speaker(r"<think> hm </think> \boxed{3}")
    _, scores = run(exam, {"checkpoints": ["a"], "protocol": "zero-shot-chat", "max_tokens": 8}, a=speaker)
    assert scores["a", "pass@1"].protocol.startswith("zero-shot-chat(max_tokens=8)@")
    assert all(request.messages[0].content.endswith(r"within \boxed{}.") for request in speaker.asked)
    assert speaker.asked[0].params.max_tokens == 8


def test_prompts_go_out_the_longest_first(exam: Path) -> None:
    speaker = Speaker("3")
    run(exam, {"checkpoints": ["a"], "max_tokens": 8}, a=speaker)
    lengths = [len(request.messages[0].content) for request in speaker.asked]
    assert lengths == sorted(lengths, reverse=True)


def test_lm_eval_asks_a_text_and_each_of_its_readings_is_a_score(exam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.protocols.shots._check", lambda shots, content, what: None)
    speaker = Speaker("It is #### 3\nor 4")
    _, scores = run(exam, {"checkpoints": ["a"], "protocol": "lm-eval"}, a=speaker)
    assert {request.messages[0].role for request in speaker.asked} == {"text"}
    assert speaker.asked[0].params.stop == ("Question:", "</s>", "<|im_end|>")
    assert speaker.asked[0].messages[0].content.count("Question:") == 6
    assert {metric: row.value for (_, metric), row in scores.items()} == {
        "pass@1": pytest.approx(1 / 6),
        "flexible-extract": pytest.approx(1 / 6),
        "judge": pytest.approx(1 / 6),
    }
    read = read_jsonl(exam.parent / "bench" / "read.jsonl", Read)
    assert {(row.reading, row.extracted) for row in read} == {("flexible-extract", "4"), ("judge", "3")}
    assert {row.status for row in read if row.problem_id.endswith("/4")} == {"correct", "wrong"}
    traces = list(read_ledger(exam.parent / "bench" / "a" / "traces", Trace))
    assert not any(trace.think_open for trace in traces)  # no template, so none that opens a thought


def test_servers_recordings_and_oracles_stand_beside_checkpoints(exam: Path) -> None:
    settings = {
        "checkpoints": ["student"],
        "samplers": {"teacher": {"replay": {"recording": "r"}}, "oracle": {"error_rate": 0.0}},
        "max_tokens": 8,
        "compare": [["student", "teacher"]],
    }
    speakers = {name: Speaker(f"#### {i}", name) for i, name in enumerate(("student", "teacher", "oracle"), 3)}
    _, scores = run(exam, settings, **speakers)
    assert {name for name, _ in scores} == {"student", "teacher", "oracle"}
    assert scores["teacher", "pass@1"].protocol.startswith("recorded@")
    assert scores["student", "pass@1"].protocol.startswith("greedy@")


def test_a_spent_budget_stops_and_a_larger_one_goes_on_with_all_that_was_spent(exam: Path) -> None:
    settings = {"checkpoints": ["a", "b"], "max_tokens": 5, "budget": {"tokens": 45}}
    speakers = {name: Speaker("3", name) for name in ("a", "b")}
    with pytest.raises(StoppedError, match=r"budget spent \(tokens\).*45 of 45"):
        run(exam, settings, **speakers)
    assert [len(one.asked) for one in speakers.values()] == [6, 3]
    with pytest.raises(StoppedError, match="budget spent"):
        run(exam, settings, **speakers)  # what both have stored counts, so nothing more is affordable
    assert [len(one.asked) for one in speakers.values()] == [6, 3]
    report, scores = run(exam, settings | {"budget": {"tokens": 60}}, **speakers)
    assert [len(one.asked) for one in speakers.values()] == [6, 6]
    assert (report.counts["resumed"], scores["b", "pass@1"].n) == (9, 6)


def test_a_name_cannot_be_a_checkpoints_and_a_samplers(exam: Path) -> None:
    settings = {"checkpoints": ["a"], "samplers": {"a": {"error_rate": 0.0}}, "max_tokens": 5}
    with pytest.raises(UserError, match="'a' is a checkpoint's name too"):
        run(exam, settings, a=Speaker("3"))


def test_one_sample_under_r1_is_said_to_be_few(exam: Path) -> None:
    report, _ = run(exam, {"checkpoints": ["a"], "protocol": "r1"}, a=Speaker("3"))
    assert any("r1 is reported over 4 to 64 samples a problem, here 1" in line for line in report.lines)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"protocol": "r2"}, r"unknown 'r2' \(did you mean r1\?\)"),
        ({"protocol": "r1", "instruction": "none"}, "has words of its own"),
        ({"protocol": "lm-eval", "samples": 4}, "greedy samples are all the same"),
        ({"protocol": "r1", "temperature": 0.0, "samples": 4}, "greedy samples are all the same"),
        ({"protocol": "r1", "samplers": {"x": {"replay": {"recording": "r"}}}}, "was asked in its own way"),
        ({"max_tokens": 5, "samplers": {"x": {}}}, "give exactly one"),
        ({"max_tokens": 5, "budget": {"tokens": 9, "on_spent": "finish"}}, "all of its exam or nothing"),
    ],
)
def test_tables_that_make_no_sense_are_refused(keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        BenchConfig.model_validate({"problems": "p", "checkpoints": ["a"], **keys})
