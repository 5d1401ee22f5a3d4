from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distill.errors import UserError
from distill.harvest import sample_and_judge
from distill.jsonl import read_jsonl, write_jsonl
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.records import Completion, Item, Params, Problem, SamplerId, Score, Trace, Verdict
from distill.runs import Report
from distill.sampling.protocols import Answered, Request, TokenScores
from distill.sampling.replay import Label
from evals.bench import BenchConfig, bench, checkpoint_names
from evals.examination import Disagreement
from evals.scoring import Paired

QUIET = Progress("quiet")


class Pupil:
    """A sampler that answers each problem as `answer` says."""

    think_open = False

    def __init__(self, name: str, answer: Callable[[str, int], str], revision: str = "r1") -> None:
        self.identity = SamplerId(name=name, revision=revision)
        self.answer = answer
        self.asked: list[str] = []
        self.drop: set[str] = set()

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        for request in requests:
            self.asked.append(request.id)
            if request.id in self.drop:
                continue
            texts = [f"<think> hm </think> {self.answer(request.id, k)}" for k in range(request.n)]
            said = [Completion(text=text, finish="stop", prompt_tokens=3, completion_tokens=5) for text in texts]
            yield Answered(request, tuple(said))

    def score(self, token_ids: list[int], top_k: int) -> TokenScores:
        raise UserError("no scores")


class Marker:
    """A judge that compares strings."""

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Nothing to start."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        for problem, trace in pairs:
            right = trace.answer == problem.answer
            status = "correct" if right else "wrong"
            yield Verdict(
                trace_id=trace.id, judge_version="1", status=status, extracted=trace.answer, expected=problem.answer
            )


def right(problem_id: str, sample: int) -> str:
    return problem_id.removeprefix("p")


def half(problem_id: str, sample: int) -> str:
    return right(problem_id, sample) if int(problem_id[1:]) % 2 else "?"


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = [("train" if i >= 40 else "test", i) for i in range(50)]
    write_jsonl(
        path,
        (
            Problem(
                id=f"p{i}", kind="answer", prompt=str(i), answer=str(i), source="stories", split=split, level=1 + i % 4
            )
            for split, i in rows
        ),
    )
    return path


def config(**keys: Any) -> BenchConfig:
    return BenchConfig.model_validate({"checkpoints": ["teacher"], "problems": "problems", "max_tokens": 8} | keys)


def run(problems: Path, out: Path, settings: BenchConfig, pupils: dict[str, Pupil]) -> Report:
    out.mkdir(exist_ok=True)
    return bench(
        {name: out.parent / name for name in pupils},
        problems,
        out,
        settings,
        sampler_for=lambda folder: pupils[folder.name],
        judge=Marker(),
        seed=0,
        progress=QUIET,
    )


def test_only_held_out_problems_are_asked_and_each_task_is_scored(problems: Path, tmp_path: Path) -> None:
    report = run(problems, tmp_path / "bench", config(), {"teacher": Pupil("teacher", half)})
    scores = {row.task: row for row in read_jsonl(tmp_path / "bench" / "scores.jsonl", Score)}
    assert scores.keys() >= {"all", "stories", "stories/level-1", "level-1", "level-4"}
    assert (scores["all"].value, scores["all"].n, scores["all"].tokens_per_answer) == (0.5, 40, 5.0)
    assert (scores["level-2"].value, scores["level-1"].value, scores["level-1"].n) == (1.0, 0.0, 10)
    assert scores["all"].fingerprint == "r1"
    items = read_jsonl(tmp_path / "bench" / "items.jsonl", Item)
    traces = {trace.id for trace in read_ledger(tmp_path / "bench" / "teacher" / "traces", Trace)}
    assert {item.trace_id for item in items} == traces
    assert (report.counts["samples"], report.tokens) == (40, 200)


def test_a_second_run_asks_nothing_and_writes_the_same_bytes(problems: Path, tmp_path: Path) -> None:
    names = ("scores.jsonl", "items.jsonl", "paired.jsonl")
    run(problems, tmp_path / "bench", config(), {"teacher": Pupil("teacher", half)})
    before = [(tmp_path / "bench" / name).read_bytes() for name in names]
    again = Pupil("teacher", right)
    report = run(problems, tmp_path / "bench", config(), {"teacher": again})
    assert again.asked == []
    assert [(tmp_path / "bench" / name).read_bytes() for name in names] == before
    assert (report.counts["resumed"], report.tokens) == (40, 0)


