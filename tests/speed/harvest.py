"""Traces a second of the mini recipe's harvest through our engine and through transformers' generate.

`python -m tests.speed.harvest` prints CSV. The miniature's trained teacher (`runs/mini/teacher`, made first when
it is not there; SPEED_TEACHER names another run folder of the recipe) answers problems of all families
and levels, two samples each, judged, as `[harvest]` of the recipe says; only the number of problems is smaller.
transformers opens the same folder as its own DeepseekV3ForCausalLM, with grouped_mm experts, and generates
through the sampler `transformers` in batches of several sizes. Both sides draw by one rule, so first their
traces are compared: ids, then texts; then yields, with 95% intervals over problems. Process time of the
harvest, judge and ledger included and loading not, best of `REPEATS`, the sides taking turns.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from cli.samplers import engine_sampler
from distill.harvest import HarvestConfig, harvest
from distill.intervals import Interval, mean_interval
from distill.jsonl import write_jsonl
from distill.judge import Judge
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.records import Problem, Trace, Verdict
from distill.sampling.engine import EngineSampler
from distill.sampling.generate import GenerateSampler
from distill.sampling.protocols import Sampler
from distill.selection import Selection, asking, read_problems, select
from students.loader import load_student

PROBLEMS, SAMPLES, REPEATS = 400, 2, 3
BATCHES = (16, 32, 64)
TABLE = {"problems": "problems", "model": "teacher", "samples": SAMPLES, "max_tokens": 200}
"""`[harvest]` of the recipe."""
QUIET = Progress("quiet")


SAME = 0.98
Found = dict[str, tuple[str, str, bool]]
"""By trace id: its problem, its text, and whether it is correct."""


def main() -> None:
    """One row a batch size."""
    torch.set_num_threads(1)
    runs = Path(os.environ.get("SPEED_TEACHER", "runs/mini"))
    folder = runs / "teacher"
    if not (folder / "manifest.json").is_file():
        command = [sys.executable, "-m", "cli.main", "run", "--recipe", "mini", "--to", "teacher", "--out", str(runs)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    config = HarvestConfig.model_validate(TABLE)
    problems = select(read_problems(runs / "problems"), Selection(limit=PROBLEMS), runs / "problems")
    ask = asking(config.instruction)
    engine = engine_sampler(folder, problems, ask, config.longest(), config.most_samples(), config)
    peer = load_student(folder)
    assert type(peer.model).__name__ == "DeepseekV3ForCausalLM", "the folder is to open as transformers' own"
    print(
        "recipe,batch,problems,traces,same_traces,engine_yield,engine_low,engine_high,peer_yield,peer_low,peer_high,"
        "engine_traces_per_cpu_second,peer_traces_per_cpu_second,ratio"
    )
    sides: dict[str, Sampler] = {"engine": engine}
    sides |= {str(batch): GenerateSampler(peer, name=folder.name, batch=batch) for batch in BATCHES}
    with Judge() as judge:
        found = {name: run(problems, config, sampler, judge)[0] for name, sampler in sides.items()}
        yields = {name: verified(problems, found[name]) for name in sides}
        for name in map(str, BATCHES):
            assert found[name].keys() == found["engine"].keys(), f"batch {name}: other ids"
            assert same(found[name], found["engine"]) > SAME, f"batch {name}: other traces"
            assert yields[name].low <= yields["engine"].value <= yields[name].high, f"batch {name}: another yield"
        best = dict.fromkeys(sides, 0.0)
        for _ in range(REPEATS):
            for name, sampler in sides.items():
                best[name] = max(best[name], len(found[name]) / run(problems, config, sampler, judge)[1])
    for name in map(str, BATCHES):
        one, other = yields["engine"], yields[name]
        told = ",".join(f"{value:.3f}" for side in (one, other) for value in (side.value, side.low, side.high))
        print(
            f"mini,{name},{len(problems)},{len(found[name])},{same(found[name], found['engine']):.3f},{told},"
            f"{best['engine']:.1f},{best[name]:.1f},{best['engine'] / best[name]:.1f}",
            flush=True,
        )


def run(problems: Sequence[Problem], config: HarvestConfig, sampler: Sampler, judge: Judge) -> tuple[Found, float]:
    """One harvest into a folder of its own, and its process time."""
    if isinstance(sampler, EngineSampler):
        sampler.engine.pool.forget()  # a second run must not find the prompts of the first
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        write_jsonl(out / "problems.jsonl", problems)
        begun = time.process_time()
        harvest(out, out, config, sampler=sampler, judge=judge, seed=0, progress=QUIET)
        seconds = time.process_time() - begun
        right = {row.trace_id: row.status == "correct" for row in read_ledger(out / "verdicts", Verdict)}
        traces = read_ledger(out / "traces", Trace)
        return {trace.id: (trace.problem_id, trace.text, right[trace.id]) for trace in traces}, seconds


def same(one: Found, other: Found) -> float:
    """Share of traces with the same text: two right programs part ways where two tokens are all but equally likely."""
    return sum(one[id_][1] == other[id_][1] for id_ in one) / len(one)


def verified(problems: Sequence[Problem], found: Found) -> Interval:
    """Correct traces a sample, over problems."""
    by_problem: dict[str, list[bool]] = {problem.id: [] for problem in problems}
    for name, _, right in found.values():
        by_problem[name].append(right)
    return mean_interval([sum(rows) / len(rows) for rows in by_problem.values()], SAMPLES)


if __name__ == "__main__":
    main()
