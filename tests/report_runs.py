"""Run folders of a toy distillation, written as the stages write them, for tests of the report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.jsonl import write_jsonl
from distill.ledger import Ledger
from distill.records import Item, Params, Problem, SamplerId, Status, Trace, Verdict, fingerprint
from distill.runs import MANIFEST, InputRef, Manifest, Report
from evals.scoring import group, pair, score

EVIL = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> "
    "\" onmouseover='alert(3)' \u2028 <svg/onload=alert(4)>"
)


class Runs:
    """A folder of run folders, written as the stages write them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.prints: dict[str, str] = {}

    def seal(self, name: str, stage: str, inputs: list[tuple[str, str]], **said: Any) -> Path:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        self.prints[name] = fingerprint([name, inputs, said])
        refs = tuple(InputRef(field=field, name=ref, fingerprint=self.prints[ref]) for field, ref in inputs)
        manifest = Manifest(
            step=name,
            stage=stage,
            stage_version="1",
            fingerprint=self.prints[name],
            seed=7,
            config={},
            inputs=refs,
            versions={"python": "3.11.9", "torch": "2.13.0"},
            git_commit="abc123",
            device="cpu (2 threads)",
            started="2026-01-01T00:00:00Z",
            seconds=12.5,
            resumed=0,
            report=Report(**said),
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json())
        return folder

    def bench(
        self,
        answers: dict[str, list[Status]],
        *,
        evil: str = "",
        say: Callable[[Item], str] | None = None,
        **extra: Any,
    ) -> Path:
        """A bench of stories, levels 1 and 2, one item a status; `say` is what a checkpoint thought."""
        folder = self.root / "bench"
        folder.mkdir()
        grouped, items, scores = {}, [], []
        for checkpoint, statuses in answers.items():
            rows, traces, verdicts = [], [], []
            for i, status in enumerate(statuses):
                item = Item(
                    checkpoint=checkpoint,
                    problem_id=f"p{i}",
                    sample_index=0,
                    status=status,
                    trace_id=f"{checkpoint}-{i}",
                    task="stories",
                    level=1 + i % 2,
                    tokens=10 + i,
                )
                rows.append(item)
                traces.append(spoken(item, say(item) if say else f"thought of {checkpoint} {evil}"))
                verdicts.append(
                    Verdict(trace_id=item.trace_id, judge_version="1", status=status, extracted=f"x{evil}", why=evil)
                )
            write_ledger(folder / checkpoint, traces, verdicts)
            grouped[checkpoint] = group(rows)
            items += rows
            scores += score(grouped[checkpoint], checkpoint, "f", "greedy@0", [1])
        names = list(answers)
        paired = [row for name in names[1:] for row in pair(name, names[0], grouped)]
        write_jsonl(folder / "items.jsonl", items)
        write_jsonl(folder / "scores.jsonl", scores)
        write_jsonl(folder / "paired.jsonl", paired)
        inputs = [("checkpoints", name) for name in names if name in self.prints] + [("problems", "problems")]
        return self.seal("bench", "bench", inputs, **extra)


def spoken(item: Item, thought: str) -> Trace:
    return Trace(
        id=item.trace_id,
        problem_id=item.problem_id,
        sampler=SamplerId(name=item.checkpoint, revision="r"),
        params=Params(max_tokens=64),
        sample_index=0,
        reasoning=thought,
        answer=f"answer of {item.checkpoint}",
        text=thought,
        finish="stop",
        prompt_tokens=1,
        completion_tokens=item.tokens,
    )


def write_ledger(folder: Path, traces: list[Trace], verdicts: list[Verdict]) -> None:
    with Ledger(folder / "traces") as ledger:
        for trace in traces:
            ledger.append(trace)
    with Ledger(folder / "verdicts") as ledger:
        for verdict in verdicts:
            ledger.append(verdict)


def made_runs(root: Path) -> Runs:
    """Problems, a teacher from its init, a student from curated traces of the teacher."""
    made = Runs(root)
    problems = made.seal("problems", "problems", [])
    rows = [
        Problem(id=f"p{i}", kind="answer", prompt=f"question {i} {EVIL}", answer=f"{i}", source="stories", split="test")
        for i in range(12)
    ]
    write_jsonl(problems / "problems.jsonl", rows)
    made.seal("teacher-init", "teacher-init", [], counts={"parameters": 400_000, "active_parameters": 200_000})
    made.seal("student-init", "student-init", [], counts={"parameters": 40_000})
    teacher = made.seal("teacher", "rl", [("model", "teacher-init"), ("problems", "problems")], tokens=5000)
    points = [{"step": i, "reward": 0.5, "accuracy": i / 20, "by_level": {}, "lr": 1e-3} for i in range(1, 11)]
    (teacher / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    harvest = made.seal("harvest", "harvest", [("problems", "problems"), ("model", "teacher")])
    item = Item(
        checkpoint="teacher", problem_id="p1", sample_index=0, status="wrong", trace_id="h", task="stories", tokens=33
    )
    write_ledger(
        harvest, [spoken(item, "a harvested thought")], [Verdict(trace_id="h", judge_version="1", status="wrong")]
    )
    mark = {"against": {"stories": 12}, "method": "13-gram", "removed": 2}
    counts = {"traces": 100, "examples": 90}
    made.seal("curate", "curate", [("traces", "harvest")], counts=counts, marks={"decontaminated": mark})
    student = made.seal("student", "sft", [("data", "curate"), ("model", "student-init")])
    losses = [{"step": i, "tokens": 9, "loss": 3 / i, "lr": 0.1, "seconds": 1.0} for i in range(1, 1001)]
    (student / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in losses))
    made.seal("student-int8", "quantize", [("model", "student")])
    return made


ANSWERS: dict[str, list[Status]] = {
    "teacher": ["correct"] * 10 + ["wrong", "truncated"],
    "student": ["correct"] * 8 + ["wrong", "wrong", "unparsed", "timeout"],
    "student-int8": ["correct"] * 8 + ["wrong"] * 4,
}
