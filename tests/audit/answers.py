"""Audit of answers: agreement with labels, other graders' faults, hostile mathematics, fuzz, and the cost.

`python -m tests.audit.answers DATA` prints it, with DATA the folder of benchmark files (or
DISTILL_DATA). Both sides of the timing run here, in CPU time: ours counts this process and all
child processes, their start included; math-verify's (Hugging Face, 0.9) runs in this process with
its timeouts off. What is not covered: labels themselves, which people and other graders gave.
"""

import gzip
import json
import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distill.judge import Judge, Said
from distill.records import Problem, Verdict
from tests.audit.finding import Finding
from tests.grader_faults import FALSE_ACCEPTS, FALSE_REJECTS
from tests.test_pool import HOSTILE

FUZZED = 10_000
SEED = 20261124
KNOWN = {
    ("10{,}000", "10000"): "the label is wrong: a thousands separator",
    (r"\frac{3}{4}", r"\frac34"): "equal: one number in two spellings",
    (r"120^\circ", "120"): "equal: degrees left out",
    (r"7\%", "7"): "equal: the percent sign left out is forgiven",
}
"""Disagreements that were looked at, and who is right."""


def report(data: Path) -> Iterator[Finding]:
    """Every line of it."""
    for part in (_labels(data), _faults(), _hostile(), _fuzz(data), _cost(data)):
        yield from part


def _labels(data: Path) -> Iterator[Finding]:
    rows = read(data, "gsm8k_model_solutions.jsonl.gz")
    yield from _agreement("GSM8K solutions", [(r["gold"], Said(r["solution"]), r["is_correct"]) for r in rows])
    rows = read(data, "math_cot_samples_qwen.jsonl.gz")
    yield from _agreement("Qwen samples on MATH", [(r["gold"], Said(r["response"]), r["qwen_grader"]) for r in rows])
    rows = read(data, "r1_distill_math_traces.jsonl")
    traces = [(r["gold"], Said(r["response"], think_open=True), r["is_correct"]) for r in rows]
    yield from _agreement("R1 distillates on MATH", traces)
    rows = read(data, "math_test.jsonl.gz")
    yield from _agreement("MATH gold in its solution", [(r["answer"], Said(r["solution"]), True) for r in rows])
    golds = [r["answer"] for r in rows]
    others = [*golds[1:], golds[0]]
    yield from _agreement(
        "MATH gold, another row's answer", [(a, boxed(b), a == b) for a, b in zip(golds, others, strict=True)]
    )
    rows = read(data, "gsm8k_test.jsonl")
    yield from _agreement("GSM8K gold in its solution", [(r["final"], Said(r["answer"]), True) for r in rows])


def _agreement(what: str, rows: Sequence[tuple[str, Said, bool]]) -> Iterator[Finding]:
    verdicts = judged([(gold, said) for gold, said, _ in rows])
    differ = [
        (gold, verdict)
        for (gold, _, label), verdict in zip(rows, verdicts, strict=True)
        if (verdict.status == "correct") != label
    ]
    yield Finding(f"{what}: {len(rows) - len(differ):,}/{len(rows):,} agree with the label; {counts(verdicts)}")
    for gold, verdict in differ:
        why = KNOWN.get((gold, verdict.extracted or ""))
        said = f"  differs: gold {gold!r}, said {verdict.extracted!r}: {verdict.status}"
        yield Finding(f"{said}; {why or 'not explained'}", holds=why is not None)


def _faults() -> Iterator[Finding]:
    accepted = [
        verdict.status == "correct" for verdict in judged([(gold, Said(text)) for _, _, gold, text in FALSE_ACCEPTS])
    ]
    yield Finding(f"false accepts of other graders: {sum(accepted)}/{len(accepted)} accepted here", not any(accepted))
    yield from (Finding(f"  accepted: {row}", False) for row, bad in zip(FALSE_ACCEPTS, accepted, strict=True) if bad)
    correct = [
        verdict.status == "correct" for verdict in judged([(gold, Said(text)) for _, _, gold, text in FALSE_REJECTS])
    ]
    yield Finding(f"false rejects of other graders: {sum(correct)}/{len(correct)} correct here", all(correct))


def _hostile() -> Iterator[Finding]:
    with Judge() as judge:
        judge.judge(problem(r"\sqrt{3+2\sqrt{2}}"), boxed(r"1+\sqrt{2}"))  # the algebra server starts
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        slowest, accepted, asked = (0.0, ""), [], 0
        for name, text in HOSTILE.items():
            for gold, said in (("5", text), (text, "5"), (text, text + " + 1")):
                begun = time.monotonic()
                verdict = judge.judge(problem(gold), boxed(said))
                slowest = max(slowest, (time.monotonic() - begun, name))
                asked += 1
                accepted += [name] if verdict.status == "correct" else []
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    said = f"hostile mathematics: {asked} questions, slowest {slowest[0]:.2f} s ({slowest[1]}), "
    holds = slowest[0] < 2.0 and not accepted and grown < 64
    yield Finding(f"{said}accepted {accepted or 'none'}, memory grown by {grown:.0f} MB", holds)


