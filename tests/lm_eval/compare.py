"""Compare: our reading of texts against the harness's, item by item, and which difference is of what kind."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distill.judge import Judge
from distill.records import Problem, SamplerId, Trace
from evals.protocols import PROTOCOLS, Reader, minerva


@dataclass(frozen=True)
class Task:
    """One task of the harness, and what of it is what of ours."""

    name: str
    """The harness's."""
    protocol: str
    benchmark: str
    verdicts: Mapping[tuple[str, str], str]
    """(filter, metric) of the harness to the name of our reading."""
    shots: str = ""
    """Benchmark whose training split its examples are drawn from."""


NUMBERS = {(name, "exact_match"): name for name in ("strict-match", "flexible-extract")}
TASKS = {
    "gsm8k": Task("gsm8k", "lm-eval:gsm8k", "gsm8k", NUMBERS, "gsm8k"),
    "gsm8k_cot": Task("gsm8k_cot", "lm-eval:gsm8k_cot", "gsm8k", NUMBERS),
    "minerva_math": Task(
        "minerva_math_algebra",
        "lm-eval:minerva_math",
        "math",
        {("none", "exact_match"): "exact_match", ("none", "math_verify"): "judge"},
    ),
    "humaneval": Task("humaneval", "lm-eval:humaneval", "humaneval", {("create_test", "pass@1"): "pass_at_1"}),
    "mbpp": Task("mbpp", "lm-eval:mbpp", "mbpp", {("none", "pass_at_1"): "pass_at_1"}),
}


@dataclass
class Agreement:
    """How often both sides say the same of one reading."""

    reading: str
    n: int = 0
    extracted: int = 0
    verdicts: int = 0
    right: int = 0
    """That the harness calls right."""
    differences: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


def readings(task: Task, problems: Sequence[Problem], items: Sequence[Mapping[str, Any]]) -> list[Agreement]:
    """The same texts read by both: `items` are the harness's."""
    traces = [as_trace(problems[item["doc"]], place, item["text"]) for place, item in enumerate(items)]
    pairs = [(problems[item["doc"]], trace) for item, trace in zip(items, traces, strict=True)]
    found = []
    with Judge() as judge:
        for (filter_name, metric), name in task.verdicts.items():
            (reading,) = (one for one in PROTOCOLS[task.protocol].readings if one.name == name)
            agreement = Agreement(name if name in (metric, filter_name) else f"{name} for {metric}")
            for item, verdict in zip(items, Reader(reading, judge).judge_many(pairs), strict=True):
                theirs = item["filters"][filter_name]
                right = theirs["verdicts"][metric] > 0
                agreement.n += 1
                agreement.right += right
                said = expected_of(task, theirs["extracted"])
                # The judge finds an answer of its own; the harness's math_verify tells none.
                same = name == "judge" or said == (verdict.extracted, verdict.expected) or said[0] == verdict.extracted
                agreement.extracted += same
                agreement.verdicts += right == (verdict.status == "correct")
                if not same or right != (verdict.status == "correct"):
                    ours = f"{verdict.status} ({verdict.why}) {verdict.extracted!r} against {verdict.expected!r}"
                    agreement.kinds[f"{'right' if right else 'wrong'} there, {verdict.status} here"] += 1
                    agreement.differences.append(
                        f"{problems[item['doc']].id}: {'right' if right else 'wrong'} there {said}; here {ours}"
                    )
            found.append(agreement)
    return found


def expected_of(task: Task, extracted: Any) -> tuple[str | None, str | None]:
    """What the harness found in a text, as we say it, and what it held that against where it tells."""
    if task.protocol == "lm-eval:minerva_math":
        answer, gold = extracted
        return (None if answer == minerva.normalized("[invalidanswer]") else answer), gold
    if isinstance(extracted, list):
        return extracted[0], None
    return (None if extracted == "[invalid]" else extracted), None


def as_trace(problem: Problem, place: int, text: str) -> Trace:
    """A text as if it had been sampled."""
    return Trace(
        id=str(place),
        problem_id=problem.id,
        sampler=SamplerId(name="text", revision=""),
        params=None,
        sample_index=place,
        reasoning=None,
        answer=text.strip(),
        text=text,
        finish="stop",
        prompt_tokens=0,
        completion_tokens=0,
    )
