"""Audit of programs: what the judge says of real ones, what the walls hold, and what a grade costs.

`python -m tests.audit.programs DATA` prints it, with DATA the folder of benchmark files (or DISTILL_DATA).
Real programs: HumanEval (Chen et al. 2021), MBPP (Austin et al. 2021), CodeGen-16B's recorded samples (CodeT).
Grades a second and CPU are of HumanEval's canonical solutions, each pass with a comment of its own so that none is
remembered; CPU is read from /proc for this process and every process of the servers, reaped ones included.
What is not covered: stdin programs of real contests, which no file of DATA holds.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from distill.jsonl import read_jsonl
from distill.judge import Judge, Said
from distill.judge.servers import Crew
from distill.problems.benchmarks import load_benchmark
from distill.records import Problem, Verdict
from distill.sampling.replay import RECORDINGS, CodeGenRow
from tests.arena import NOBODY, arena, cpu_seconds, descendants, memory_kb, readable_python, trouble
from tests.audit.finding import Finding

PASSES = 5
WORKERS = 2
LEAST_RATE, MOST_MS = 100, 10
"""Grades a second of two workers on two idle cores, and CPU of one grade, that are claimed."""
MOST_GROWTH_KB = 2048
"""Memory the processes of a server may have gained after all attacks; its heap settles within the first of them."""


def report(data: Path) -> Iterator[Finding]:
    """Every line of it."""
    for part in (_benchmarks(data), _recorded(data), _cost(data), _attacks()):
        yield from part


def _benchmarks(data: Path) -> Iterator[Finding]:
    humaneval = load_benchmark("humaneval", "test", data)
    yield _line("HumanEval canonical solutions", _judged((row, row.solution or "") for row in humaneval), "correct")
    yield _line("HumanEval stubs", _judged((row, "    pass\n") for row in humaneval), "wrong")
    for name in ("mbpp", "mbpp_sanitized"):
        rows = [*load_benchmark(name, "train", data), *load_benchmark(name, "test", data)]
        yield _line(f"{name} gold solutions", _judged((row, row.solution or "") for row in rows), "correct")


def _recorded(data: Path) -> Iterator[Finding]:
    """Every recorded sample against the verdict published with it."""
    problems = {row.id: row for row in load_benchmark("humaneval", "test", data)}
    rows = read_jsonl(data / RECORDINGS["humaneval_samples"].file, CodeGenRow)
    verdicts = _judged((problems[row.task_id], row.completion) for row in rows)
    differ = [
        f"  differs: {row.task_id}: published {row.verdict}, judged {verdict.status} ({verdict.why})"
        for row, verdict in zip(rows, verdicts, strict=True)
        if (row.verdict == "passed") != (verdict.status == "correct")
        or (row.verdict == "timeout") != (verdict.status == "timeout")
    ]
    agree = f"{len(rows) - len(differ):,}/{len(rows):,} as published"
    yield Finding(f"CodeGen-16B samples: {agree}; {_counts(verdicts)}", not differ)
    empty = sum(verdict.status == "unparsed" for verdict in verdicts)
    blank = sum(not row.completion.strip() for row in rows)
    yield Finding(f"  of these {empty} unparsed: {blank} completions are blank, published as failed", empty == blank)
    yield from (Finding(text) for text in differ)


def _cost(data: Path) -> Iterator[Finding]:
    rows = load_benchmark("humaneval", "test", data)
    rates, costs = [], []
    with Judge(workers=WORKERS, timeout=30.0) as judge:
        for number in range(PASSES + 1):
            pairs = [(row, Said(f"{row.solution}\n# {number}\n")) for row in rows]
            before, begun = _cpu(judge), time.monotonic()
            statuses = Counter(verdict.status for verdict in judge.judge_many(pairs))
            assert statuses == {"correct": len(rows)}, statuses
            if number:  # the first pass starts the servers
                rates.append(len(rows) / (time.monotonic() - begun))
                costs.append(1000 * (_cpu(judge) - before) / len(rows))
        walls = judge.walls
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    yield Finding(
        f"grades: {min(rates):.0f}-{max(rates):.0f}/s, CPU {min(costs):.1f}-{max(costs):.1f} ms each, {PASSES} passes "
        f"of {len(rows)}, {WORKERS} workers, {os.cpu_count()} cores, load {load}; {walls}",
        max(rates) >= LEAST_RATE and min(costs) <= MOST_MS,  # the best pass: others share the machine
    )


def _cpu(judge: Judge) -> float:
    return time.process_time() + sum(cpu_seconds(server.process.pid) for server in judge._programs.idle)


def _attacks() -> Iterator[Finding]:
    for user in (None, NOBODY):
        who = f"uid {os.getuid() if user is None else user}"
        if user is not None and (os.getuid() != 0 or readable_python(user) is None):
            yield Finding(f"attacks as {who}: not run; takes root and an interpreter that others may run")
            continue
        for namespaced in (True, False):
            with arena() as place:
                crew = Crew(place.kind(namespaced=namespaced, user=user))
                corpus = place.attacks()
                found, kinds, memory = {}, Counter[str](), []
                for attack in corpus:
                    kinds[attack.kind] += 1
                    if said := trouble(attack, crew):
                        found[attack.name] = said
                    memory.append(
                        sum(memory_kb(each) for server in crew.idle for each in descendants(server.process.pid))
                    )
                crew.close()
                left = [*place.leftovers(), *(f"process {each}" for each in place.processes())]
            named = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
            yield Finding(
                f"attacks as {who}: {len(corpus) - len(found)}/{len(corpus)} contained ({named}); left behind: "
                f"{'; '.join(left) or 'nothing'}; servers started {crew.started}, "
                f"memory {memory[0] / 1024:.1f} to {memory[-1] / 1024:.1f} MB; {crew.layers}",
                not found and not left and crew.started == 1 and memory[-1] - memory[0] < MOST_GROWTH_KB,
            )
            yield from (Finding(f"  got through: {name}: {said}") for name, said in found.items())


def _judged(pairs: Iterable[tuple[Problem, str]]) -> list[Verdict]:
    with Judge(workers=WORKERS, timeout=30.0) as judge:
        return list(judge.judge_many((problem, Said(code)) for problem, code in pairs))


def _line(what: str, verdicts: list[Verdict], wanted: str) -> Finding:
    good = sum(verdict.status == wanted for verdict in verdicts)
    return Finding(f"{what}: {good:,}/{len(verdicts):,} {wanted}; {_counts(verdicts)}", good == len(verdicts))


def _counts(verdicts: list[Verdict]) -> str:
    counted = Counter(f"{verdict.status} {verdict.isolation or ''}".strip() for verdict in verdicts)
    return ", ".join(f"{count:,} {what}" for what, count in counted.most_common())


if __name__ == "__main__":
    for line in report(Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["DISTILL_DATA"])):
        print(line.text if line.holds else f"{line.text}   <-- DOES NOT HOLD", flush=True)
