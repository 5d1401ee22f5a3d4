"""The guard of sft on toy models: what it asks, what it warns of, and that training does not notice it."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from cli.loading import Folders
from cli.stages import REGISTRY
from distill.errors import UserError
from distill.jsonl import read_jsonl, write_jsonl
from distill.problems.vocabulary import mini_tokenizer
from distill.progress import Progress
from distill.recipe import load_recipe, step_fingerprint
from distill.records import Problem, Status, Trace, Verdict
from distill.runs import Report
from distill.train.curve import SftPoint
from distill.train.guard.record import Findings, Sat, Traces, read_findings
from distill.train.guard.table import StudentGuard
from distill.train.guard.watch import Given, Watch
from distill.train.preflight.findings import Findings as PreflightFindings
from distill.train.sft import preflight, sft
from distill.train.sft_table import SftConfig
from tests.toy_models import toy_example, toy_examples, toy_model

PROBLEMS = 24


@dataclass
class ShortJudge:
    """Right is what ends within `most` tokens."""

    most: int = 5
    asked: int = 0

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Nothing to start."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        for _, trace in pairs:
            self.asked += 1
            short = trace.finish == "stop" and trace.completion_tokens <= self.most
            status: Status = "correct" if short else "wrong"
            yield Verdict(trace_id=trace.id, judge_version="short", status=status)


def exam(path: Path, name: str = "q", split: str = "test") -> Path:
    rows = [
        Problem.model_validate(
            {
                "id": f"{name}{number}",
                "kind": "answer",
                "prompt": f"Mia has {number % 20} coins .",
                "answer": "1",
                "source": "stories",
                "split": split,
                "level": number % 2,
            }
        )
        for number in range(40)
    ]
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_model(tmp_path_factory.mktemp("toys") / "model", seed=0, attention_dropout=0.1)


def settings(guard: dict[str, Any] | None, **fields: Any) -> SftConfig:
    table: dict[str, Any] = {"steps": 6, "tokens_per_batch": 128, "log_every": 4, "allow_contaminated": True, **fields}
    if guard is not None:
        table["guard"] = {"problems": "exam", "n": PROBLEMS, "max_tokens": 12, "rows": 8, **guard}
    return SftConfig(data="examples", model="model", **table)


def train(
    data: Path,
    model: Path,
    out: Path,
    guard: dict[str, Any] | None,
    judge: ShortJudge | None = None,
    off_target: Path | None = None,
    **fields: Any,
) -> Report:
    out.mkdir()
    given = Given(judge or ShortJudge(), exam(data.parent / "exam.jsonl"), off_target) if guard is not None else None
    config, quiet = settings(guard, **fields), Progress("quiet")
    return sft(data, model, out, config, loader=Folders(), seed=0, progress=quiet, guard=given)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="all weights"),
        pytest.param({"lora": {"rank": 4, "dropout": 0.3}, "optimizer": "adamw"}, id="adapters that drop out"),
    ],
)
def test_training_takes_the_same_steps_with_a_guard(fields: dict[str, Any], model: Path, tmp_path: Path) -> None:
    data = toy_examples(tmp_path)
    train(data, model, tmp_path / "alone", None, held_out=6, **fields)
    train(data, model, tmp_path / "guarded", {"every": 2}, held_out=6, **fields)
    alone, guarded = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "guarded"))
    assert all(torch.equal(alone[name], guarded[name]) for name in alone)
    curve = read_jsonl(tmp_path / "guarded" / "curve.jsonl", SftPoint)
    assert [(row.step, row.held_out_accuracy is not None) for row in curve] == [(2, True), (4, True), (6, True)]
    assert all(row.held_out_loss is not None for row in curve)


def test_the_base_is_asked_before_and_the_student_after_on_the_same_problems(model: Path, tmp_path: Path) -> None:
    judge = ShortJudge(most=10)
    report = train(toy_examples(tmp_path), model, tmp_path / "out", {"every": 3}, judge, steps=60)
    assert judge.asked == PROBLEMS * (1 + 20 + 1)
    found = read_findings(tmp_path / "out")
    assert found is not None
    assert found.student is not None
    assert found.base["target"].problems == found.student["target"].problems
    last = read_jsonl(tmp_path / "out" / "curve.jsonl", SftPoint)[-1]
    after = found.student["target"].accuracy.value
    assert last.held_out_accuracy == after
    assert after > 0.7
    assert report.counts["accuracy_after"] == round(after, 4)
    assert report.counts["accuracy_gain"] == round(after - found.base["target"].accuracy.value, 4)
    assert report.marks["guard"]["target"]["verdict"] == "better"
    assert any("better than its base" in line for line in report.lines)


def test_a_student_that_got_worse_is_called_worse_where_it_is(model: Path, tmp_path: Path) -> None:
    """A base that answers shortly learns to ramble on one of two sets of problems; the judge wants it short."""
    short, rambling = tmp_path / "short.jsonl", tmp_path / "rambling.jsonl"
    write_jsonl(short, [toy_example(number, "5") for number in range(20)])
    train(short, model, tmp_path / "base", None, steps=60)
    write_jsonl(rambling, [toy_example(number, "5 5 5 5 5 5 5 5") for number in range(20)])
    elsewhere = exam(tmp_path / "elsewhere.jsonl", "r")
    report = train(rambling, tmp_path / "base", tmp_path / "student", {}, off_target=elsewhere, steps=60)
    mark = report.marks["guard"]
    assert mark["worse"] == ["target", "off_target"]
    assert mark["target"]["base"] == 1
    assert mark["target"]["high"] < 0
    assert report.counts["off_target_accuracy_gain"] == -1
    assert sum("WORSE THAN ITS BASE" in line for line in report.lines) == 2


def test_problems_that_are_trained_on_are_refused(model: Path, tmp_path: Path) -> None:
    data = toy_examples(tmp_path)
    with pytest.raises(UserError, match=r"guard.off_target: 24 of 24 problems are trained on \(the first is p0"):
        train(data, model, tmp_path / "out", {}, off_target=exam(tmp_path / "seen.jsonl", "p"))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        pytest.param({"problems": "seen"}, r"guard.problems: 24 of 24 problems are trained on", id="trained on"),
        pytest.param({"problems": "gone"}, r"gone.jsonl: ", id="not there"),
        pytest.param({"select": {"levels": [9]}}, r"level", id="none left"),
        pytest.param({"max_tokens": 64}, r"guard: the model cannot be asked, max_tokens = 64 .*embeddings", id="long"),
        pytest.param({"cache_gb": 1e-9}, r"guard: the model cannot be asked.*cache_gb", id="no room"),
    ],
)
def test_what_a_guard_would_refuse_a_preflight_refuses(
    fields: dict[str, Any], complaint: str, model: Path, tmp_path: Path
) -> None:
    exam(tmp_path / "exam.jsonl")
    exam(tmp_path / "seen.jsonl", "p")
    config = settings(fields)
    assert config.guard is not None
    given = Given(ShortJudge(), tmp_path / f"{config.guard.problems}.jsonl")
    with pytest.raises(UserError, match=complaint):
        look(toy_examples(tmp_path), model, tmp_path / "out", config, given)
    assert not (tmp_path / "out").exists()


def look(data: Path, model: Path, out: Path, config: SftConfig, given: Given) -> PreflightFindings:
    return preflight(data, model, out, config, loader=Folders(), seed=0, progress=Progress("quiet"), guard=given)


@pytest.mark.parametrize(
    "fields", [{}, {"rope": {"positions": 128, "theta": 1e5}}, {"packing": True}], ids=["plain", "rope", "packed"]
)
def test_a_preflight_asks_nothing_and_tells_what_will_be_asked(
    fields: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    judge = ShortJudge()
    given = Given(judge, exam(tmp_path / "exam.jsonl"), exam(tmp_path / "other.jsonl", "r"))
    findings = look(toy_examples(tmp_path), model, tmp_path / "out", settings({}, **fields), given)
    told = "24 problems on target, 24 problems off target, none of them among the examples"
    assert findings.recorded["guard"] == told
    assert judge.asked == 0
    assert not (tmp_path / "out").exists()


def test_the_clock_of_the_curve_stands_while_rows_and_problems_are_held_against_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def measure(*_: Any, **__: Any) -> float:
        clock[0] += 1000
        return 1.0

    monkeypatch.setattr("distill.train.curve.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr("distill.train.sft_trainer.held_out_loss", measure)
    monkeypatch.setattr(Watch, "accuracy", measure)
    train(toy_examples(tmp_path), model, tmp_path / "out", {"every": 2}, held_out=6, save_every=3)
    assert clock[0] >= 6000
    assert {row.seconds for row in read_jsonl(tmp_path / "out" / "curve.jsonl", SftPoint)} == {0.0}


def test_a_preflight_looks_for_the_packages_of_logs(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = settings(None, log=["wandb"])
    with pytest.raises(UserError, match="log: 'wandb' needs the package wandb"):
        look(tmp_path, model, tmp_path / "out", config, Given(ShortJudge(), tmp_path))


def found(right: float, loss: float, length: float) -> Findings:
    sat = Sat(
        problems=tuple(map(str, range(50))),
        right=tuple(float(place < right * 50) for place in range(50)),
        samples=1,
        length=100,
        truncated=0,
    )
    traces = Traces(rows=8, loss=loss, length=length, vocabulary=1000)
    return Findings(base={"target": sat}, traces=traces, held_out_loss=None)


@pytest.mark.parametrize(
    ("findings", "keys"),
    [
        pytest.param(found(0.5, 1.0, 150), [], id="near enough"),
        pytest.param(found(0.0, 1.0, 150), ["least_pass_rate"], id="nothing right"),
        pytest.param(found(0.5, 2.5, 150), ["most_perplexity"], id="unlikely"),
        pytest.param(found(0.5, 1.0, 500), ["most_length"], id="long"),
        pytest.param(found(0.0, 3.0, 900), ["least_pass_rate", "most_perplexity", "most_length"], id="all of it"),
        pytest.param(found(0.0, 6.9, 900), [], id="a student that begins from nothing"),
        pytest.param(found(0.0, 1e4, 900), [], id="a loss no perplexity can be told of"),
    ],
)
def test_traces_beyond_a_student_are_warned_of_by_key(findings: Findings, keys: list[str]) -> None:
    config = StudentGuard(problems="p", max_tokens=10)
    warnings = findings.warnings(config)
    assert [line.rpartition("guard.")[2] for line in warnings] == keys
    assert all("arXiv 2502.12143" in line for line in warnings)
    calm = StudentGuard(problems="p", max_tokens=10, least_pass_rate=0, most_perplexity=1e9, most_length=1e9)
    assert not findings.warnings(calm)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        pytest.param({"guard": {"temperature": 0, "samples": 2}}, "greedy samples are all the same", id="greedy"),
        pytest.param({"guard": {"off_select": {"levels": [1]}}}, "off_target, which is not given", id="nowhere"),
        pytest.param({"guard": {}, "data_parallel": 2}, "bench both checkpoints", id="several processes"),
    ],
)
def test_a_guard_that_would_do_nothing_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        settings(**fields)


RECIPE = """
[exam]
stage = "problems"
families = { stories = { levels = [1], train = 10, test = 10 } }
[student]
stage = "sft"
data = "./examples.jsonl"
model = "./model"
steps = 4
allow_contaminated = true
guard = { problems = "exam", max_tokens = 8 }
"""


def test_a_guards_problems_are_a_step_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "r.toml"
    path.write_text(RECIPE)
    recipe = load_recipe(path, REGISTRY)
    assert list(recipe.steps) == ["exam", "student"]
    assert recipe.steps["student"].inputs["guard.problems"] == ("exam",)
    path.write_text(RECIPE.replace('problems = "exam"', 'problems = "exma"'))
    with pytest.raises(UserError, match=r"\[student\] guard.problems: unknown step 'exma' \(did you mean exam"):
        load_recipe(path, REGISTRY)


def test_a_step_depends_on_what_its_guard_asks_and_not_on_where_that_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toy_examples(tmp_path)
    toy_model(tmp_path / "model", seed=0)
    one, two = exam(tmp_path / "one.jsonl"), exam(tmp_path / "two.jsonl")
    path = tmp_path / "r.toml"

    def fingerprint(source: Path) -> str:
        path.write_text(RECIPE.replace('problems = "exam"', f'problems = "./{source.name}"'))
        recipe = load_recipe(path, REGISTRY)
        return step_fingerprint(recipe, recipe.steps["student"], tmp_path / "out", tmp_path)[0]

    before = fingerprint(one)
    exam(two, "other")
    assert fingerprint(two) != before


def test_what_was_found_is_kept_beside_the_curve(model: Path, tmp_path: Path) -> None:
    train(toy_examples(tmp_path), model, tmp_path / "out", {"rows": 4}, steps=1)
    kept = json.loads((tmp_path / "out" / "guard.json").read_text())
    assert kept["traces"]["rows"] == 4
    assert kept["traces"]["vocabulary"] == len(mini_tokenizer())
    assert set(kept["student"]) == {"target"}