def test_missing_samples_are_refused_then_asked_for_alone(problems: Path, tmp_path: Path) -> None:
    pupil = Pupil("teacher", right)
    pupil.drop = {"p3", "p7"}
    with pytest.raises(UserError, match="teacher: 2 samples did not arrive"):
        run(problems, tmp_path / "bench", config(), {"teacher": pupil})
    assert not (tmp_path / "bench" / "scores.jsonl").exists()
    pupil.drop, pupil.asked = set(), []
    run(problems, tmp_path / "bench", config(), {"teacher": pupil})
    assert sorted(pupil.asked) == ["p3", "p7"]


def test_pairs_are_compared_as_named(problems: Path, tmp_path: Path) -> None:
    pupils = {"teacher": Pupil("teacher", right), "student": Pupil("student", half)}
    settings = config(checkpoints=["teacher", "student"], compare=[["student", "teacher"]])
    report = run(problems, tmp_path / "bench", settings, pupils)
    paired = {row.task: row for row in read_jsonl(tmp_path / "bench" / "paired.jsonl", Paired)}
    assert (paired["all"].a, paired["all"].difference, paired["all"].n) == ("student", -0.5, 40)
    assert paired["all"].high < -0.3
    assert paired["all"].p_mcnemar == pytest.approx(2**-19)
    assert any("student - teacher" in line for line in report.lines)


def test_an_unknown_pair_is_named_before_anything_is_sampled(problems: Path, tmp_path: Path) -> None:
    pupil = Pupil("teacher", right)
    with pytest.raises(UserError, match=r"compare: unknown checkpoint 'techer' \(did you mean teacher\?\)"):
        run(problems, tmp_path / "bench", config(compare=[["techer", "teacher"]]), {"teacher": pupil})
    assert pupil.asked == []


def test_pass_at_k_uses_all_samples(problems: Path, tmp_path: Path) -> None:
    pupil = Pupil("teacher", lambda name, k: right(name, k) if k == 2 else "?")
    run(problems, tmp_path / "bench", config(samples=4, k=[1, 4], temperature=0.6), {"teacher": pupil})
    values = {
        row.metric: row.value for row in read_jsonl(tmp_path / "bench" / "scores.jsonl", Score) if row.task == "all"
    }
    assert values == {"pass@1": pytest.approx(0.25), "pass@4": 1.0}