def _fuzz(data: Path) -> Iterator[Finding]:
    """Real completions cut, doubled, shuffled and sown with the characters graders trip over."""
    rng = random.Random(SEED)
    rows = [(r["gold"], r["response"]) for r in read(data, "math_cot_samples_qwen.jsonl.gz")]
    rows += [(r["answer"], r["solution"]) for r in read(data, "math_test.jsonl.gz")]
    slow, worst, seen = [], 0.0, Counter[str]()
    with Judge() as judge:
        judge.judge(problem(r"\sqrt{3+2\sqrt{2}}"), boxed(r"1+\sqrt{2}"))
        for _ in range(FUZZED):
            gold, text = rng.choice(rows)
            fuzzed = mutated(text, rng)
            begun = time.monotonic()
            verdict = judge.judge(problem(gold), Said(fuzzed, rng.choice(("stop", "length"))))
            took = time.monotonic() - begun
            worst = max(worst, took)
            seen[verdict.status] += 1
            slow += [f"  slow: {took:.2f} s, gold {gold!r}, said {verdict.extracted!r}"] if took > 1.0 else []
    said = f"fuzzed completions: {FUZZED:,}, no crash, {len(slow)} over 1 s, slowest {worst:.2f} s; {dict(seen)}"
    yield Finding(said, not slow)
    yield from map(Finding, slow)


def mutated(text: str, rng: random.Random) -> str:
    """A completion after one to four accidents."""
    pieces = ("\\boxed{", "}", "{", "\\frac", "^", "!", "<think>", "</think>", "9" * 50, "\\sqrt", "10^", "\x00",
              "\ud800", "####", "answer is ", "½", "，", "$", "\\left(", "%", "e", "\\pm ", "°", "_2", "…")  # fmt: skip
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(5):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + rng.choice(pieces) * rng.choice((1, 1, 2, 40)) + text[at:]
            case 2:
                other = rng.randrange(len(text) + 1)
                text = text[: min(at, other)] + text[max(at, other) :]
            case 3:
                text = text[:at] + text[at : at + 40] * 3 + text[at:]
            case _:
                box = text.rfind("\\boxed{")
                text = text[: box + 7] + rng.choice(pieces) + text[box + 7 :]
    return text


def _cost(data: Path) -> Iterator[Finding]:
    from math_verify import parse, verify

    gsm8k = [(r["gold"], r["solution"]) for r in read(data, "gsm8k_model_solutions.jsonl.gz")]
    golds = [r["answer"] for r in read(data, "math_test.jsonl.gz")]
    rows = {
        "GSM8K, model solutions": gsm8k,
        "MATH, gold against itself": [(gold, f"\\boxed{{{gold}}}") for gold in golds],
        "MATH, another row's answer": [
            (a, f"\\boxed{{{b}}}") for a, b in zip(golds, [*golds[1:], golds[0]], strict=True)
        ],
    }
    for what, pairs in rows.items():
        begun = cpu()
        verdicts = judged([(gold, Said(text)) for gold, text in pairs])
        ours = cpu() - begun
        begun = cpu()
        theirs = [
            verify(
                parse(f"\\boxed{{{gold}}}", parsing_timeout=None),
                parse(text, parsing_timeout=None),
                timeout_seconds=None,
            )
            for gold, text in pairs
        ]
        peer = cpu() - begun
        same = sum((verdict.status == "correct") == found for verdict, found in zip(verdicts, theirs, strict=True))
        yield Finding(
            f"{what}: {len(pairs) / ours:,.0f}/CPU-s here, {len(pairs) / peer:,.0f}/CPU-s math-verify: "
            f"{peer / ours:.1f} times; {same:,}/{len(pairs):,} the same verdict",
            holds=peer >= 4 * ours,
        )
        for (gold, _), verdict, found in zip(pairs, verdicts, theirs, strict=True):
            if (verdict.status == "correct") != found:
                said = f"  differs: gold {gold!r}, said {verdict.extracted!r}: {verdict.status}"
                yield Finding(f"{said}, math-verify {found}")


def cpu() -> float:
    """CPU seconds of this process and of the children that were reaped."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def judged(pairs: Sequence[tuple[str, Said]]) -> list[Verdict]:
    """Verdicts in order, by a judge of their own."""
    with Judge() as judge:
        return list(judge.judge_many((problem(gold), said) for gold, said in pairs))


def counts(verdicts: Sequence[Verdict]) -> str:
    """How many of each status."""
    return ", ".join(f"{count:,} {status}" for status, count in Counter(v.status for v in verdicts).most_common())


def problem(gold: str) -> Problem:
    """A problem that is nothing but its gold answer."""
    return Problem(id="p", kind="answer", prompt="?", answer=gold, source="math", split="test")


def boxed(said: str) -> Said:
    """A completion that is nothing but its answer."""
    return Said(f"\\boxed{{{said}}}")


def read(data: Path, name: str) -> list[dict[str, Any]]:
    """Rows of a benchmark file."""
    with (
        gzip.open(data / name, "rt", encoding="utf-8")
        if name.endswith(".gz")
        else (data / name).open(encoding="utf-8") as lines
    ):
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    for finding in report(Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["DISTILL_DATA"])):
        print(finding.text, flush=True)