def test_the_protocol_changes_with_the_way_of_asking_and_not_with_the_checkpoint(
    problems: Path, tmp_path: Path
) -> None:
    def protocol(name: str, **keys: Any) -> str:
        out = tmp_path / f"{name}{len(keys)}{keys}".replace("/", "")
        run(problems, out, config(**keys), {name: Pupil(name, right)})
        return read_jsonl(out / "scores.jsonl", Score)[0].protocol

    base = protocol("teacher")
    assert base.startswith("greedy@")
    assert base == protocol("student")
    assert base != protocol("teacher", max_tokens=9)
    assert base != protocol("teacher", instruction="step-by-step")


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        pytest.param({"traces": ["harvest"]}, "give one of the two", id="checkpoints and traces"),
        pytest.param({"checkpoints": []}, "give one of the two", id="neither"),
        pytest.param({"checkpoints": [], "traces": ["h"]}, "max_tokens: means nothing", id="limit for a recording"),
        pytest.param({"max_tokens": None}, "max_tokens: missing", id="no limit"),
        pytest.param({"k": [1, 8], "samples": 4, "temperature": 1.0}, "k: each must be from 1 to samples", id="k"),
        pytest.param({"k": [0]}, "k: each must be", id="pass@0"),
        pytest.param({"samples": 4}, "greedy samples are all the same", id="greedy four times"),
        pytest.param({"compare": [["a"]]}, "compare", id="a pair of one"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        config(**keys)


def test_two_folders_of_one_name_cannot_share_a_bench() -> None:
    with pytest.raises(UserError, match="same name 'teacher'"):
        checkpoint_names([Path("runs/a/teacher"), Path("runs/b/teacher")])


def recording(problems: Path, folder: Path, *pupils: Pupil, samples: int = 1) -> list[Trace]:
    """A harvest folder of recorded answers to the held-out problems."""
    asked = [problem for problem in read_jsonl(problems, Problem) if problem.split == "test"]
    for pupil in pupils:
        params = Params(max_tokens=8)
        list(sample_and_judge(asked, folder, params, samples, sampler=pupil, judge=Marker(), seed=0, progress=QUIET))
    return list(read_ledger(folder / "traces", Trace))


def replay(problems: Path, out: Path, folders: list[Path], **keys: Any) -> Report:
    out.mkdir(exist_ok=True)
    settings = BenchConfig.model_validate({"problems": "p", "traces": [str(folder) for folder in folders]} | keys)

    def nobody(folder: Path) -> Pupil:
        raise AssertionError("a replay samples nothing")

    return bench(
        {}, problems, out, settings, traces=folders, sampler_for=nobody, judge=Marker(), seed=0, progress=QUIET
    )


def test_each_recorded_sampler_is_a_checkpoint(problems: Path, tmp_path: Path) -> None:
    recording(problems, tmp_path / "harvest", Pupil("big", right), Pupil("small", half, "r2"))
    report = replay(problems, tmp_path / "bench", [tmp_path / "harvest"], compare=[["big", "small"]])
    scores = [row for row in read_jsonl(tmp_path / "bench" / "scores.jsonl", Score) if row.task == "all"]
    assert [(row.checkpoint, row.fingerprint, row.value) for row in scores] == [
        ("big", "r1", 1.0),
        ("small", "r2", 0.5),
    ]
    assert scores[0].protocol.startswith("recorded@")
    assert report.tokens == 0
    assert not (tmp_path / "bench" / "disagreements.jsonl").exists()


def test_every_disagreement_with_a_label_is_listed(problems: Path, tmp_path: Path) -> None:
    traces = recording(problems, tmp_path / "harvest", Pupil("small", half))
    labels = [Label(trace_id=trace.id, label=trace.problem_id != "p1", source="paper") for trace in traces]
    write_jsonl(tmp_path / "harvest" / "labels.jsonl", labels)
    report = replay(problems, tmp_path / "bench", [tmp_path / "harvest"])
    rows = read_jsonl(tmp_path / "bench" / "disagreements.jsonl", Disagreement)
    assert len(rows) == report.counts["disagreements"] == 21  # 20 wrong ones called right, and p1 the other way round
    assert [(row.status, row.extracted, row.expected) for row in rows if not row.label] == [("correct", "1", "1")]
    assert any("40 labels compared, the judge disagrees with 21" in line for line in report.lines)


def test_recorded_pass_at_k_is_refused_beyond_the_recorded_samples(problems: Path, tmp_path: Path) -> None:
    recording(problems, tmp_path / "harvest", Pupil("small", half), samples=2)
    replay(problems, tmp_path / "bench", [tmp_path / "harvest"], k=[2])
    with pytest.raises(UserError, match=r"pass@3 needs 3 samples .* fewer for 40 of 40"):
        replay(problems, tmp_path / "other", [tmp_path / "harvest"], k=[3])


def test_a_recording_of_part_of_the_problems_says_so(problems: Path, tmp_path: Path) -> None:
    recording(problems, tmp_path / "harvest", Pupil("small", half))
    report = replay(problems, tmp_path / "bench", [tmp_path / "harvest"], select={"split": None})
    assert "small: answers 40 of 50 problems; the score is over those" in report.lines


def test_answers_to_unknown_problems_are_refused(problems: Path, tmp_path: Path) -> None:
    recording(problems, tmp_path / "harvest", Pupil("small", half))
    other = tmp_path / "other.jsonl"
    write_jsonl(other, [Problem(id="q", kind="answer", prompt="1", answer="1", source="s", split="test")])
    with pytest.raises(UserError, match=r"answers 'p0', no problem of that id"):
        replay(other, tmp_path / "bench", [tmp_path / "harvest"])


def test_two_revisions_under_one_name_are_not_mixed(problems: Path, tmp_path: Path) -> None:
    recording(problems, tmp_path / "harvest", Pupil("small", half, "r1"), Pupil("small", right, "r2"))
    with pytest.raises(UserError, match=r"small has 2 revisions \(r1, r2\)"):
        replay(problems, tmp_path / "bench", [tmp_path / "harvest"])


def test_unjudged_traces_are_refused(problems: Path, tmp_path: Path) -> None:
    asked = [problem for problem in read_jsonl(problems, Problem) if problem.split == "test"]
    pupil, params = Pupil("small", half), Params(max_tokens=8)
    list(sample_and_judge(asked, tmp_path / "harvest", params, 1, sampler=pupil, judge=None, seed=0, progress=QUIET))
    with pytest.raises(UserError, match="has no verdict"):
        replay(problems, tmp_path / "bench", [tmp_path / "harvest"])
